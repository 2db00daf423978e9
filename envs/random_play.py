"""Random play: an action of each environment's space, drawn among those that the environment allows, and not by the
game's own luck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

MASKS = "action_masks"
"""Name of the method by which an environment says which actions are allowed, as sb3-contrib's MaskablePPO asks it."""

ACTIONS = 0x5EED_AC71
"""Sets the seeds of action spaces apart from those of games."""


def action_seed(seed: int) -> int:
    """What to seed the action space of an environment with that is seeded with `seed`: 0 to 2**32 - 1.

    Gymnasium makes the same generator of the same number for a game and for its action space. With one seed for both,
    a game that draws once a step draws what was just drawn as the action: random play would guess every toss of a coin.
    """
    return int(np.random.SeedSequence((seed, ACTIONS)).generate_state(1)[0])


def random_play(venv: Any) -> Callable[[], np.ndarray]:
    """What gives a random action of each environment, `[n_envs, ...]`, each time that it is called.

    Where the environments say by `action_masks()` what is allowed, it is one of these. The draws come from
    `venv.action_space`, which `make_vec` seeds, see `action_seed`.
    """
    space = venv.action_space
    if not venv.has_attr(MASKS):
        return lambda: np.array([space.sample() for _ in range(venv.num_envs)])
    return lambda: np.array([sample(space, mask) for mask in venv.env_method(MASKS)])


def sample(space: spaces.Space[Any], allowed: Any = None) -> Any:
    """A random element of `space` that `allowed`, bool as `MaskablePPO` takes it, allows; any where it is None."""
    if allowed is None:
        return space.sample()
    mask = np.asarray(allowed, bool)
    if isinstance(space, spaces.MultiDiscrete):
        ends = np.cumsum(space.nvec)[:-1]
        return space.sample(tuple(part.astype(np.int8) for part in np.split(mask, ends)))
    if isinstance(space, spaces.MultiBinary):  # no, yes of each; Gymnasium: 0 no, 1 yes, 2 either
        no, yes = mask.reshape(-1, 2).T
        return space.sample(np.where(no & yes, 2, yes).astype(np.int8).reshape(space.shape))
    if isinstance(space, spaces.Discrete):
        return space.sample(mask.astype(np.int8))
    return space.sample()
