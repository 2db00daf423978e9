"""Maps whose channels stand last, as some transformers compute them, handed on with their channels first."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelsFirst(nn.Module):
    """A stage that computes on `[N, h, w, C]`, as one on `[N, C, h, w]`; the memory stays as it is.

    Args:
        stage: the stage.
        first: whether it takes images, whose channels stand first for it too.
    """

    def __init__(self, stage: nn.Module, *, first: bool = False) -> None:
        super().__init__()
        self.stage, self.first = stage, first

    def forward(self, maps: Tensor) -> Tensor:
        computed: Tensor = self.stage(maps if self.first else maps.permute(0, 2, 3, 1))
        return computed.permute(0, 3, 1, 2)
