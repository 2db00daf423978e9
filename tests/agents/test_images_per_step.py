"""What the cut saves, counted: images that go through the encoder for one environment step, in whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stillsight.agents import RlConfig, rl

Tiny = Callable[..., RlConfig]
# Full episodes, and settings as the presets have them: the count depends on epochs, batch and train_freq.
STEPS = 192
SETTINGS = {
    "ppo": ("n_steps=16", "batch_size=16", "n_epochs=4"),
    "dqn": ("learning_starts=32", "batch_size=8", "buffer_size=300", "train_freq=4"),
    "sac": ("learning_starts=96", "batch_size=8", "buffer_size=300", "train_freq=4"),
}


@pytest.mark.parametrize("algo", SETTINGS)
def test_the_cached_path_looks_once_at_each_frame(tiny: Tiny, tmp_path: Path, algo: str) -> None:
    config = tiny(algo, steps=STEPS, frame_stack=4, max_episode_steps=None, set=SETTINGS[algo], out=tmp_path / "run")
    result = rl(config)
    assert 1.0 <= result["images_encoded_per_env_step"] <= 1.1


@pytest.mark.parametrize("algo", SETTINGS)
def test_stock_sb3_looks_many_times(tiny: Tiny, tmp_path: Path, algo: str) -> None:
    # T3: each epoch of PPO, and each batch from a replay memory, goes through the backbone again.
    config = tiny(algo, steps=STEPS, frame_stack=4, in_policy=True, set=SETTINGS[algo], out=tmp_path / "run")
    assert rl(config)["images_encoded_per_env_step"] > 4


@pytest.mark.parametrize("in_policy", [False, True], ids=["cached", "in_policy"])
def test_evaluations_are_not_counted(tiny: Tiny, tmp_path: Path, in_policy: bool) -> None:
    without = rl(tiny(steps=64, in_policy=in_policy, out=tmp_path / "without"))
    often = rl(tiny(steps=64, in_policy=in_policy, eval_every=16, eval_episodes=3, out=tmp_path / "often"))
    assert often["images_encoded_per_env_step"] == without["images_encoded_per_env_step"]


def test_what_lies_behind_an_intermediate_cut_does_not_repeat_what_lies_before(tiny: Tiny, tmp_path: Path) -> None:
    result = rl(tiny("dqn", steps=96, mode="finetune", unfreeze="layer1", out=tmp_path / "run"))
    assert result["images_encoded_per_env_step"] <= 1.1
