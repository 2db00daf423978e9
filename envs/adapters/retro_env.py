"""Retro: a game of stable-retro as Gymnasium expects one: how it is made, and what rewards and seeds are."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from stillsight.envs.wrappers.rules import Step


class Retro(gym.Env[NDArray[np.uint8], Any]):
    """A game. The emulator draws no random numbers: every episode begins with the same frame, whatever the seed.

    Args:
        game: "Airstriker-Genesis-v0".
        actions: "filtered" buttons side by side (MultiBinary); "discrete" for one choice of buttons at a time;
            "multi-discrete"; "all" buttons, Start and what it pauses included.
        state: where the game begins, by the name of one of its saved states; "" for its own choice.
        render_mode: "rgb_array".
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 60}  # noqa: RUF012

    def __init__(
        self, game: str, *, actions: str = "filtered", state: str = "", render_mode: str = "rgb_array"
    ) -> None:
        import stable_retro

        self.render_mode = render_mode
        self._game = stable_retro.make(
            game,
            **({"state": state} if state else {}),
            use_restricted_actions=stable_retro.Actions[actions.upper().replace("-", "_")],
            render_mode="rgb_array",
        )
        self.observation_space, self.action_space = self._game.observation_space, self._game.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """The game from the beginning."""
        super().reset(seed=seed, options=options)
        observation, info = self._game.reset(seed=seed, options=options)
        return observation, info

    def step(self, action: Any) -> Step:
        """A frame."""
        observation, reward, terminated, truncated, info = self._game.step(action)
        return observation, float(reward), bool(terminated), bool(truncated), info

    def render(self) -> NDArray[np.uint8]:
        """The screen."""
        frame: NDArray[np.uint8] = self._game.render()
        return frame

    def close(self) -> None:
        """Free the emulator, of which a process has one."""
        self._game.close()
