"""From a stage's output to one vector a frame: global average, k x k grid, flatten, spatial softmax, class token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders.errors import EncoderError
from stillsight.encoders.zoo.encoder_spec import check_pooling


class Pooling(nn.Module):
    """`[N, C, h, w]`, tokens `[N, L, C]` or `[N, C]` -> float32 `[N, D]`.

    D is C for `global` and `cls`, C k k for `grid<k>`, C h w for `flatten` and 2 C for `softmax`, which gives the
    expected (x, y) of each channel's activation, in -1..1 (Finn et al. 2016, "Deep spatial autoencoders").

    Args:
        name: see `registry.POOLINGS`.
        class_tokens: how many leading tokens are no patches.
    """

    def __init__(self, name: str, class_tokens: int = 0) -> None:
        super().__init__()
        self.name = check_pooling(name)
        self.class_tokens = class_tokens

    def forward(self, features: Tensor) -> Tensor:
        features = features.float()
        if self.name == "cls":
            if features.dim() != 3 or not self.class_tokens:
                raise EncoderError("This encoder has no class token. Allowed here: --pooling global, grid4, flatten.")
            return features[:, 0]
        if features.dim() == 2:
            return features
        if features.dim() == 3 and self.name == "global":
            return features[:, self.class_tokens :].mean(1)
        maps = self._as_map(features) if features.dim() == 3 else features
        if self.name == "global":
            return maps.mean(dim=(2, 3))
        if self.name == "flatten":
            return maps.flatten(1)
        if self.name == "softmax":
            return _spatial_softmax(maps)
        side = int(self.name.removeprefix("grid"))
        if min(maps.shape[2:]) < side:
            raise EncoderError(
                f"The tapped stage gives a map of {maps.shape[2]} x {maps.shape[3]}, coarser than --pooling "
                f"{self.name}. Give larger images (--resolution), an earlier stage (--tap) or a smaller grid."
            )
        return F.adaptive_avg_pool2d(maps, side).flatten(1)

    def _as_map(self, tokens: Tensor) -> Tensor:
        """Patch tokens `[N, L, C]` of a square image as a map `[N, C, h, h]`."""
        patches = tokens[:, self.class_tokens :]
        side = round(patches.shape[1] ** 0.5)
        if side * side != patches.shape[1]:
            raise EncoderError(
                f"The tapped stage gives {patches.shape[1]} patch tokens, which form no square, and --pooling "
                f"{self.name} needs to know where each lies. Type --pooling global or cls, or make the images square."
            )
        maps: Tensor = patches.transpose(1, 2).unflatten(2, (side, side))
        return maps

    def extra_repr(self) -> str:
        return repr(self.name)


def _spatial_softmax(maps: Tensor) -> Tensor:
    weights = maps.flatten(2).softmax(dim=-1).view_as(maps)
    y = torch.linspace(-1, 1, maps.shape[2], device=maps.device)
    x = torch.linspace(-1, 1, maps.shape[3], device=maps.device)
    return torch.cat([(weights.sum(2) * x).sum(-1), (weights.sum(3) * y).sum(-1)], dim=1)
