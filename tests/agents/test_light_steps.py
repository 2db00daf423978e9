"""One thread while the policy acts, all of them where there is something to share: encoder and updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from stillsight.agents import RlConfig
from stillsight.agents.training.build import Agent, make_agent
from stillsight.agents.training.callbacks import LightSteps, light
from stillsight.encoders import device as devices
from stillsight.encoders.building import build as build_encoder

Tiny = Callable[..., RlConfig]


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def watched(agent: Agent) -> dict[str, set[int]]:
    """Numbers of threads that were seen, by the method that was called."""
    seen: dict[str, set[int]] = {}

    def watch(owner: object, method: str) -> None:
        original = getattr(owner, method)

        def noted(*arguments: object, **named: object) -> object:
            seen.setdefault(method, set()).add(torch.get_num_threads())
            return original(*arguments, **named)

        setattr(owner, method, noted)

    watch(agent.model, "train")
    watch(agent.encoder.frozen, "sequence" if agent.encoder.frozen.engine.name == "eager" else "forward")
    watch(agent.venv.venv, "step_wait")
    watch(agent.model, "predict" if agent.config.algo == "dqn" else "collect_rollouts")
    if agent.config.algo == "ppo":
        watch(agent.model.policy, "predict_values")
    return seen


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_threads_go_where_the_work_is(tiny: Tiny, algo: str) -> None:
    config = tiny(algo, threads=3).resolved()
    agent = make_agent(config, build_encoder(config, pinned=True), n_envs=2)
    seen = watched(agent)
    agent.model.learn(64, callback=light(config, agent.encoder))
    assert seen["forward"] == {3}
    assert seen["train"] == {3}
    assert seen["step_wait"] == {1}
    assert seen.get("predict_values", {1}) == seen.get("predict", {1}) == {1}
    assert torch.get_num_threads() == 3
    assert agent.encoder.frozen.threads is None


def test_without_it_the_policy_acts_on_all_threads(tiny: Tiny) -> None:
    config = tiny("ppo").resolved()
    agent = make_agent(config, build_encoder(config, pinned=True), n_envs=2)
    seen = watched(agent)
    agent.model.learn(32)
    assert seen["predict_values"] == {3}


def test_a_policy_that_runs_the_encoder_keeps_all_threads(tiny: Tiny) -> None:
    for changes in ({"in_policy": True}, {"mode": "finetune", "unfreeze": "layer1"}, {"mode": "scratch"}):
        config = tiny(**changes).resolved()
        assert light(config, build_encoder(config, pinned=True)) == []
    config = tiny().resolved()
    assert [type(callback) for callback in light(config, build_encoder(config, pinned=True))] == [LightSteps]


def test_threads_come_back_after_an_error() -> None:
    def fails() -> None:
        with devices.threads(2):
            assert torch.get_num_threads() == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert torch.get_num_threads() == 3
    with devices.threads(None):
        assert torch.get_num_threads() == 3
