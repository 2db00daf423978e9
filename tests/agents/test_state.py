"""What is captured of a model is all that learning on needs, for an algorithm of each kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillsight.agents import RlConfig
from stillsight.agents.errors import CheckpointError
from stillsight.agents.runs import checkpoint
from stillsight.agents.training.build import Agent, make_agent
from stillsight.agents.training.state import model_state as state
from stillsight.encoders.building import build as build_encoder

Tiny = Callable[..., RlConfig]
ALGOS = ["ppo", "dqn", "sac", "td3"]


def build(config: RlConfig, steps: int = 0) -> Agent:
    agent = make_agent(config.resolved(), build_encoder(config, pinned=True), n_envs=2)
    if steps:
        agent.model.learn(steps)
    return agent


def on_disk(agent: Agent, path: Path) -> bytes:
    """A state as the bytes of its checkpoint: equal where every bit of it is."""
    tree = {"model": state.capture(agent.model), "replay": state.capture_replay(agent.model)}
    checkpoint.save(path, tree)
    return path.read_bytes()


@pytest.mark.parametrize("algo", ALGOS)
def test_a_restored_model_has_every_bit_of_the_captured_one(tiny: Tiny, tmp_path: Path, algo: str) -> None:
    path = tmp_path / "a.safetensors"
    written = on_disk(build(tiny(algo), 64), path)
    fresh = build(tiny(algo, seed=5))
    assert on_disk(fresh, tmp_path / "b.safetensors") != written
    tree = checkpoint.load(path)
    if tree["replay"] is not None:
        state.restore_replay(fresh.model, tree["replay"])
    state.restore(fresh.model, tree["model"])
    assert on_disk(fresh, tmp_path / "b.safetensors") == written


@pytest.mark.parametrize("algo", ALGOS)
def test_what_is_captured_names_optimizers_counters_and_generators(tiny: Tiny, algo: str) -> None:
    agent = build(tiny(algo), 64)
    tree = state.capture(agent.model)
    optimizers = {"ppo": {"policy.optimizer"}, "dqn": {"policy.optimizer"}}
    both = {"actor.optimizer", "critic.optimizer"}
    expected = {"sac": {*both, "ent_coef_optimizer"}, "td3": both, **optimizers}[algo]
    assert set(tree["parameters"]) == {"policy", *expected}
    assert all(tree["parameters"][name]["state"] for name in expected), "moments of Adam"
    assert set(tree["variables"]) == ({"log_ent_coef"} if algo == "sac" else set())
    assert tree["counters"]["num_timesteps"] == 64
    assert tree["counters"]["_n_updates"] > 0
    assert ("exploration_rate" in tree["counters"]) == (algo == "dqn")
    assert set(tree["random"]) == {"python", "numpy", "torch", "cuda", "actions"}
    assert not any("frozen" in name for name in tree["parameters"]["policy"])


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_restored_generators_draw_what_would_have_been_drawn(tiny: Tiny, algo: str) -> None:
    import random

    agent = build(tiny(algo), 32)
    tree = state.capture(agent.model)
    space = agent.model.action_space

    def draws() -> list[Any]:
        return [random.random(), np.random.random(), float(torch.rand(1)), *np.ravel(space.sample())]

    first = draws()
    assert draws() != first
    state.restore(agent.model, tree)
    assert draws() == first


@pytest.mark.parametrize("algo", ["dqn", "sac"])
def test_a_restored_replay_memory_gives_the_same_batches(tiny: Tiny, algo: str) -> None:
    agent, fresh = build(tiny(algo), 96), build(tiny(algo, seed=5))
    captured = state.capture_replay(agent.model)
    assert captured is not None
    state.restore_replay(fresh.model, captured)
    batches = []
    for model in (agent.model, fresh.model):
        np.random.seed(3)
        buffer: Any = model.replay_buffer  # type: ignore[attr-defined]
        batches.append(buffer.sample(32))
    for one, other in zip(*batches, strict=True):
        assert one is other is None or torch.equal(one, other)


def test_a_state_of_another_kind_of_agent_is_a_sentence(tiny: Tiny) -> None:
    dqn = build(tiny("dqn"), 32)
    ppo = build(tiny("ppo"))
    with pytest.raises(CheckpointError, match="does not fit this agent"):
        state.restore(ppo.model, state.capture(dqn.model))
    with pytest.raises(CheckpointError, match="does not fit this agent"):
        state.restore_learned(ppo.model, state.capture(dqn.model))
    with pytest.raises(CheckpointError, match="does not fit this agent"):
        state.restore(build(tiny("dqn", head=8)).model, state.capture(dqn.model))
    memory = state.capture_replay(dqn.model)
    assert memory is not None
    with pytest.raises(CheckpointError, match="the stored replay memory holds frames"):
        state.restore_replay(build(tiny("dqn", pooling="grid1")).model, memory)
    assert state.capture_replay(ppo.model) is None
