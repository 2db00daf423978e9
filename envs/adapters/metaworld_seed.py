"""SeededTasks: a task of Meta-World whose places of things are drawn by the seed of its reset."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.utils import seeding

from stillsight.envs.adapters.own_context import draw_in_own_context
from stillsight.envs.options import EnvOptions


class SeededTasks(gym.Wrapper[Any, Any, Any, Any]):
    """Gives the generator of the bare environment the seed of a reset, which Meta-World (3.1) ignores.

    Which of the fifty places of things an episode has is drawn by that generator, from those that the environment was
    made with (its argument `seed`).
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new episode; with a seed, the same one each time."""
        if seed is not None:
            bare: Any = self.env.unwrapped
            bare.np_random, _ = seeding.np_random(seed)
            bare.goal_space.seed(seed)
        return self.env.reset(seed=seed, options=options)


def draw_seeded(env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
    """`env` as a `SeededTasks` in its own context, its frames skipped."""
    return draw_in_own_context(SeededTasks(env), options)
