"""CarRacing that draws only what is looked at: of the frames of a skip, the last.

Drawing is 97 % of a step of Gymnasium's environment (1.3), which draws every frame, those that a frame skip throws
away as well.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.box2d.car_racing import STATE_H, STATE_W, CarRacing
from numpy.typing import NDArray


class Racing(CarRacing):
    """The same game, whose `step` and `reset` return the picture of the last `draw`, uint8 `[96, 96, 3]`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drawn = np.zeros((STATE_H, STATE_W, 3), np.uint8)
        self._shown = 0.0

    def draw(self) -> NDArray[np.uint8]:
        """The game as it stands, uint8 `[96, 96, 3]`: what Gymnasium's own would have observed."""
        reward, self.reward = self.reward, self._shown
        self._drawn = super()._render("state_pixels")
        self.reward = reward
        return self._drawn

    def _render(self, mode: str) -> Any:
        if mode != "state_pixels":
            return super()._render(mode)
        self._shown = self.reward  # the picture's number: Gymnasium draws before it takes the frame's cost off
        return self._drawn.copy()  # Gymnasium's checker warns of observations that share their memory


class Drawn(gym.ObservationWrapper[NDArray[np.uint8], Any, Any]):
    """Observes a `Racing` as it stands; to be worn outside a frame skip."""

    def observation(self, observation: Any) -> NDArray[np.uint8]:
        """The picture of now in place of the last one drawn."""
        del observation
        game = self.env.unwrapped
        assert isinstance(game, Racing)
        return game.draw()
