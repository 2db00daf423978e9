"""Learned: the part after the cut, which a policy trains."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillsight.encoders import device as devices
from stillsight.encoders.adapt import Adaptation
from stillsight.encoders.part import Part


class Learned(Part):
    """The part after the cut, which a policy trains. Copy it (`copy.deepcopy`) for each network that trains its own.

    What of it does not learn is a buffer and no parameter, see `adapt.settle`.

    Args:
        pinned: keep every layer in eval mode while it learns: BatchNorm statistics fixed, dropout and stochastic depth
            off. What reinforcement learning needs (in PPO the ratio of the first update must be one), and not what
            supervised training from scratch needs.
        shielded: refuse re-initialisation, as pretrained weights must, and all that `adaptation` does not train.
        adaptation: what learns; by default everything.

    Raises:
        EncoderError: nothing here can learn in the way of `adaptation`.
    """

    def __init__(
        self,
        steps: Mapping[str, nn.Module],
        official: Mapping[str, str],
        precision: devices.Precision = "float32",
        *,
        pinned: bool = True,
        shielded: bool = True,
        adaptation: Adaptation | None = None,
    ) -> None:
        super().__init__(steps, official, precision)
        adaptation = adaptation or Adaptation()
        self.steps = nn.ModuleList(steps.values()).requires_grad_(True)
        adaptation.prepare(self.steps, self.names)
        self.pinned, self.shielded = pinned, shielded or adaptation.what != "all"
        self.moves_statistics = adaptation.moves_statistics(pinned)
        self.train(self.training)

    def state(self) -> dict[str, Tensor]:
        """Every parameter and buffer under its official name: the live ones, low-rank additions added to their W."""
        with torch.no_grad():
            return {name: attrgetter(key)(self.steps) for key, name in self.official.items()}

    def train(self, mode: bool = True) -> Self:
        """Switch to train mode unless pinned; BatchNorm goes by `Adaptation.batchnorm`."""
        super().train(mode and not self.pinned)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode and self.moves_statistics)
        return self

    def apply(self, fn: Any) -> Self:
        """Let an initialiser through only to weights that are random anyway."""
        return self if self.shielded else super().apply(fn)

    def forward(self, cut: Tensor) -> Tensor:
        """What stands at the cut, `[N, ...]` -> float32 features `[N, D]`. At the end of the network: as it came."""
        return self.sequence(cut).float() if len(self.steps) else cut.float()
