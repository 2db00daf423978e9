"""Numbers: which parts of an observation are a vector, and how each is read as float32 `[D]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]

MOST_NUMBERS = 65_536
"""Numbers that a vector may have: an image of 256 x 256 of one channel."""


class Numbers(NamedTuple):
    """A vector as a space holds it.

    Attributes:
        width: how many numbers.
        read: from an element of the space to float32 `[width]`, memory of its own.
        changes: what is done to them, in words; "" for nothing.
    """

    width: int
    read: Callable[[Any], Floats]
    changes: str = ""


def read_numbers(space: gym.Space[Any]) -> Numbers | None:
    """How to read a space as a vector, None where it holds no numbers: arrays in the order of their memory, choices as
    a 1 among zeros."""
    if isinstance(space, spaces.Box) and 0 in space.shape:
        return None
    if isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind in "fiub":
        return Numbers(int(np.prod(space.shape)), lambda array: np.array(array, np.float32).reshape(-1))
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        changes = "" if isinstance(space, spaces.MultiBinary) else "a number for each choice, 0 or 1"
        return Numbers(flatdim(space), lambda value: np.asarray(flatten(space, value), np.float32).reshape(-1), changes)
    return None
