"""What a replay memory takes: its arrays, their bytes, and the refusal of what would not fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from stillsight.agents.errors import RunError
from stillsight.encoders.device import available_memory

Layout = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


def layout(
    space: spaces.Box, buffer_size: int, dtype: str, actions: spaces.Space[Any] | None = None, n_envs: int = 1
) -> Layout:
    """Shape and dtype of every array of a `FrameReplayBuffer`, by name; nothing is allocated.

    Args:
        space, buffer_size, dtype, n_envs: as the buffer takes them.
        actions: their space; without it, one integer an action.
    """
    count, *frame = space.shape
    # The smallest ring in which a transition does not overwrite its own history.
    ring = (max(buffer_size // n_envs, count + 2), n_envs)
    width, number = (1, np.dtype(np.int64)) if actions is None else (get_action_dim(actions), actions.dtype)
    arrays: dict[str, tuple[tuple[int, ...], Any]] = {
        "frames": ((*ring, *frame), np.uint8 if space.dtype == np.uint8 else dtype),
        # MPS has no float64, and no algorithm needs it.
        "actions": ((*ring, width), np.float32 if number == np.float64 else number),
        "rewards": (ring, np.float32),
        "dones": (ring, np.float32),
        "ages": (ring, np.int16),  # frames of its episode before it, counted to count - 1
        "valid": (ring, np.bool_),  # a whole transition leaves this slot
        "heads": ((n_envs,), np.int64),  # next slot to be written
        "newest": ((n_envs,), np.int64),  # slot of the newest frame
        "after": ((n_envs, *space.shape), space.dtype),  # the observation that ends there: with it an episode goes on
    }
    return {name: (shape, np.dtype(kind)) for name, (shape, kind) in arrays.items()}


def needed_bytes(
    space: spaces.Space[Any], buffer_size: int, dtype: str, actions: spaces.Space[Any] | None = None, n_envs: int = 1
) -> int:
    """Memory of a `FrameReplayBuffer` in bytes, with everything that it holds; the arguments are those of `layout`."""
    assert isinstance(space, spaces.Box)
    arrays = layout(space, buffer_size, dtype, actions, n_envs).values()
    return sum(math.prod(shape) * kind.itemsize for shape, kind in arrays)


def check_memory(
    needed: int,
    slots: int,
    free: int | None = None,
    *,
    flag: str = "--set buffer_size=",
    fewer: str = "--pooling, --tap",
) -> None:
    """Refuse a replay memory that would not fit, before it is taken.

    Args:
        needed: bytes.
        slots: `buffer_size`.
        free: bytes; by default what this machine can give now, as far as it says so.
        flag, fewer: how a person sets `slots`, and the features of a frame.

    Raises:
        RunError: it does not fit; with the flag that makes it fit.
    """
    free = available_memory() if free is None else free
    if free is not None and needed > 0.9 * free:
        fits = int(slots * 0.8 * free / needed)
        raise RunError(
            f"The replay memory needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB is free. "
            f"Type {flag}{fits}, or take fewer features ({fewer})."
        )
