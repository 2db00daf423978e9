"""Distinct frames of a batch: neighbouring stacks share frames, and each needs to be encoded only once."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

WORTH = 0.9
"""Share of distinct frames above which nothing is saved: to take them out and to put them back takes some time."""
NEAR = 1e-5
"""Difference of two projections, as a share of the largest one, up to which float32 may have rounded them apart."""


class Distinct(NamedTuple):
    """Which frames of a batch differ.

    Attributes:
        first: places of one of each kind, int64 `[K]`.
        kind: of every frame, as places in `first`, int64 `[M]`.
    """

    first: Tensor
    kind: Tensor


@torch.no_grad()
def distinct(frames: Tensor) -> Distinct | None:
    """Tell frames `[M, ...]` of floats apart, to the bit.

    Frames that may be the same are found by one random projection, and compared with one of those that project nearby.
    One that is missed so is taken for a frame of its own.

    Returns:
        None where more than `WORTH` of them differ.
    """
    rows = frames.flatten(1)
    marks = rows @ _projection(rows.shape[1]).to(rows.dtype)
    order = marks.argsort()
    apart = marks[order].diff() > NEAR * marks.abs().max()
    begins = torch.cat([torch.ones(1, dtype=torch.bool), apart])
    if begins.sum() > WORTH * len(rows):
        return None
    leader = torch.empty_like(order)
    leader[order] = order[begins][begins.cumsum(0) - 1]
    for place in (leader != torch.arange(len(rows))).nonzero()[:, 0]:
        if not torch.equal(rows[place], rows[leader[place]]):
            leader[place] = place
    first, kind = torch.unique(leader, return_inverse=True)
    return Distinct(first, kind) if len(first) <= WORTH * len(rows) else None


@functools.lru_cache(maxsize=4)
def _projection(width: int) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(0))
