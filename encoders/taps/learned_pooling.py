"""Poolings that learn: queries that attend to places, and a convolution over them. They belong to the policy."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn

from stillsight.encoders.taps.handover import Layout
from stillsight.encoders.taps.pooling import Pooling, as_map, coordinates
from stillsight.encoders.taps.tap import Tap, number

GAIN = math.sqrt(2)
"""Of the orthogonal start of a convolution before a ReLU, as Stable-Baselines3 initialises extractors."""


class LearnedPooling(nn.Module):
    """A pooling with parameters, for what stands behind the cut whatever is frozen.

    It begins alike under every algorithm: initialisers that walk over a policy (PPO's and A2C's) leave it as it is,
    because the first look, by which the head standardises, has seen its features by then.

    Args:
        name: see `tap.poolings`.
        class_tokens, layout: see `Pooling`.
    """

    def __init__(self, name: str, class_tokens: int, layout: Layout | None) -> None:
        super().__init__()
        self.name, self.class_tokens, self.layout = name, class_tokens, layout
        self.stage = ""  # that it pools, by which what it learned is found again

    def apply(self, fn: Any) -> Self:  # noqa: ARG002 - nn.Module's signature
        """Let no initialiser through."""
        return self

    def maps(self, features: Tensor) -> Tensor:
        """What a stage hands on, as a float32 map `[N, C, h, w]`."""
        return as_map(features.float(), self.class_tokens, self.layout, self.name)

    def extra_repr(self) -> str:
        return repr(self.name)


class AttentionPooling(LearnedPooling):
    """k learned queries over the places of a map or over patch tokens -> float32 `[N, (C + 2) k]`, channels first.

    With v_p the features of place p under a LayerNorm, and e_p its position, see `sine_positions`, query q gives the
    mean of [v_p, x_p, y_p] under the weights softmax_p(q . (v_p + e_p) / sqrt(C)). That is the pooling by attention of
    the Set Transformer (Lee et al. 2019, section 3.2) and of CLIP (Radford et al. 2021, section 2.4) with one head,
    less the matrices that a constant query and the linear layers of the head make redundant; and the expected place,
    as spatial softmax gives it, because control needs to know where.

    Args:
        name: `attention<k>`.
        channels: C.
        class_tokens, layout: see `Pooling`.
    """

    def __init__(self, name: str, channels: int, class_tokens: int = 0, layout: Layout | None = None) -> None:
        super().__init__(name, class_tokens, layout)
        self.norm = nn.LayerNorm(channels)
        self.queries = nn.Parameter(torch.randn(number(name), channels))

    def forward(self, features: Tensor) -> Tensor:
        maps = self.maps(features)
        rows, columns = maps.shape[2:]
        y, x = coordinates(rows, columns, maps.device)
        where = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1).flatten(0, 1)
        values = self.norm(maps.flatten(2).transpose(1, 2))
        keys = values + sine_positions(rows, columns, values.shape[2], maps.device).to(values)
        weights = (self.queries @ keys.transpose(1, 2) / values.shape[2] ** 0.5).softmax(-1)
        seen = torch.cat([weights @ values, weights @ where.to(values)], dim=2)
        pooled: Tensor = seen.transpose(1, 2).flatten(1)
        return pooled


class ConvPooling(LearnedPooling):
    """A 3 x 3 convolution to few channels at each place, GroupNorm over all of them, ReLU -> float32 `[N, c h w]`.

    The compression layer that Yadav et al. 2023 (OVRL-V2) and VC-1 (Majumdar et al. 2023) put behind an encoder:
    neighbours are seen together, which the head's 1 x 1 convolution cannot.

    Args:
        name: `conv<c>`.
        channels: C of what comes in.
        class_tokens, layout: see `Pooling`.
    """

    def __init__(self, name: str, channels: int, class_tokens: int = 0, layout: Layout | None = None) -> None:
        super().__init__(name, class_tokens, layout)
        self.convolution = nn.Conv2d(channels, number(name), 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(1, number(name))
        nn.init.orthogonal_(self.convolution.weight, GAIN)

    def forward(self, features: Tensor) -> Tensor:
        compressed: Tensor = self.norm(self.convolution(self.maps(features))).relu().flatten(1)
        return compressed


def make_pooling(
    tap: Tap, channels: int, class_tokens: int, layout: Layout, *, class_first: bool = True
) -> Pooling | LearnedPooling:
    """The pooling of a tap; `channels` are those of its stage, for which only poolings that learn ask."""
    if not tap.learns:
        return Pooling(tap.pooling, class_tokens, layout, class_first=class_first)
    kind = AttentionPooling if tap.pooling.startswith("attention") else ConvPooling
    pooling = kind(tap.pooling, channels, class_tokens, layout)
    pooling.stage = tap.stage
    return pooling


def pooling_parameters(module: nn.Module) -> set[int]:
    """The ids of the parameters of every pooling inside `module`."""
    poolings = [part for part in module.modules() if isinstance(part, LearnedPooling)]
    return {id(parameter) for pooling in poolings for parameter in pooling.parameters()}


def sine_positions(rows: int, columns: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Positions of the places of a map, `[rows * columns, channels]`, as MoCo v3 (Chen et al. 2021) has them.

    Sine and cosine of its column in one half of the channels and of its row in the other, each at channels / 4
    wavelengths from 2 pi to 10,000 times that; what four does not divide stays zero.
    """
    quarter = channels // 4
    rates = 10_000 ** -(torch.arange(quarter, device=device) / max(quarter, 1))
    down = torch.arange(rows, device=device)[:, None].expand(-1, columns)
    right = torch.arange(columns, device=device).expand(rows, -1)
    angles = [place.flatten()[:, None] * rates for place in (right, down)]
    waves = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return nn.functional.pad(waves, (0, channels - waves.shape[1]))
