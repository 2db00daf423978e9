"""Networks that were pretrained for robots, as their authors publish them: R3M's are torchvision's, VC-1's and MVP's
timm's; here is what those do not have."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders.backbone import Backbone, Preprocessing
from stillsight.encoders.zoo import torchvision
from stillsight.encoders.zoo.positions import lay_out
from stillsight.encoders.zoo.timm import models as timm

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=224, interpolation="bilinear")
"""What R3M and VIP do to pixels from 0 to 255: their `normlayer` behind a division by 255."""


def resnet(name: str) -> Backbone:
    """ResNet of R3M (Nair et al. 2022): torchvision's, under `convnet` in the authors' file, with their preprocessing.

    Args:
        name: torchvision's.
    """
    return replace(torchvision.model(name), preprocessing=IMAGENET)


def vip() -> Backbone:
    """VIP (Ma et al. 2023): ResNet-50 whose last layer projects the pooled features to 1,024 numbers."""
    plain = torchvision.model("resnet50")
    plain.model.fc = nn.Linear(2_048, 1_024)
    projection = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), plain.model.fc)
    return Backbone(model=plain.model, stages={**plain.stages, "fc": projection}, preprocessing=IMAGENET, tap="fc")


def masked(name: str, heads: int | None = None) -> Backbone:
    """Vision transformer of masked autoencoders (VC-1, Majumdar et al. 2023; MVP, Radosavovic et al. 2022): timm's,
    with its class token as features.

    Args:
        name: timm's.
        heads: of each attention, where it is not timm's number. Weights do not tell it: with another they load as well
            and compute something else.
    """
    plain = timm.model(name, pooling="cls", positions="mae", heads=heads)
    return replace(plain, preprocessing=replace(IMAGENET, interpolation="bicubic"))


class Width(NamedTuple):
    """Size of a DeiT (Touvron et al. 2021, table 1)."""

    channels: int
    heads: int


THEIA = {"tiny": Width(192, 3), "small": Width(384, 6), "base": Width(768, 12)}
DEPTH, PATCH, PATCHES = 12, 16, 14
"""Blocks, side of a patch in pixels, and patches in a row, of all three."""


class Embeddings(nn.Module):
    """Image `[N, 3, H, W]` -> class token and patch tokens `[N, 1 + L, C]`; learned positions are interpolated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + PATCHES**2, channels))
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, channels, PATCH, PATCH)})

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.patch_embeddings["projection"](images)
        tokens = torch.cat([self.cls_token.expand(len(maps), -1, -1), maps.flatten(2).transpose(1, 2)], dim=1)
        return tokens + lay_out(self.position_embeddings, (PATCHES, PATCHES), (maps.shape[2], maps.shape[3]), "dino")


class Layer(nn.Module):
    """Attention and two dense layers, each behind a norm and beside a shortcut, named as in Hugging Face's ViT."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        inner = {name: nn.Linear(channels, channels) for name in ("query", "key", "value")}
        output = nn.ModuleDict({"dense": nn.Linear(channels, channels)})
        self.attention = nn.ModuleDict({"attention": nn.ModuleDict(inner), "output": output})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(channels, 4 * channels)})
        self.output = nn.ModuleDict({"dense": nn.Linear(4 * channels, channels)})
        self.layernorm_before = nn.LayerNorm(channels, 1e-12)
        self.layernorm_after = nn.LayerNorm(channels, 1e-12)

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.layernorm_before(tokens)
        attention, output = self.attention["attention"], self.attention["output"]
        parts = (
            attention[name](normed).unflatten(2, (self.heads, -1)).transpose(1, 2)  # type: ignore[index]
            for name in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        tokens = tokens + output["dense"](mixed)  # type: ignore[index]
        dense: Tensor = self.output["dense"](F.gelu(self.intermediate["dense"](self.layernorm_after(tokens))))
        return tokens + dense


class Theia(nn.Module):
    """The student of Theia (Shang et al. 2024): a DeiT."""

    def __init__(self, width: Width) -> None:
        super().__init__()
        self.embeddings = Embeddings(width.channels)
        layers = nn.ModuleList([Layer(*width) for _ in range(DEPTH)])
        self.encoder = nn.ModuleDict({"layer": layers})
        self.layernorm = nn.LayerNorm(width.channels, 1e-12)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=0.02)


def theia(size: str) -> Backbone:
    """Theia: embed, block0 .. block11, norm. Its features are the patch tokens.

    Args:
        size: tiny, small or base.
    """
    model = Theia(THEIA[size])
    stages: dict[str, nn.Module] = {"embed": model.embeddings}
    layers = model.encoder["layer"]
    assert isinstance(layers, nn.ModuleList)
    stages |= {f"block{number}": layer for number, layer in enumerate(layers)}
    stages["norm"] = model.layernorm
    return Backbone(
        model=model,
        stages=stages,
        preprocessing=replace(IMAGENET, interpolation="bicubic"),
        tap="norm",
        class_tokens=1,
        multiple=PATCH,
    )
