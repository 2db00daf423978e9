"""EfficientNet-Lite 0, 1 and 2 (Google 2020, "Higher accuracy on vision models with EfficientNet-Lite"): EfficientNet
without squeeze-and-excitation and with ReLU6, so that small processors compute it exactly in whole numbers.

Padded as TensorFlow does ("SAME"), in which the published weights were trained. Modules stand in the order of
TensorFlow's layers, which is that of the state_dicts of its converted weights.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders.backbone import Backbone, Preprocessing

EPSILON = 1e-3
"""Of BatchNorm, as in TensorFlow's code."""
STEM, TOP, CLASSES = 32, 1_280, 1_000
"""Channels of the first and the last convolution, which Lite does not scale, and ImageNet's classes."""


class Layers(NamedTuple):
    """Blocks of one resolution: how often, kernel, stride of the first, expansion and channels (Tan and Le 2019, table
    1)."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


B0 = (
    Layers(1, 3, 1, 1, 16),
    Layers(2, 3, 2, 6, 24),
    Layers(2, 5, 2, 6, 40),
    Layers(3, 3, 2, 6, 80),
    Layers(3, 5, 1, 6, 112),
    Layers(4, 5, 2, 6, 192),
    Layers(1, 3, 1, 6, 320),
)
SCALES = {0: (1.0, 1.0, 224), 1: (1.0, 1.1, 240), 2: (1.1, 1.2, 260)}
"""Model -> factors of width and depth, and the side in pixels that it is evaluated at."""


def _conv(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias. Of stride 1 it pads by itself, of stride 2 `Margins` do before it."""
    padding = kernel // 2 if stride == 1 else 0
    return nn.Conv2d(before, after, kernel, stride, padding, groups=groups, bias=False)


class Margins(nn.Module):
    """TensorFlow's "SAME" before a convolution of stride 2 with an odd kernel: kernel - 2 pixels in all where a side is
    even, one more where it is odd, and where the two margins cannot be equal, the larger one below and on the right."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, maps: Tensor) -> Tensor:
        # Arithmetic alone, no choice: a tracer follows it, and BatchNorm is folded into the convolution behind it.
        rows, columns = self.kernel - 2 + maps.shape[2] % 2, self.kernel - 2 + maps.shape[3] % 2
        return F.pad(maps, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])


def _margins(kernel: int, stride: int) -> nn.Module:
    return Margins(kernel) if stride == 2 else nn.Identity()


class Block(nn.Module):
    """Inverted residual (Sandler et al. 2018): expand, filter each channel, project; the input is added where shapes
    agree."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and before == after
        if self.expands:
            self.expand = _conv(before, inner, 1)
            self.expand_bn = nn.BatchNorm2d(inner, EPSILON)
        self.margins = _margins(kernel, stride)
        self.depthwise = _conv(inner, inner, kernel, stride, groups=inner)
        self.depthwise_bn = nn.BatchNorm2d(inner, EPSILON)
        self.project = _conv(inner, after, 1)
        self.project_bn = nn.BatchNorm2d(after, EPSILON)

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.relu6(self.expand_bn(self.expand(maps))) if self.expands else maps
        inner = F.relu6(self.depthwise_bn(self.depthwise(self.margins(inner))))
        projected: Tensor = self.project_bn(self.project(inner))
        return maps + projected if self.adds else projected


class EfficientNetLite(nn.Module):
    """The whole network, its classifier included.

    Args:
        width, depth: factors of channels and of repeats; stem, head, and the first and the last blocks' number stay.
    """

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self.conv_stem = _conv(3, STEM, 3, 2)
        self.bn1 = nn.BatchNorm2d(STEM, EPSILON)
        channels = [STEM, *(_rounded(layers.channels * width) for layers in B0)]
        self.blocks = nn.ModuleList()
        for number, (layers, (before, after)) in enumerate(zip(B0, itertools.pairwise(channels), strict=True)):
            fixed = number in (0, len(B0) - 1)
            repeats = layers.repeats if fixed else math.ceil(layers.repeats * depth)
            blocks = [
                Block(before if first else after, after, layers.kernel, layers.stride if first else 1, layers.expansion)
                for first in (True, *[False] * (repeats - 1))
            ]
            self.blocks.append(nn.Sequential(*blocks))
        self.conv_head = _conv(channels[-1], TOP, 1)
        self.bn2 = nn.BatchNorm2d(TOP, EPSILON)
        self.classifier = nn.Linear(TOP, CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as in TensorFlow's code: variance by the number of outputs
                outputs = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2 / outputs))


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, and not less than nine tenths."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def efficientnet_lite(size: int) -> Backbone:
    """EfficientNet-Lite of a size from 0 to 2: stem, blocks.0 .. blocks.6, head."""
    width, depth, side = SCALES[size]
    model = EfficientNetLite(width, depth)
    stem = nn.Sequential(Margins(3), model.conv_stem, model.bn1, nn.ReLU6())
    stages: dict[str, nn.Module] = {"stem": stem}
    stages |= {f"blocks.{number}": blocks for number, blocks in enumerate(model.blocks)}
    stages["head"] = nn.Sequential(model.conv_head, model.bn2, nn.ReLU6())
    recipe = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=side, interpolation="bicubic")
    return Backbone(model=model, stages=stages, preprocessing=recipe, tap="head")
