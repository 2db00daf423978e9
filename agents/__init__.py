"""Agents with pretrained eyes: training, playing, recording. Stable-Baselines3 does the learning, unchanged."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillsight.agents.diagnosis.diagnose import diagnose
    from stillsight.agents.diagnosis.finding import Finding
    from stillsight.agents.features.encoded_vec_env import EncodedVecEnv
    from stillsight.agents.features.extractor import EncoderExtractor
    from stillsight.agents.playing.player import Player, load
    from stillsight.agents.training.build import Agent
    from stillsight.agents.training.config import RlConfig
    from stillsight.agents.training.learn import rl

# The command line answers before torch is imported; names come from their modules when they are first used.
_LAZY = {
    "Agent": "training.build",
    "EncodedVecEnv": "features.encoded_vec_env",
    "EncoderExtractor": "features.extractor",
    "Finding": "diagnosis.finding",
    "Player": "playing.player",
    "RlConfig": "training.config",
    "diagnose": "diagnosis.diagnose",
    "load": "playing.player",
    "rl": "training.learn",
}

__all__ = ["Agent", "EncodedVecEnv", "EncoderExtractor", "Finding", "Player", "RlConfig", "diagnose", "load", "rl"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
