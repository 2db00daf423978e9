"""Doom: the wrapper that makes ViZDoom keep Gymnasium's rules about ends, last observations and actions.

Seen in vizdoom 1.3.2. The game's seed needs nothing: `reset(seed=...)` sets it, and one seed gives one game.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stillsight.envs.options import EnvOptions
from stillsight.envs.wrappers.rules import Step


class Doom(gym.Wrapper[Any, Any, Any, Any]):
    """A scenario whose ends are told apart and shown, and whose buttons are chosen by number.

    - The end of the clock is a truncation and no termination; vizdoom calls it both, and nobody would look beyond it.
    - The last observation of an episode, and its film, show the last frame of the game; vizdoom's is black.
    - Where a scenario also takes speeds (Deathmatch turns and looks by any number of degrees), these stay zero, and
      the action is the choice of buttons alone.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._speeds: spaces.Box | None = None
        if isinstance(env.action_space, spaces.Dict):
            self.action_space = env.action_space["binary"]
            speeds = env.action_space["continuous"]
            assert isinstance(speeds, spaces.Box)
            self._speeds = speeds
        self._last: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new game."""
        self._last, info = self.env.reset(seed=seed, options=options)
        return self._last, info

    def step(self, action: Any) -> Step:
        """Press the buttons of `action` for as many frames as the scenario was made with."""
        # vizdoom takes a 0-d array for the buttons themselves, and would press all of them.
        chosen = int(action) if isinstance(self.action_space, spaces.Discrete) else action
        if self._speeds is not None:
            assert self._speeds.shape is not None
            chosen = {"binary": chosen, "continuous": np.zeros(self._speeds.shape, np.float32)}
        observation, reward, over, truncated, info = self.env.step(chosen)
        if over:
            truncated = truncated and not self.get_wrapper_attr("game").is_player_dead()
            return self._last, reward, not truncated, truncated, info
        self._last = observation
        return observation, reward, False, False, info

    def render(self) -> NDArray[np.uint8]:
        """The frame that was last seen, uint8 `[H, W, C]`, at the game's own resolution."""
        screen: NDArray[np.uint8] = self._last["screen"]
        return screen


def play_by_the_rules(env: gym.Env[Any, Any], _options: EnvOptions) -> gym.Env[Any, Any]:
    """`env` as a `Doom`; vizdoom skips frames itself (see `doom.arguments`)."""
    return Doom(env)
