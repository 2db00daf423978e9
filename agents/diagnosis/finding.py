"""Finding: one thing that diagnose reports, with its severity and its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["wrong", "risk", "cost", "note"]
ENCODE_ONCE = "Encode each frame once, before the policy: EncodedVecEnv(venv, build(NAME)), both of stillsight."


@dataclass(frozen=True)
class Finding:
    """One thing that diagnose reports of a model.

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
