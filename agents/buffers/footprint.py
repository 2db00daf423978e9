"""Memory footprint of replay, rollouts and frame stacks: arrays, their bytes, and a refusal of what would not fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from stillsight.agents.buffers.row import exact_numbers
from stillsight.agents.errors import RunError
from stillsight.encoders.device import available_memory

Layout = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]

FRAME_NUMBER = np.dtype(np.int32)
"""How a `FrameRolloutBuffer` keeps the number of a frame in its pool."""


def replay_layout(
    space: spaces.Box, buffer_size: int, dtype: str, actions: spaces.Space[Any] | None = None, n_envs: int = 1
) -> Layout:
    """Shape and dtype of every array of a `FrameReplayBuffer`, by name; nothing is allocated.

    Args:
        space, buffer_size, dtype, n_envs: as the buffer takes them.
        actions: their space; without it, one integer an action.
    """
    count, *frame = space.shape
    exact = exact_numbers(space)
    if exact:
        frame[-1] -= exact
    # The smallest ring in which a transition does not overwrite its own history.
    ring = (max(buffer_size // n_envs, count + 2), n_envs)
    width, number = (1, np.dtype(np.int64)) if actions is None else (get_action_dim(actions), actions.dtype)
    arrays: dict[str, tuple[tuple[int, ...], Any]] = {
        "frames": ((*ring, *frame), np.uint8 if space.dtype == np.uint8 else dtype),
        # MPS has no float64, and no algorithm needs it.
        "actions": ((*ring, width), np.float32 if number == np.float64 else number),
        "rewards": (ring, np.float32),
        "dones": (ring, np.float32),
        # Frames of its episode before it, counted to count - 1.
        "ages": (ring, np.int16 if count <= np.iinfo(np.int16).max else np.int32),
        "valid": (ring, np.bool_),  # a whole transition leaves this slot
        "heads": ((n_envs,), np.int64),  # next slot to be written
        "newest": ((n_envs,), np.int64),  # slot of the newest frame
        "after": ((n_envs, *space.shape), space.dtype),  # the observation that ends there: with it an episode goes on
    }
    if exact:  # the end of each frame, in full precision
        arrays["vectors"] = ((*ring, exact), space.dtype)
    return {name: (shape, np.dtype(kind)) for name, (shape, kind) in arrays.items()}


def needed_bytes(
    space: spaces.Space[Any], buffer_size: int, dtype: str, actions: spaces.Space[Any] | None = None, n_envs: int = 1
) -> int:
    """Memory of a `FrameReplayBuffer` in bytes, with everything that it holds; the arguments are those of `layout`."""
    assert isinstance(space, spaces.Box)
    return _bytes(replay_layout(space, buffer_size, dtype, actions, n_envs))


def rollout_layout(
    space: spaces.Box, n_steps: int, actions: spaces.Space[Any], n_envs: int = 1, *, pooled: bool = True
) -> Layout:
    """Shape and dtype of every array of a rollout buffer, by name; nothing is allocated.

    Args:
        space, actions, n_envs: as the buffer takes them.
        n_steps: steps of one environment in a rollout.
        pooled: of a `FrameRolloutBuffer`, else of SB3's own.
    """
    count, *frame = space.shape
    steps = (n_steps, n_envs)
    arrays: dict[str, tuple[tuple[int, ...], Any]] = {
        "observations": ((*steps, *space.shape), space.dtype),
        "actions": ((*steps, get_action_dim(actions)), actions.dtype),
        **dict.fromkeys(
            ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages"), (steps, np.float32)
        ),
    }
    if pooled:
        arrays["frames"] = ((n_envs * (n_steps + count - 1), *frame), space.dtype)
        arrays["observations"] = ((*steps, count), FRAME_NUMBER)
    return {name: (shape, np.dtype(kind)) for name, (shape, kind) in arrays.items()}


def rollout_bytes(
    space: spaces.Box, n_steps: int, actions: spaces.Space[Any], n_envs: int = 1, *, pooled: bool = True
) -> int:
    """Memory of a rollout buffer in bytes; the arguments are those of `rollout_layout`."""
    return _bytes(rollout_layout(space, n_steps, actions, n_envs, pooled=pooled))


def check_rollout(
    space: spaces.Box, n_steps: int, actions: spaces.Space[Any], n_envs: int = 1, *, pooled: bool = True, extra: int = 0
) -> None:
    """Refuse a rollout buffer that would not fit, before it is taken.

    Args:
        space, n_steps, actions, n_envs, pooled: as `rollout_layout` takes them.
        extra: float32 numbers that the buffer keeps of every step beside those, as recurrent states and masks.

    Raises:
        RunError: see `check_memory`.
    """
    # The first stacks bring all of their frames, however few steps follow.
    needed, history = (rollout_bytes(space, steps, actions, n_envs, pooled=pooled) for steps in (n_steps, 0))
    needed += 4 * extra * n_steps * n_envs
    check_memory(needed, n_steps, what="rollout memory", flag="--set n_steps=", fixed=history)


def batch_bytes(space: spaces.Box, batch_size: int) -> int:
    """Memory in bytes of a batch of transitions as it is sampled: frames gathered, and their copy in float32."""
    count, *frame = space.shape
    return batch_size * (count + 1) * math.prod(frame) * (np.dtype(space.dtype).itemsize + 4)


def head_bytes(inputs: int, units: int) -> int:
    """Memory in bytes of a linear layer that learns: weights, gradients and Adam's two moments, float32."""
    return 16 * (inputs + 1) * units


def stack_bytes(count: int, frame: tuple[int, ...], dtype: np.dtype[Any], n_envs: int = 1) -> int:
    """Memory in bytes of stacks `[n_envs, count, *frame]`: the stacks, the copy that is observed, and their space.

    A `spaces.Box` holds the bounds of every number in arrays of its dtype, and two truth values of each.
    """
    return math.prod((count, *frame)) * (2 * n_envs * dtype.itemsize + 2 * dtype.itemsize + 2)


def _bytes(arrays: Layout) -> int:
    return sum(math.prod(shape) * kind.itemsize for shape, kind in arrays.values())


def check_memory(
    needed: int,
    slots: int,
    free: int | None = None,
    *,
    what: str = "replay memory",
    flag: str = "--set buffer_size=",
    fewer: str = "--pooling, --tap",
    fixed: int = 0,
    least: int = 1,
) -> None:
    """Refuse memory that would not fit, before it is taken.

    Args:
        needed: bytes.
        slots: by which it grows: `buffer_size`, steps of a rollout, frames of a stack.
        free: bytes; by default what this machine can give now, as far as it says so.
        what: that needs it.
        flag, fewer: how a person sets `slots`, and the features of a frame.
        fixed: bytes of `needed` that fewer slots do not save.
        least: slots below which fewer save nothing.

    Raises:
        RunError: it does not fit; with the flag that makes it fit.
    """
    free = available_memory() if free is None else free
    if free is None or needed <= 0.9 * free:
        return
    fits = int(slots * (0.8 * free - fixed) / max(needed - fixed, 1))
    # Too few slots remain where it is the length of a stack that takes the memory.
    advice = f"{flag}{fits}" if fits >= least else "a smaller --frame-stack"
    raise RunError(
        f"The {what} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB is free. "
        f"Type {advice}, or take fewer features ({fewer})."
    )
