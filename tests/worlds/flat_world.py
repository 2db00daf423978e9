"""Flat: a grey picture without a scene, an image to render or randomisation; `flat_world:Flat`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Flat(gym.Env[Any, Any]):
    """A grey picture."""

    observation_space, action_space = spaces.Box(0, 255, (24, 32, 3), np.uint8), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.full((24, 32, 3), 50, np.uint8), {}
