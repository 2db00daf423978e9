"""PlainEmbedding: what a plain vision transformer of timm's does before its blocks, with its authors' positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stillsight.encoders.zoo.positions import lay_out


class PlainEmbedding(nn.Module):
    """Images `[N, 3, H, W]` -> class token and patch tokens `[N, 1 + L, C]`.

    Args:
        network: timm's, with a class token, and built for images of any size. Its parameters are shared.
        way: how its positions are laid out on another grid, a key of `positions.ADDED`.
    """

    def __init__(self, network: Any, way: str) -> None:
        super().__init__()
        self.patch_embed, self.norm_pre = network.patch_embed, network.norm_pre
        self.cls_token, self.pos_embed = network.cls_token, network.pos_embed
        self.way = way

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches.flatten(1, 2)], dim=1)
        rows, columns = self.patch_embed.grid_size
        positions = lay_out(self.pos_embed, (rows, columns), (patches.shape[1], patches.shape[2]), self.way)
        embedded: Tensor = self.norm_pre(tokens + positions)
        return embedded
