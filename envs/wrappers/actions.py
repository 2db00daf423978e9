"""Action spaces as agents know them: choices counted from 0, and what kind of actions a space has."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stillsight.envs.spec import Actions


def kind(space: gym.Space[Any]) -> Actions:
    """What kind of actions a space has; "unknown" for Tuple, Dict and other spaces that no SB3 algorithm acts in."""
    if isinstance(space, spaces.Discrete):
        return "discrete"
    if isinstance(space, spaces.MultiDiscrete):
        return "multi-discrete"
    if isinstance(space, spaces.MultiBinary):
        return "multi-binary"
    return "continuous" if isinstance(space, spaces.Box) else "unknown"


def objection(space: gym.Space[Any]) -> str | None:
    """Why no algorithm can act in a space, whatever it is, as the end of a sentence, or None if some can."""
    if kind(space) == "unknown":
        return f"has actions {space}, which are several at once or of no form that SB3 knows"
    if isinstance(space, spaces.Box):
        if space.dtype is None or space.dtype.kind != "f":
            return f"has a Box of whole numbers as actions ({space}), between which an agent would act"
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            return f"has actions without bounds ({space}), and agents act between bounds"
    if isinstance(space, spaces.MultiBinary | spaces.MultiDiscrete) and len(space.shape) != 1:
        return f"has a table of choices as actions ({space}), where agents make a row of them"
    return None


def offset(space: gym.Space[Any]) -> int | NDArray[np.integer[Any]]:
    """The first choice of a space, Discrete's and MultiDiscrete's `start`; 0 for all others."""
    if isinstance(space, spaces.Discrete):
        return int(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start
    return 0


class FromZero(gym.ActionWrapper[Any, Any, Any]):
    """An environment whose choices are counted from 0, as SB3 counts them whatever a space says.

    Outside, `Discrete(n)` and `MultiDiscrete(nvec)` start at 0; the environment gets what its own space holds.

    Attributes:
        action_offset: what is added to an action on its way in, an int or one for each choice.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        own = env.action_space
        self.action_offset = offset(own)
        if isinstance(own, spaces.Discrete):
            self.action_space = spaces.Discrete(int(own.n))
        else:
            assert isinstance(own, spaces.MultiDiscrete)
            self.action_space = spaces.MultiDiscrete(own.nvec)
        oracle = getattr(env, "oracle_action", None) or getattr(env.unwrapped, "oracle_action", None)
        if oracle is not None:  # as an attribute, so that only an environment with an oracle shows one
            self.oracle_action = lambda: oracle() - self.action_offset

    def action(self, action: Any) -> Any:
        """An action of the agent as the environment's own."""
        if isinstance(self.env.action_space, spaces.Discrete):
            return int(action) + self.action_offset
        return np.asarray(action) + self.action_offset


class Bits(gym.ActionWrapper[Any, Any, Any]):
    """An environment of MultiBinary actions, which gets its space's bytes and not the floats that SB3 draws."""

    def action(self, action: Any) -> NDArray[np.int8]:
        """An action of the agent as the environment's own."""
        return np.asarray(action).astype(np.int8)


def counted_from_zero(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """`env` as agents act in it: wrapped only where its own space would be misread."""
    if np.any(offset(env.action_space) != 0):
        return FromZero(env)
    return Bits(env) if isinstance(env.action_space, spaces.MultiBinary) else env
