"""Wrappers that change the rules of an episode rather than its picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from stillsight.envs.options import EnvOptions

Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


def fresh(action: Any) -> Any:
    """An action that an environment may scale or clip in place: a copy of an array; numbers cannot be changed."""
    return action.copy() if isinstance(action, np.ndarray) else action


class FrameSkip(gym.Wrapper[Any, Any, Any, Any]):
    """Repeats each action `frame_skip` times, adds up the rewards and stops early where the episode ends."""

    def __init__(self, env: gym.Env[Any, Any], frame_skip: int) -> None:
        super().__init__(env)
        self._frame_skip = frame_skip

    def step(self, action: Any) -> Step:
        """Up to `frame_skip` steps; observation, end and info are those of the last one."""
        total = 0.0
        for _ in range(self._frame_skip):
            observation, reward, terminated, truncated, info = self.env.step(fresh(action))
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def skip_frames(env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
    """`env` with each action repeated `options.frame_skip` times: the wrapping of a suite that has none of its own."""
    return FrameSkip(env, options.frame_skip) if options.frame_skip > 1 else env


def as_it_is(env: gym.Env[Any, Any], _options: EnvOptions) -> gym.Env[Any, Any]:
    """`env` itself: the wrapping of a suite whose environments repeat actions themselves."""
    return env


class LifeLoss(gym.Wrapper[Any, Any, Any, Any]):
    """Ends an episode where an Atari game loses a life, without ending the game.

    It stands outside `Monitor`, which therefore still counts whole games. A reset after a lost life plays one no-op; a
    reset with a seed or options, or after the game's own end, starts a new game. So does one whose no-op ends the game:
    nobody reads the info of that step, and what `Monitor` says of the game (`episode`) stands in that of the next one.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._lives = 0
        self._game_goes_on = False
        self._unread: dict[str, Any] | None = None

    def step(self, action: Any) -> Step:
        """As the game, but terminated when a life is gone."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        lives = info["lives"]
        # Qbert shows 0 lives for some frames before the game is over; only a life that leaves others ends an episode.
        self._game_goes_on = 0 < lives < self._lives and not (terminated or truncated)
        self._lives = lives
        if self._unread is not None and "episode" not in info:
            info["episode"], self._unread = self._unread, None
        return observation, reward, terminated or self._game_goes_on, truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The next life of the same game, or a new game."""
        if self._game_goes_on and seed is None and options is None:
            self._game_goes_on = False
            observation, _, terminated, truncated, info = self.env.step(0)
            if not (terminated or truncated):
                self._lives = info["lives"]
                return observation, info
            self._unread = info.get("episode")
        self._game_goes_on = False
        observation, info = self.env.reset(seed=seed, options=options)
        self._lives = info["lives"]
        return observation, info

    def snapshot(self) -> dict[str, Any]:
        """What it keeps from one step to the next, see `state.save_state`."""
        return {"_lives": self._lives, "_game_goes_on": self._game_goes_on, "_unread": self._unread}

    def restore_snapshot(self, values: Mapping[str, Any]) -> None:
        """Put it back."""
        self._lives, self._game_goes_on = int(values["_lives"]), bool(values["_game_goes_on"])
        unread = values.get("_unread")  # which states of before that was kept have not
        self._unread = None if unread is None else {key: unread[key] for key in ("r", "l", "t")}


def sign(reward: SupportsFloat) -> float:
    """-1, 0 or 1: the reward that Atari agents learn from, so that one learning rate suits all games."""
    return float(np.sign(float(reward)))
