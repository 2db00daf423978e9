"""The head: what every mode puts between encoder and policy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.agents.buffers.footprint import check_memory, head_bytes
from stillsight.agents.features.activation import Activation, activation
from stillsight.agents.features.fusion import Fusion, fuse, fused
from stillsight.agents.features.standardise import Standardise
from stillsight.encoders.encoder import Block

HEAD_FEATURES = 512
"""Width of the head on the encoder, the same in every mode: that of Mnih et al. 2015."""


class Head(nn.Module):
    """Standardise, LayerNorm, a 1 x 1 convolution that all places and frames share, fusion, Linear, activation.

    On a k x k grid of C channels, a linear layer alone would have to learn what an object looks like once for each of
    the k x k places, and on any stack once for each frame. The 1 x 1 convolution learns it once; the compression
    layers of Sax et al. 2019 and of VC-1 (Majumdar et al. 2023) do the same. It also keeps the head, and with it
    update and checkpoint, small.

    Features of several taps have a LayerNorm each, for one must not drown the other; those that keep equally many
    places apart share a convolution over the channels of all of them, and others have one of their own.

    Args:
        frames: in a stack.
        blocks: of the features of a frame, one for each tap.
        compress: channels that a 1 x 1 convolution leaves; 0 does without it, as features do whose places are 0.
        units: width of the result.
        fusion: of the frames, see `fuse`; differences are taken behind the convolution.
        images: of a frame, whose features come one after the other; each has norms and convolutions of its own.
        end: activation behind the linear layer, see `activation`.

    Raises:
        RunError: the machine has no memory free for so many weights; nothing was taken.
    """

    def __init__(
        self,
        frames: int,
        blocks: Sequence[Block],
        compress: int,
        units: int,
        fusion: Fusion = "stack",
        images: int = 1,
        end: Activation = "relu",
    ) -> None:
        super().__init__()
        width = images * sum(block.width for block in blocks)
        self.widths, self.blocks = [block.width for block in blocks] * images, merged(blocks) * images
        self.fusion, self.images = fusion, images
        self.standardise = Standardise(width, self.widths)
        norms = [nn.LayerNorm(each) for each in self.widths]
        self.norm = norms[0] if len(norms) == 1 else nn.ModuleList(norms)
        shared = [block for block in self.blocks if compress and block.places]
        inputs = fused(frames, fusion) * sum(
            compress * block.places if block in shared else block.width for block in self.blocks
        )
        needed = head_bytes(inputs, units) + sum(head_bytes(block.width // block.places, compress) for block in shared)
        check_memory(needed, units, what="head", flag="--head ", fewer="--pooling, --tap, --compress")
        convolutions = [
            nn.Conv2d(block.width // block.places, compress, 1) if block in shared else None for block in self.blocks
        ]
        # One tap has the layers, and in its checkpoints the names, that it always had.
        self.compress = (
            convolutions[0]
            if len(convolutions) == 1
            else nn.ModuleList(convolution or nn.Identity() for convolution in convolutions)
        )
        self.linear = nn.Linear(inputs, units)
        self.activation = activation(end, units)

    @property
    def convolutions(self) -> list[nn.Conv2d | None]:
        """The 1 x 1 convolution of each block, None where it has none."""
        layers = self.compress if isinstance(self.compress, nn.ModuleList) else [self.compress]
        return [layer if isinstance(layer, nn.Conv2d) else None for layer in layers]

    def forward(self, features: Tensor) -> Tensor:
        """`[N, frames, width]` -> `[N, units]`."""
        count = features.shape[:2]
        normed = self._normed(self.standardise(features)).flatten(0, 1)
        parts = normed.split([block.width for block in self.blocks], dim=1) if len(self.blocks) > 1 else [normed]
        latents = [
            part if convolution is None else _shared(part, convolution, block.places)
            for part, convolution, block in zip(parts, self.convolutions, self.blocks, strict=True)
        ]
        latent = torch.cat(latents, dim=1) if len(latents) > 1 else latents[0]
        fused: Tensor = self.activation(self.linear(fuse(latent.unflatten(0, count), self.fusion).flatten(1)))
        return fused

    def _normed(self, features: Tensor) -> Tensor:
        if not isinstance(self.norm, nn.ModuleList):
            normed: Tensor = self.norm(features)
            return normed
        parts = features.split(self.widths, dim=2)
        return torch.cat([norm(part) for norm, part in zip(self.norm, parts, strict=True)], dim=2)


def merged(blocks: Sequence[Block]) -> list[Block]:
    """Neighbouring blocks with equally many places as one: channels first, their channels stand side by side."""
    return [
        Block(sum(block.width for block in alike), places)
        for places, alike in itertools.groupby(blocks, key=lambda block: block.places)
    ]


def _shared(features: Tensor, convolution: nn.Conv2d, places: int) -> Tensor:
    """`[M, C places]`, channels first -> `[M, compress places]`, each place by the same weights."""
    if places == 1:  # the same product, three times as fast
        return F.relu(F.linear(features, convolution.weight.flatten(1), convolution.bias))
    return F.relu(convolution(features.unflatten(1, (-1, places, 1)))).flatten(1)
