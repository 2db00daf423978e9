"""Agents with pretrained eyes: training, playing, recording. Stable-Baselines3 does the learning, unchanged."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillsight.agents.diagnosis.diagnose import diagnose
    from stillsight.agents.diagnosis.finding import Finding
    from stillsight.agents.features.extractor import EncodedVecEnv, EncoderExtractor
    from stillsight.agents.training.build import Agent, load
    from stillsight.agents.training.learn import RlConfig, rl

# The command line answers before torch is imported; names come from their modules when they are first used.
_LAZY = {
    "Agent": "training.build",
    "load": "training.build",
    "diagnose": "diagnosis.diagnose",
    "EncodedVecEnv": "features.extractor",
    "EncoderExtractor": "features.extractor",
    "Finding": "diagnosis.finding",
    "RlConfig": "training.learn",
    "rl": "training.learn",
}

__all__ = ["Agent", "EncodedVecEnv", "EncoderExtractor", "Finding", "RlConfig", "diagnose", "load", "rl"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
