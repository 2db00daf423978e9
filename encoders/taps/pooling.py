"""From a stage's output to one vector a frame, without anything that learns: averages, places, class token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders.errors import EncoderError
from stillsight.encoders.taps.handover import Layout
from stillsight.encoders.taps.tap import check_pooling, number, poolings, rows_and_columns


class Pooling(nn.Module):
    """`[N, C, h, w]`, tokens `[N, L, C]` or `[N, C]` -> float32 `[N, D]`.

    D is C for `global` and `cls`, 2 C for `cls+global`, the class token before the mean of the patches, C k k for
    `grid<k>`, C h w for `flatten` and 2 C for `softmax`, which gives the expected (x, y) of each channel's activation,
    in -1..1 (Finn et al. 2016, "Deep spatial autoencoders"). Of tokens, the leading ones that are no patches (class
    token, registers) are in none of them but `cls`, which is the first.

    Args:
        name: see `tap.poolings`; one that learns nothing.
        class_tokens: how many leading tokens are no patches: the class token and registers.
        layout: proportions of the image, in which patch tokens lie; without it they are taken for a square.
        class_first: whether the first of the leading tokens is the class token; all are registers otherwise.
    """

    def __init__(
        self, name: str, class_tokens: int = 0, layout: Layout | None = None, *, class_first: bool = True
    ) -> None:
        super().__init__()
        self.name = check_pooling(name)
        self.class_tokens, self.layout = class_tokens, layout
        self.has_class = class_first and class_tokens > 0

    def forward(self, features: Tensor) -> Tensor:
        features = features.float()
        if self.name.startswith("cls"):
            if features.dim() != 3 or not self.has_class:
                allowed = poolings(class_token=False)
                raise EncoderError(
                    f"This encoder has no class token. Allowed here: --pooling {allowed}. Type, say: --pooling global."
                )
            first = features[:, 0]
            return first if self.name == "cls" else torch.cat([first, features[:, self.class_tokens :].mean(1)], dim=1)
        if features.dim() == 2 and self.name in ("global", "flatten"):
            return features
        if features.dim() == 3 and self.name == "global":
            return features[:, self.class_tokens :].mean(1)
        maps = as_map(features, self.class_tokens, self.layout, self.name)
        if self.name == "global":
            return maps.mean(dim=(2, 3))
        if self.name == "flatten":
            return maps.flatten(1)
        if self.name == "softmax":
            return _spatial_softmax(maps)
        side = number(self.name)
        if min(maps.shape[2:]) < side:
            smaller = f"grid{min(maps.shape[2:])}" if min(maps.shape[2:]) > 1 else "global"
            raise EncoderError(
                f"The tapped stage gives a map of {maps.shape[2]} x {maps.shape[3]}, coarser than --pooling "
                f"{self.name}. Type a smaller grid, say --pooling {smaller}, or give larger images (--resolution) or "
                "an earlier stage (--tap)."
            )
        return F.adaptive_avg_pool2d(maps, side).flatten(1)

    def extra_repr(self) -> str:
        return repr(self.name)


def as_map(features: Tensor, class_tokens: int, layout: Layout | None, pooling: str) -> Tensor:
    """A map `[N, C, h, w]` as it is, or patch tokens `[N, L, C]` as the map in which they lie, row by row.

    Args:
        features: what a stage hands on.
        class_tokens: leading tokens, which are no patches.
        layout: the proportions of the image, and so of the map; a square without it.
        pooling: that needs to know, for the message.

    Raises:
        EncoderError: a vector, whose places are lost, or tokens that do not lie in rows and columns.
    """
    if features.dim() == 4:
        return features
    if features.dim() == 2:
        raise EncoderError(
            f"The tapped stage gives a vector of {features.shape[1]} features, and --pooling {pooling} is of a "
            "map. Tap an earlier stage (--tap), or type --pooling global."
        )
    patches = features[:, class_tokens:]
    count = patches.shape[1]
    height, width = (layout and layout.image) or (1, 1)
    lie = rows_and_columns(count, (height, width))
    if lie is None:
        shape = "square" if height == width else f"grid in the proportions of an image of {height} x {width} px"
        raise EncoderError(
            f"The tapped stage gives {count} patch tokens, which form no {shape}, and --pooling {pooling} needs to "
            "know where each lies. Type --pooling global or cls, or make the images square."
        )
    maps: Tensor = patches.transpose(1, 2).unflatten(2, lie)
    return maps


def coordinates(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """y `[rows]` and x `[columns]` of the places of a map, each from -1 to 1."""
    return torch.linspace(-1, 1, rows, device=device), torch.linspace(-1, 1, columns, device=device)


def _spatial_softmax(maps: Tensor) -> Tensor:
    weights = maps.flatten(2).softmax(dim=-1).view_as(maps)
    y, x = coordinates(maps.shape[2], maps.shape[3], maps.device)
    return torch.cat([(weights.sum(2) * x).sum(-1), (weights.sum(3) * y).sum(-1)], dim=1)
