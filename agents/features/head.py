"""The head: what every mode puts between encoder and policy."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.agents.buffers.footprint import check_memory, head_bytes
from stillsight.agents.features.standardise import Standardise, Statistics

HEAD_FEATURES = 512
"""Width of the head on the encoder, the same in every mode: that of Mnih et al. 2015."""


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

    Raises:
        RunError: the machine has no memory free for so many weights; nothing was taken.
    """

    def __init__(
        self, frames: int, width: int, places: int, compress: int, units: int, statistics: Statistics | None = None
    ) -> None:
        super().__init__()
        self.places = places
        self.standardise = Standardise(width, statistics)
        self.norm = nn.LayerNorm(width)
        shared = bool(compress and places)
        inputs = frames * (compress * places if shared else width)
        needed = head_bytes(inputs, units) + (head_bytes(width // places, compress) if shared else 0)
        check_memory(needed, units, what="head", flag="--head ", fewer="--pooling, --tap, --compress")
        self.compress = nn.Conv2d(width // places, compress, 1) if shared else None
        self.linear = nn.Linear(inputs, units)

    def forward(self, features: Tensor) -> Tensor:
        """`[N, frames, width]` -> `[N, units]`."""
        count = features.shape[:2]
        normed = self.norm(self.standardise(features)).flatten(0, 1)
        if self.compress is not None and self.places == 1:  # the same product, three times as fast
            normed = F.relu(F.linear(normed, self.compress.weight.flatten(1), self.compress.bias))
        elif self.compress is not None:
            normed = F.relu(self.compress(normed.unflatten(1, (-1, self.places, 1))))
        return F.relu(self.linear(normed.reshape(count[0], -1)))
