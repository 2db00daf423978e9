"""Crafter: the game of the package `crafter`, whose interface is older than Gymnasium's, as a Gymnasium environment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stillsight.envs.wrappers.rules import Step

FILM = 256
"""Side in pixels of a frame to film."""


class Ordered:
    """A set that is gone through in the order in which it was filled.

    crafter keeps creatures in Python's sets, whose order follows addresses in memory, and draws one of them by number:
    the same seed gave another game in another process.
    """

    def __init__(self) -> None:
        self._things: dict[Any, None] = {}

    def add(self, thing: Any) -> None:
        """Put one in, last."""
        self._things[thing] = None

    def remove(self, thing: Any) -> None:
        """Take one out."""
        del self._things[thing]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)


class Crafter(gym.Env[NDArray[np.uint8], Any]):
    """The game, step by step as crafter plays it, with death told from the end of the clock, and one game for a seed.

    The game's number is drawn from the environment's own generator at each reset. `info` has crafter's `inventory` and
    `achievements` (how often each was reached).

    Args:
        reward: whether there are rewards.
        size: side in pixels of an observation, uint8 `[size, size, 3]`.
        length: steps after which an episode is truncated; 0 for none.
        render_mode: "rgb_array".
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, *, reward: bool = True, size: int = 64, length: int = 10_000, render_mode: str = "rgb_array"
    ) -> None:
        import crafter

        self.render_mode = render_mode
        self._game = crafter.Env(size=(size, size), reward=reward, length=length, seed=0)
        self.max_steps = length
        world = self._game._world
        reset = world.reset

        def reset_in_order(seed: int | None = None) -> None:
            reset(seed)
            world._chunks = defaultdict(Ordered)

        world.reset = reset_in_order
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self._game.action_names))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """A new world."""
        super().reset(seed=seed, options=options)
        self._game._seed, self._game._episode = int(self.np_random.integers(2**31 - 1)), 0
        return self._game.reset(), {}

    def step(self, action: Any) -> Step:
        """Crafter's step."""
        observation, reward, over, info = self._game.step(int(action))
        dead = info["discount"] == 0.0
        told = {name: info[name] for name in ("inventory", "achievements")}
        return observation, float(reward), dead, bool(over) and not dead, told

    def render(self) -> NDArray[np.uint8]:
        """A frame to film, uint8 `[FILM, FILM, 3]`. It leaves the game's luck as it is, of which crafter draws the
        grain of the night, once a pixel: a game that is filmed would be another one, and so is one of another size."""
        own, self._game._size = self._game._size, np.array((FILM, FILM))  # what it is given it cannot read
        luck = self._game._world.random
        kept = luck.get_state()
        try:
            frame: NDArray[np.uint8] = self._game.render()
        finally:
            self._game._size = own
            luck.set_state(kept)
        return frame
