"""Seconds that steps of environments take under random actions: what is measured wherever ways to step are compared."""

from __future__ import annotations

import time
from typing import Any, Protocol

from stillsight.envs.random_play import random_play

LEAST = 5
"""Steps of all environments that are timed at least."""


class Steps(Protocol):
    """What is timed: a VecEnv, or what can be stepped like one."""

    num_envs: int
    action_space: Any

    def reset(self) -> Any:
        """Begin."""

    def step(self, actions: Any, /) -> Any:
        """A step of all environments."""

    def has_attr(self, attr_name: str, /) -> bool:
        """Whether every environment has it."""

    def env_method(self, method_name: str, /) -> list[Any]:
        """What a method of each returns."""


def step_times(venv: Steps, seconds: float) -> list[float]:
    """Seconds of each step of all environments together, over `seconds` and `LEAST` steps at least, from a reset on.

    Drawing the actions does not count; episodes that begin anew within a step do.
    """
    venv.reset()
    times: list[float] = []
    draw = random_play(venv)
    until = time.perf_counter() + seconds
    while len(times) < LEAST or time.perf_counter() < until:
        actions = draw()
        began = time.perf_counter()
        venv.step(actions)
        times.append(time.perf_counter() - began)
    return times
