"""Drawn: observes random arrays of a space that is drawn from a number, and ends now and then."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

KINDS = (np.uint8, np.float32, np.float64, np.int16, np.bool_)


def drawn_space(number: int) -> spaces.Space[Any]:
    """A Box, or a Dict of up to four Boxes, of any dtype, with 0 to 3 axes of 0 to 5."""
    rng = np.random.default_rng(number)

    def box() -> spaces.Box:
        shape = tuple(int(side) for side in rng.integers(0, 6, rng.integers(0, 4)))
        kind = KINDS[rng.integers(len(KINDS))]
        return spaces.Box(0, 1, shape, kind)

    parts = int(rng.integers(0, 5))
    return box() if parts == 0 else spaces.Dict({f"part {i}": box() for i in range(parts)})


class Drawn(gym.Env[Any, Any]):
    """Args: `number` of the space, see `drawn_space`."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space = spaces.Discrete(3)

    def __init__(self, number: int) -> None:
        self.observation_space = drawn_space(number)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {"begun": int(self.np_random.integers(1000))}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        terminated, truncated = (bool(each) for each in self.np_random.random(2) < 0.2)
        info = {"drawn": int(self.np_random.integers(1000))}
        return self.observation_space.sample(), float(action), terminated, truncated, info
