"""The head: what every mode puts between encoder and policy, and the standardisation that lets it see what changes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_FEATURES = 512
"""Width of the head on the encoder, the same in every mode: that of Mnih et al. 2015."""

FLOOR = 0.1
"""Smallest standard deviation to divide by, as a share of the mean one: a dead feature must not become noise."""

TINY = 1e-20
"""What to divide by where no feature changes at all. Features may be small: the last ones of a MobileNetV2 with random
weights lie near 1e-10."""

LARGEST = 10.0
"""Standardised features are clipped to this, as SB3's VecNormalize clips observations."""


class Statistics(NamedTuple):
    """Mean and standard deviation of each feature, float32 `[D]`."""

    mean: Tensor
    std: Tensor


class Standardise(nn.Module):
    """`[..., D]` -> the same, each feature with mean 0 and standard deviation 1 over frames of the game.

    Most of what a pretrained network says about a game's frame is what it says about every frame of that game: on
    Pong, a feature moves by a tenth of the spread between features. LayerNorm keeps that ratio; this removes it. The
    numbers are fixed before the first update, because a normalisation that moves would change the policy between a
    rollout and the update that learns from it.

    Args:
        width: D.
        statistics: None leaves features as they are, until a checkpoint brings the numbers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, statistics: Statistics | None) -> None:
        super().__init__()
        mean, std = statistics or Statistics(torch.zeros(width), torch.ones(width))
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clamp_min(max(FLOOR * std.mean().item(), TINY)))

    def forward(self, features: Tensor) -> Tensor:
        return ((features - self.mean) / self.std).clamp(-LARGEST, LARGEST)


class Head(nn.Module):
    """Standardise, LayerNorm, a 1 x 1 convolution that all places and frames share, Linear, ReLU.

    On a k x k grid of C channels, a linear layer alone would have to learn what an object looks like once for each of
    the k x k places, and on any stack once for each frame. The 1 x 1 convolution learns it once; the compression
    layers of Sax et al. 2019 and of VC-1 (Majumdar et al. 2023) do the same. It also keeps the head, and with it
    update and checkpoint, small.

    Args:
        frames: in a stack.
        width: features of one frame.
        places: how many places `width` keeps apart, channels first: k * k on a grid, 1 for a vector, 0 for features
            that are not channels at places.
        compress: channels that the 1 x 1 convolution leaves; 0 does without it, as `places` 0 does.
        units: width of the result.
        statistics: of the features, see `Standardise`.
    """

    def __init__(
        self, frames: int, width: int, places: int, compress: int, units: int, statistics: Statistics | None = None
    ) -> None:
        super().__init__()
        self.places = places
        self.standardise = Standardise(width, statistics)
        self.norm = nn.LayerNorm(width)
        shared = bool(compress and places)
        self.compress = nn.Conv2d(width // places, compress, 1) if shared else None
        self.linear = nn.Linear(frames * (compress * places if shared else width), units)

    def forward(self, features: Tensor) -> Tensor:
        """`[N, frames, width]` -> `[N, units]`."""
        count = features.shape[:2]
        normed = self.norm(self.standardise(features)).flatten(0, 1)
        if self.compress is not None and self.places == 1:  # the same product, three times as fast
            normed = F.relu(F.linear(normed, self.compress.weight.flatten(1), self.compress.bias))
        elif self.compress is not None:
            normed = F.relu(self.compress(normed.view(len(normed), -1, self.places, 1)))
        return F.relu(self.linear(normed.reshape(count[0], -1)))
