"""Guard: stops at the first reward or observation that is not what the environment promised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from stillsight.envs.errors import EnvFault
from stillsight.envs.wrappers.rules import Step
from stillsight.envs.wrappers.sight import name, words

TOLERANCE = 0.5 / 255.0
"""How far floats may leave their bounds, as a part of the range: half a step of grey, which resizing reaches."""


class Guard(gym.Wrapper[Any, Any, Any, Any]):
    """Lets steps through as they are, and raises `EnvFault` at the first that would teach an agent nonsense.

    A reward must be a finite number. The part of an observation that holds the image must be an array of its space's
    shape, of uint8 where the space is, and of numbers within its bounds where it is not (bytes cannot leave theirs).
    It costs 2 microseconds a step for bytes, and a pass over the image for floats.
    """

    def __init__(self, env: gym.Env[Any, Any], pick: Callable[[Any], Any], space: spaces.Box) -> None:
        """Args: `pick` finds the image's array in an observation; `space` is that array's."""
        super().__init__(env)
        assert space.dtype is not None
        self._pick, self._space, self._shape, self._dtype = pick, space, space.shape, space.dtype
        self._bytes = space.dtype == np.uint8
        low, high = float(space.low.min()), float(space.high.max())
        slack = TOLERANCE * (high - low) if space.dtype.kind == "f" else 0.0
        self._low, self._high = low - slack, high + slack
        self._steps = self._episode_steps = 0
        self._action: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with an observation that the space holds."""
        self._episode_steps = 0
        try:
            observation, info = self.env.reset(seed=seed, options=options)
        except SystemExit as stop:
            self._stop_exit(stop)
        self._check(observation)
        return observation, info

    def step(self, action: Any) -> Step:
        """The environment's step."""
        self._steps += 1
        self._episode_steps += 1
        self._action = action
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except SystemExit as stop:
            self._stop_exit(stop)
        try:
            finite = math.isfinite(reward)
        except TypeError:
            finite = False
        if not finite:
            self._stop(f"its reward is {reward!r}, and rewards are finite numbers")
        self._check(observation)
        return observation, reward, terminated, truncated, info

    def _check(self, observation: Any) -> None:
        try:
            image = self._pick(observation)
        except (KeyError, IndexError, TypeError) as error:
            self._stop(f"its observation has no image where its space has one ({type(error).__name__}: {error})")
        if not isinstance(image, np.ndarray):
            self._stop(f"it observes a {type(image).__name__}, and its space says {words(self._space)}")
        alike = image.dtype == np.uint8 if self._bytes else image.dtype.kind == self._dtype.kind
        if not alike or image.shape != self._shape:
            self._stop(f"it observes {image.dtype} {list(image.shape)}, and its space says {words(self._space)}")
        if not self._bytes:
            least, most = float(image.min()), float(image.max())
            if not (least >= self._low and most <= self._high):  # which is so for nan, too
                if not (math.isfinite(least) and math.isfinite(most)):
                    self._stop("its observation holds numbers that are not finite")
                low, high = self._space.low.min(), self._space.high.max()
                self._stop(f"it observes values of {least:g}..{most:g}, and its space says {low:g}..{high:g}")

    def _stop_exit(self, stop: SystemExit) -> NoReturn:
        self._stop(f"it calls sys.exit({stop.code!r}), which would end the run as if it were finished")

    def _stop(self, fault: str) -> NoReturn:
        when = "at a reset"
        if self._episode_steps:
            when = f"in step {self._steps:,} (step {self._episode_steps:,} of its episode, after action {self._action})"
        raise EnvFault(
            f"{name(self)} broke its word {when}: {fault}. What is learned from then on would mean nothing: mend the "
            "environment."
        )
