"""gSDE: what plays draws noise of its own with what was learned, and what is resumed goes on with the noise it had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillsight.agents import RlConfig, rl
from stillsight.agents.errors import CheckpointError, RunError
from stillsight.agents.features import gsde
from stillsight.agents.features.acting import Actor
from stillsight.agents.runs import checkpoint
from stillsight.agents.training import callbacks
from stillsight.agents.training.build import make_agent
from stillsight.encoders.building import build

Tiny = Callable[..., RlConfig]
Same = Callable[[Any, Any], bool]
EXPLORES = ("use_sde=True",)


def explorer(tiny: Tiny, algo: str, **changes: Any) -> RlConfig:
    """A run of `algo` that explores by gSDE."""
    config = tiny(algo, env="stillsight/OrchardContinuous-v0", **changes)
    return replace(config, set=(*config.set, *EXPLORES))


def actor_of(config: RlConfig) -> Actor:
    config = config.resolved()
    agent = make_agent(config, build(config), n_envs=2)
    return Actor(agent.model, agent.venv)


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_noise_of_play_is_each_episodes_own_has_the_learned_spread_and_leaves_that_of_training(
    tiny: Tiny, algo: str
) -> None:
    """The failure it prevents: every draw of an evaluation is one constant, as wide as before learning."""
    actor = actor_of(explorer(tiny, algo))
    policy = getattr(actor.model.policy, "actor", actor.model.policy)
    training = gsde.matrices(actor.model)
    assert training is not None
    frames = np.random.default_rng(0).integers(0, 256, (2, *actor.eyes.venv.observation_space.shape), np.uint8)
    with torch.no_grad():
        policy.log_std.fill_(-3.0)
    torch.manual_seed(0)
    seen = []
    for began in ([True, True], [False, False], [False, True]):
        actor.act(frames, deterministic=False, began=np.array(began))
        drawn = actor._noise._drawn
        assert drawn is not None
        seen.append(drawn.clone())
    assert torch.equal(seen[0], seen[1]), "within an episode it stays"
    assert torch.equal(seen[1][0], seen[2][0])
    assert not torch.equal(seen[1][1], seen[2][1])
    assert not torch.equal(seen[0][0], seen[0][1])
    assert float(seen[0].std()) == pytest.approx(np.exp(-3.0), rel=0.5)
    after = gsde.matrices(actor.model)
    assert after is not None
    assert all(torch.equal(one, other) for one, other in zip(training, after, strict=True))


def test_it_is_drawn_as_often_as_training_does_and_not_where_the_most_likely_action_is_taken(tiny: Tiny) -> None:
    config = explorer(tiny, "ppo")
    actor = actor_of(replace(config, set=(*config.set, "sde_sample_freq=2")))
    frames = np.zeros((2, *actor.eyes.venv.observation_space.shape), np.uint8)
    before = torch.get_rng_state()
    likely = actor.act(frames)
    assert torch.equal(torch.get_rng_state(), before)
    actor.reset()
    acted = [actor.act(frames, deterministic=False) for _ in range(4)]
    same = [bool((one == other).all()) for one, other in pairwise(acted)]
    assert not (acted[0] == likely).all()
    assert same == [True, False, True], "frames are all alike: only noise changes what is done"
    kept = actor._noise._drawn
    assert kept is not None
    actor.keep([1])
    now = actor._noise._drawn
    assert now is not None
    assert torch.equal(now[0], kept[1])


@pytest.mark.parametrize("algo", ["ppo", "sac"])
@pytest.mark.parametrize("stopped", ["in a rollout", "finished"])
def test_stopped_and_resumed_is_the_same_to_the_bit(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Same, algo: str, stopped: str
) -> None:
    """The failure it prevents: SB3 draws the noise of a rollout before the checkpoint is written, and once more where
    learning goes on from there."""
    config = explorer(tiny, algo, steps=128, checkpoint_every=32)
    config = replace(config, set=(*config.set, "learning_rate=3e-4"))
    whole, half = tmp_path / "whole", tmp_path / "half"
    rl(replace(config, out=whole))
    if stopped == "finished":
        rl(replace(config, out=half, steps=64))
        rl(RlConfig(resume=half, steps=128))
    else:
        original = callbacks.Episodes._on_step

        def on_step(self: callbacks.Episodes) -> bool:
            if self.num_timesteps >= 80:
                raise KeyboardInterrupt
            return original(self)

        with monkeypatch.context() as patch:
            patch.setattr(callbacks.Episodes, "_on_step", on_step)
            with pytest.raises(RunError, match="Stopped at step 80"):
                rl(replace(config, out=half))
        rl(RlConfig(resume=half))
    one, other = (checkpoint.load(run / "checkpoints" / "last.safetensors") for run in (whole, half))
    for name in ("parameters", "random", "games"):
        assert same(one[name], other[name]), name


def test_noise_that_is_another_models_is_refused(tiny: Tiny) -> None:
    actor = actor_of(explorer(tiny, "ppo"))
    noise = gsde.matrices(actor.model)
    assert noise is not None
    mat, several = noise
    gsde.check_noise(actor.model, [mat, mat.expand(2, *mat.shape)], n_envs=2)
    for wrong in ([mat], [mat, several[..., :0]], "noise", [mat, mat.expand(3, *mat.shape)]):
        with pytest.raises(CheckpointError, match="its noise of gSDE has the shapes"):
            gsde.check_noise(actor.model, wrong, n_envs=2)
    with pytest.raises(CheckpointError, match="its noise of gSDE"):
        gsde.check_noise(actor_of(tiny("ppo")).model, [mat, mat.expand(2, *mat.shape)], n_envs=2)
