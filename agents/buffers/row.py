"""RowSpace: the space of observations whose frames are rows: what several images give, and a state behind it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor


class RowSpace(spaces.Box):
    """Box `[frames, width]`: each frame is one row, so that whatever stacks, stores and samples frames knows no parts.

    A row holds what each image gives, flattened, and the numbers of the state. Where images are pixels, a row is of
    bytes, among them those of the float32 of the state: both are kept as they are, to the bit. Stable-Baselines3 makes
    floats of bytes, and `split` bytes of these again.

    Args:
        frames: in a stack.
        images: of a frame.
        shape: of what one of them gives, its features say; () for a single number.
        state: numbers beside them.
        dtype: of a row, float32 or uint8.
    """

    def __init__(self, frames: int, images: int, shape: tuple[int, ...], state: int, dtype: Any) -> None:
        self.images, self.part, self.state = images, tuple(shape), state
        self.of_bytes = np.dtype(dtype) == np.uint8
        self.seen = images * math.prod(shape)
        low, high = (0.0, 255.0) if self.of_bytes else (-np.inf, np.inf)
        super().__init__(low, high, (frames, row_width(images, self.part, state, dtype)), np.dtype(dtype).type)

    @property
    def exact(self) -> int:
        """Numbers at the end of a row that are kept in full precision where features are not."""
        return 0 if self.of_bytes else self.state

    def join(self, seen: np.ndarray, state: np.ndarray) -> np.ndarray:
        """What images give `[N, images, *shape]` and states `[N, state]` -> rows `[N, width]`."""
        numbers = np.ascontiguousarray(state, np.float32)
        if self.of_bytes:
            numbers = numbers.view(np.uint8)
        rows: np.ndarray = np.concatenate([seen.reshape(len(state), -1), numbers], axis=1, dtype=self.dtype)
        return rows

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows `[..., width]` -> what images give `[..., images, *shape]`, and states `[..., state]`."""
        seen, state = rows[..., : self.seen], rows[..., self.seen :]
        if self.of_bytes and self.state:
            state = state.to(torch.uint8, copy=True, memory_format=torch.contiguous_format).view(torch.float32)
        return seen.unflatten(-1, (self.images, *self.part)), state


def row_width(images: int, shape: tuple[int, ...], state: int, dtype: Any) -> int:
    """Numbers of a row, see `RowSpace`; nothing is allocated."""
    size = np.dtype(np.float32).itemsize if np.dtype(dtype) == np.uint8 else 1
    return images * math.prod(shape) + state * size


def exact_numbers(space: spaces.Space[Any]) -> int:
    """Numbers at the end of each frame of a space that are kept in full precision, see `RowSpace.exact`."""
    return space.exact if isinstance(space, RowSpace) else 0
