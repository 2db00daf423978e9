"""Case: what was measured of one model, for the checks to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from stillsight.agents.diagnosis.probe import ForwardPass, Network
from stillsight.agents.features.extractor import EncoderExtractor

_LIBRARIES = ("torchvision.models", "timm", "transformers")
"""Where networks come from that are rarely built for their random weights."""


@dataclass(frozen=True)
class Case:
    """Measurements of one model with a backbone, which the checks read.

    Attributes:
        model, policy: SB3's.
        networks: its backbones, at least one.
        forward: what reaches the first of them, or None where it could not be run.
        in_train_mode: modules that an update switches to train mode.
        references: weights that were loaded, under their official names, or None.
    """

    model: BaseAlgorithm
    policy: BasePolicy
    networks: list[Network]
    forward: ForwardPass | None
    in_train_mode: set[nn.Module]
    references: Mapping[str, Tensor] | None

    @property
    def first(self) -> Network:
        """The backbone of the first features extractor; the others are made by the same class."""
        return self.networks[0]

    @property
    def where(self) -> str:
        """All backbones, by their paths."""
        return ", ".join(f"policy.{network.where}" for network in self.networks)

    @property
    def frozen(self) -> bool:
        """Nothing in the backbone learns."""
        if self.forward and self.forward.ran:
            return not self.forward.learns
        return not any(parameter.requires_grad for parameter in self.first.module.parameters())

    @property
    def presumed_pretrained(self) -> bool:
        """Whether the weights matter: they are frozen, or were given, or the class is a model library's."""
        if isinstance(self.first.extractor, EncoderExtractor):
            return self.first.extractor.learned.shielded
        libraries = any(type(module).__module__.startswith(_LIBRARIES) for module in self.first.module.modules())
        return self.references is not None or self.frozen or libraries
