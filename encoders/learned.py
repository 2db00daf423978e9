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
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.part import Part
from stillsight.encoders.taps.learned_pooling import LearnedPooling, pooling_parameters


class Learned(Part):
    """The part after the cut, which a policy trains. Copy it (`copy.deepcopy`) for each network that trains its own.

    What of it does not learn is a buffer and no parameter, see `adapt.settle`. A pooling that learns is in it even
    where all stages are frozen, and no part of the encoder's state: it belongs to the policy alone.

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
        stages = [
            (name, step) for name, step in zip(self.names, self.steps, strict=True) if not pooling_parameters(step)
        ]
        adaptation.prepare(nn.ModuleList(step for _, step in stages), [name for name, _ in stages])
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

    @property
    def learns(self) -> bool:
        """Whether it has a parameter."""
        return any(True for _ in self.parameters())

    @property
    def pools(self) -> bool:
        """Whether a pooling in it learns."""
        return any(isinstance(module, LearnedPooling) for module in self.modules())

    def pooling_state(self) -> dict[str, Tensor]:
        """What the poolings have learned, by the stage that they pool; the tensors are the live ones."""
        poolings = [module for module in self.modules() if isinstance(module, LearnedPooling)]
        return {
            f"{pooling.stage}.{key}": tensor
            for pooling in poolings
            for key, tensor in pooling.state_dict(keep_vars=True).items()
        }

    def load_pooling_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `pooling_state` gave.

        Raises:
            EncoderError: it is that of other poolings.
        """
        own = self.pooling_state()
        if {name: tensor.shape for name, tensor in own.items()} != {name: t.shape for name, t in state.items()}:
            raise EncoderError(
                f"The pooling that was saved learned {', '.join(sorted(state)) or 'nothing'}, and that of this encoder "
                f"learns {', '.join(sorted(own)) or 'nothing'}, or they are of other sizes. Its files are not of one "
                "run."
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def forward(self, cut: Tensor) -> Tensor:
        """What stands at the cut, `[N, ...]` -> float32 features `[N, D]`. At the end of the network: as it came."""
        return self.sequence(cut).float() if len(self.steps) else cut.float()
