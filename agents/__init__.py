"""Agents with pretrained eyes: training, playing, recording. Stable-Baselines3 does the learning, unchanged.

The walk of a frame, from the environment to an action, in PPO:

1. envs/vector.py: the environments are stepped side by side, each as envs/making.py wraps it.
2. envs/wrappers/pixels.py: a frame becomes uint8 pixels `[3, H, W]`.
3. agents/features/encoded_vec_env.py: all new frames, and episodes' last ones, go through the encoder in one batch.
4. encoders/frozen.py: what does not learn of it runs, by the engine that encoders/engines/engine.py chose.
5. agents/features/encoded_vec_env.py: the features of the last few frames are stacked.
6. agents/buffers/rollout.py: each frame's features are kept once (off-policy: agents/buffers/replay.py).
7. agents/features/extractor.py: in the policy, what learns of the encoder runs.
8. agents/features/head.py: standardised, compressed, mixed: what SB3's layers see.
9. stable_baselines3: the action, and the update.
10. agents/playing/player.py: the same walk from pixels to action, without the environment.

Of several cameras and a state (envs/wrappers/layout.py), step 5 stacks rows (agents/buffers/row.py), and step 7 takes
them apart.
"""

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
