"""What diagnose tells, a Finding, and what it was told by, a Case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from stillsight.agents.diagnosis.probe import Network, Sight
from stillsight.agents.features.extractor import EncoderExtractor

Severity = Literal["wrong", "risk", "cost", "note"]
_LIBRARIES = ("torchvision.models", "timm", "transformers")
"""Where networks come from that are rarely built for their random weights."""
ENCODE_ONCE = "Encode each frame once, before the policy: EncodedVecEnv(venv, build(NAME)), both of stillsight."


@dataclass(frozen=True)
class Finding:
    """One thing that diagnose has found.

    Attributes:
        code: which; the same in every version.
        severity: "wrong": it spoils the network, certainly; "risk": it does so if the network is meant to be pretrained
            or the numbers mean what they seem to; "cost": right and wasteful; "note": right, and good to know.
        where: in the model.
        found: what, with numbers.
        fix: what to do.
    """

    code: str
    severity: Severity
    where: str
    found: str
    fix: str

    def __str__(self) -> str:
        return f"{self.severity.upper()} {self.code}, in {self.where}\n  {self.found}\n  {self.fix}"


@dataclass(frozen=True)
class Case:
    """What was measured of a model that has a backbone.

    Attributes:
        model, policy: SB3's.
        networks: its backbones, at least one.
        sight: what reaches the first of them, or None where it could not be run.
        woken: modules that go to train mode when an update begins.
        originals: reference weights under their official names, or None.
    """

    model: BaseAlgorithm
    policy: BasePolicy
    networks: list[Network]
    sight: Sight | None
    woken: set[nn.Module]
    originals: Mapping[str, Tensor] | None

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
        if self.sight and self.sight.ran:
            return not self.sight.learns
        return not any(parameter.requires_grad for parameter in self.first.module.parameters())

    @property
    def presumed_pretrained(self) -> bool:
        """Whether the weights matter: they are frozen, or were given, or the class is a model library's."""
        if isinstance(self.first.extractor, EncoderExtractor):
            return self.first.extractor.learned.shielded
        libraries = any(type(module).__module__.startswith(_LIBRARIES) for module in self.first.module.modules())
        return self.originals is not None or self.frozen or libraries
