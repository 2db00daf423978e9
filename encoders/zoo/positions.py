"""Learned positions of a vision transformer on a grid of another size, as its authors lay them out.

timm resamples those of all of its networks alike: bicubic, to the grid that the patches form, smoothed where it is
coarser (antialias). That is also the way of DINOv2 with registers and of OpenCLIP. What is here does not smooth.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

ADDED: Mapping[str, float | None] = {"dino": 0.1, "mae": None}
"""Way -> patches that are added to the new rows and columns before they are divided by the old, which gives the scale;
None where the new grid alone says it.

dino: `interpolate_pos_encoding` of facebookresearch/dino, of DINOv2's hub entries without registers
(`interpolate_offset=0.1, interpolate_antialias=False`), and of Theia. mae: `interpolate_pos_embed` of
facebookresearch/mae, and `resize_pos_embed`, by which VC-1's authors load its file."""


def lay_out(positions: Tensor, old: tuple[int, int], new: tuple[int, int], way: str) -> Tensor:
    """Interpolate learned positions bicubically, but for those of the tokens before the patches.

    Args:
        positions: `[1, prefix + rows * columns, C]`.
        old: rows and columns that they are for.
        new: rows and columns of the patches at hand.
        way: a key of `ADDED`.

    Returns:
        `[1, prefix + new rows * new columns, C]`, of the same dtype; `positions` itself where nothing changes.
    """
    if new == old:
        return positions
    prefix = positions.shape[1] - old[0] * old[1]
    grid = positions[:, prefix:].float().transpose(1, 2).unflatten(2, old)
    if (added := ADDED[way]) is None:
        laid = F.interpolate(grid, size=new, mode="bicubic")
    else:
        scale = (new[0] + added) / old[0], (new[1] + added) / old[1]
        laid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    return torch.cat([positions[:, :prefix], laid.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)
