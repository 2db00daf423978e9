"""Guard: stops at the first reward or observation that is not what the environment promised."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from stillsight.envs.errors import EnvFault
from stillsight.envs.wrappers.parts import name, words
from stillsight.envs.wrappers.picture import ends
from stillsight.envs.wrappers.rules import Step, fresh

OURS = frozenset({"episode", "terminal_observation", "TimeLimit.truncated"})
"""What an info holds of an episode that ended, by SB3's names. Only what stands outside `Guard` may write them: SB3 and
the callbacks take an info with `episode` for the end of one."""

TOLERANCE = 0.5 / 255.0
"""How far floats may leave their bounds, as a part of the range: half a step of grey, which resizing reaches."""


class Part(NamedTuple):
    """A part of an observation that is looked at.

    Attributes:
        pick: from an observation to it.
        space: of it.
        image: whether it is one; else it is numbers.
        key: what it is called where there are several, for sentences; "" for the only one.
    """

    pick: Callable[[Any], Any]
    space: gym.Space[Any]
    image: bool = True
    key: str = ""


class Guard(gym.Wrapper[Any, Any, Any, Any]):
    """Lets steps through as they are, and raises `EnvFault` at the first that would teach an agent nonsense.

    A reward must be a finite number. The part of an observation that holds an image must be an array of its space's
    shape, of uint8 where the space is, and of numbers within its bounds where it is not (bytes cannot leave theirs).
    Numbers beside images must be of their space's shape and finite; they may leave its bounds, as angles and speeds do.
    It costs 2 microseconds a step for bytes, and a pass over the image for floats.

    An action that is an array is handed on as one of its own, for the agent's goes into a buffer. So is an info with
    what it holds, without what is not the environment's to say (`OURS`): an environment may give the same dict or array
    in every step, which a reset then changes before anybody has read the last one of an episode, and may count its own
    episodes under `episode`.
    """

    def __init__(self, env: gym.Env[Any, Any], parts: Sequence[Part]) -> None:
        """Args: `parts` of an observation are looked at, and nothing else of it is."""
        super().__init__(env)
        self._checks = [_image_check(part) if part.image else _numbers_check(part) for part in parts]
        self._steps = self._episode_steps = 0
        self._action: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with an observation that the space holds."""
        self._episode_steps = 0
        try:
            observation, info = self.env.reset(seed=seed, options=options)
        except SystemExit as stop:
            self._stop_exit(stop)
        except (AssertionError, TypeError, ValueError) as error:
            self._stop_misfit(error)
        self._check(observation)
        return observation, self._own(info)

    def step(self, action: Any) -> Step:
        """The environment's step."""
        self._steps += 1
        self._episode_steps += 1
        self._action = action
        try:
            observation, reward, terminated, truncated, info = self.env.step(fresh(action))
        except SystemExit as stop:
            self._stop_exit(stop)
        except (AssertionError, TypeError, ValueError) as error:
            self._stop_misfit(error)
        try:
            finite = math.isfinite(reward)
        except TypeError:
            finite = False
        if not finite:
            self._stop(f"its reward is {reward!r}, and rewards are finite numbers")
        self._check(observation)
        return observation, reward, terminated, truncated, self._own(info)

    def render(self) -> Any:
        """The environment's frame."""
        try:
            return self.env.render()
        except SystemExit as stop:
            self._stop_exit(stop)
        except (AssertionError, TypeError, ValueError) as error:
            self._stop_misfit(error)

    def _own(self, info: Any) -> dict[str, Any]:
        """What the environment says of itself, in dicts and arrays that are nobody else's."""
        if info is None:
            return {}
        if not isinstance(info, Mapping):
            self._stop(f"its info is {info!r:.60}, and infos are dicts")
        return {key: _own(value) for key, value in info.items() if key not in OURS}

    def _check(self, observation: Any) -> None:
        for check in self._checks:
            if (fault := check(observation)) is not None:
                self._stop(fault)

    def _stop_exit(self, stop: SystemExit) -> NoReturn:
        self._stop(f"it calls sys.exit({stop.code!r}), which would end the run as if it were finished")

    def _stop_misfit(self, error: Exception) -> NoReturn:
        """Raise `EnvFault` where Gymnasium or what it gives here says that the environment is not of its form, and the
        error itself where the environment raised it."""
        if not _of_gymnasium(error):
            raise error
        self._stop(f"it is no environment as Gymnasium has them ({type(error).__name__}: {error})")

    def _stop(self, fault: str) -> NoReturn:
        when = "at a reset"
        if self._episode_steps:
            when = f"in step {self._steps:,} (step {self._episode_steps:,} of its episode, after action {self._action})"
        raise EnvFault(
            f"{name(self)} broke its word {when}: {fault}. What is learned from then on would mean nothing: mend the "
            "environment."
        )


def _own(value: Any) -> Any:
    """A part of an info, in containers that the environment does not write into again."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: _own(part) for key, part in value.items()}
    return [_own(part) for part in value] if isinstance(value, list) else value


def _of_gymnasium(error: Exception) -> bool:
    """Whether an error was raised by what calls an environment: Gymnasium's wrappers and checks, or this file."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    place = "" if last is None else last.tb_frame.f_globals.get("__name__", "")
    return place == __name__ or (place.startswith("gymnasium.") and not place.startswith("gymnasium.envs."))


def _image_check(part: Part) -> Callable[[Any], str | None]:
    pick, space, which = part.pick, part.space, f" {part.key!r}" if part.key else ""
    assert isinstance(space, spaces.Box)
    assert space.dtype is not None
    shape, kind, is_bytes = space.shape, space.dtype.kind, space.dtype == np.uint8
    bounds = ends(space)
    assert bounds is not None, "what has other bounds in some places is no picture"
    low, high = bounds
    slack = TOLERANCE * (high - low) if kind == "f" else 0.0

    def check(observation: Any) -> str | None:
        try:
            image = pick(observation)
        except (KeyError, IndexError, TypeError) as error:
            return f"its observation has no image{which} where its space has one ({type(error).__name__}: {error})"
        if not isinstance(image, np.ndarray):
            return f"it observes a {type(image).__name__}, and its space says {words(space)}"
        alike = image.dtype == np.uint8 if is_bytes else image.dtype.kind == kind
        if not alike or image.shape != shape:
            return f"it observes {image.dtype} {list(image.shape)}, and its space says {words(space)}"
        if not is_bytes:
            least, most = float(image.min()), float(image.max())
            if not (least >= low - slack and most <= high + slack):  # which is so for nan, too
                if not (math.isfinite(least) and math.isfinite(most)):
                    return "its observation holds numbers that are not finite"
                return f"it observes values of {least:g}..{most:g}, and its space says {low:g}..{high:g}"
        return None

    return check


def _numbers_check(part: Part) -> Callable[[Any], str | None]:
    pick, space, key = part.pick, part.space, part.key

    def check(observation: Any) -> str | None:
        try:
            value = pick(observation)
        except (KeyError, IndexError, TypeError) as error:
            return f"its observation has no {key!r} where its space has it ({type(error).__name__}: {error})"
        if not isinstance(space, spaces.Box):
            told = f"its {key!r} is {value!r:.60}, and its space says {words(space)}"
            return None if space.contains(value) else told
        array = np.asarray(value)
        if array.shape != space.shape or array.dtype.kind not in "fiub":
            return f"its {key!r} is {array.dtype} {list(array.shape)}, and its space says {words(space)}"
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32)).all()
        return None if finite else f"its {key!r} holds numbers that are not finite, or too large for float32"

    return check
