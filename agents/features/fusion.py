"""Fusion: how the latents of a stack of frames become one input of the head: side by side, and as differences."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Fusion = Literal["stack", "difference", "stack+difference"]


def fused(frames: int, fusion: Fusion) -> int:
    """How many latents a stack of `frames` becomes."""
    return {"stack": frames, "difference": frames - 1, "stack+difference": 2 * frames - 1}[fusion]


def fuse(latents: Tensor, fusion: Fusion) -> Tensor:
    """`[N, frames, D]`, oldest first -> `[N, fused(frames), D]`.

    stack leaves them as they are. difference gives z_t - z_(t-1) of each two neighbours, oldest first; stack+difference
    puts these behind the stack, which is the latent flow of FLARE (Shang et al. 2021, "Reinforcement Learning with
    Latent Flow"). An episode begins with copies of its first frame, whose differences are zero.
    """
    if fusion == "stack":
        return latents
    differences = latents[:, 1:] - latents[:, :-1]
    return differences if fusion == "difference" else torch.cat([latents, differences], dim=1)
