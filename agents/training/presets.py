"""Settings that were tried for one environment and algorithm; they go on top of the algorithm's own preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What works for an algorithm in an environment.

    Attributes:
        settings: arguments of the algorithm's class, as `--set` takes them.
        frame_stack: frames in an observation; 4 in Mnih et al. 2015.
        source: who tried it, and for which budget.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    frame_stack: int = 4
    source: str = ""


# Rates several times that of the zoo, whose presets are made for ten million steps and more.
_PONG = {"learning_rate": "lin_7e-4", "n_epochs": 4, "clip_range": 0.2}
_ORCHARD = {
    "learning_rate": "lin_1e-3",
    "n_epochs": 6,
    "clip_range": 0.2,
    # An object falls within 9 steps: what comes later owes nothing to an action.
    "gamma": 0.95,
    "gae_lambda": 0.9,
    "ent_coef": 0.003,
}

PRESETS: dict[tuple[str, str], Preset] = {
    ("stillsight/Orchard-v0", "ppo"): Preset(
        settings=_ORCHARD,
        frame_stack=1,  # nothing in the scene has a velocity that one frame does not show
        source="tried here, for about 100,000 steps",
    ),
    ("stillsight/OrchardContinuous-v0", "ppo"): Preset(settings=_ORCHARD, frame_stack=1, source="that of Orchard-v0"),
    ("ALE/Pong-v5", "ppo"): Preset(
        settings=_PONG, source="tried here, for a million steps: results/published/pong/README.md"
    ),
}


def preset(env: str, algo: str) -> Preset:
    """The preset of `env` and `algo`; an empty one where nothing was tried."""
    return PRESETS.get((env, algo), Preset())
