"""In SAC, TD3 and TQC the critic's loss alone trains the encoder; the actor looks through what the critic learned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from torch import Tensor
from torch.optim import Optimizer

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.features.critic import follow_critic
from stillsight.agents.features.extractor import EncoderExtractor, canonical
from stillsight.agents.listing import ListConfig, show
from stillsight.agents.runs import checkpoint
from stillsight.agents.training.algorithms import ALGORITHMS, AlgorithmSpec, spec
from stillsight.agents.training.build import Agent, make_agent
from stillsight.agents.training.state import model_state as state
from stillsight.encoders import fingerprint
from stillsight.encoders.building import build as build_encoder

Tiny = Callable[..., RlConfig]
ALGOS = ["sac", "td3", "tqc"]


def build(config: RlConfig) -> Agent:
    return make_agent(config.resolved(), build_encoder(config, pinned=True), n_envs=2)


def finetuned(tiny: Tiny, algo: str, **changes: Any) -> Agent:
    return build(tiny(algo, **{"mode": "finetune", "unfreeze": "layer1", "standardise": 0, **changes}))


def owned(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def bits(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def observations(agent: Agent, count: int = 3) -> Tensor:
    shape = agent.venv.observation_space.shape
    assert shape is not None
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(0))


def seen(extractor: EncoderExtractor, what: Tensor) -> Tensor:
    with torch.no_grad():
        return extractor(what)


@pytest.mark.parametrize("algo", ALGOS)
def test_the_encoder_is_in_the_optimizer_of_the_critic_and_nowhere_else(tiny: Tiny, algo: str) -> None:
    policy: Any = finetuned(tiny, algo).model.policy
    encoder = {id(parameter) for parameter in policy.critic.features_extractor.learned.parameters()}
    assert len(encoder) > 5
    assert encoder <= owned(policy.critic.optimizer)
    assert not encoder & owned(policy.actor.optimizer)
    assert owned(policy.actor.optimizer) == {id(parameter) for parameter in policy.actor.parameters()}
    assert not list(policy.actor.features_extractor.learned.parameters())
    heads = {id(parameter) for parameter in policy.actor.features_extractor.head.parameters()}
    assert heads <= owned(policy.actor.optimizer), "the actor's head is its own and learns"


@pytest.mark.parametrize("algo", ALGOS)
def test_what_the_actor_does_gives_the_encoder_no_gradient(tiny: Tiny, algo: str) -> None:
    agent = finetuned(tiny, algo)
    policy: Any = agent.model.policy
    policy.actor(observations(agent)).sum().backward()
    assert all(parameter.grad is None for parameter in policy.critic.features_extractor.learned.parameters())
    assert policy.actor.features_extractor.head.linear.weight.grad.abs().max() > 0


@pytest.mark.parametrize("algo", ALGOS)
def test_only_steps_of_the_critic_change_the_encoder(tiny: Tiny, algo: str) -> None:
    agent = finetuned(tiny, algo)
    policy: Any = agent.model.policy
    learned = policy.critic.features_extractor.learned
    before = fingerprint(learned.state())
    history, actor_steps = [before], 0

    def critic_begins(*_: Any) -> None:
        assert fingerprint(learned.state()) == history[-1], "something else changed the encoder in between"

    def critic_ended(*_: Any) -> None:
        history.append(fingerprint(learned.state()))

    def actor_ended(*_: Any) -> None:
        nonlocal actor_steps
        actor_steps += 1
        assert fingerprint(learned.state()) == history[-1]

    policy.critic.optimizer.register_step_pre_hook(critic_begins)
    policy.critic.optimizer.register_step_post_hook(critic_ended)
    policy.actor.optimizer.register_step_post_hook(actor_ended)
    agent.model.learn(48)
    agent.venv.close()
    assert len(set(history)) == len(history) > 2
    assert actor_steps > 0
    assert agent.sha256() != agent.encoder.sha256()
    assert fingerprint(canonical(policy).learned.state()) == history[-1]


@pytest.mark.parametrize("algo", ALGOS)
def test_the_actor_sees_at_once_what_the_critic_learns(tiny: Tiny, algo: str) -> None:
    agent = finetuned(tiny, algo)
    policy: Any = agent.model.policy
    pairs = [(policy.actor, policy.critic)]
    if algo == "td3":
        pairs.append((policy.actor_target, policy.critic_target))
    what = observations(agent)
    for actor, critic in pairs:
        eyes, leader = actor.features_extractor, critic.features_extractor
        frames = leader.learned(what.flatten(0, 1)).unflatten(0, what.shape[:2])
        assert torch.equal(seen(eyes, what), eyes.head(frames))
        first = seen(eyes, what)
        with torch.no_grad():
            next(iter(leader.learned.parameters())).mul_(2.0)
        assert (seen(eyes, what) - first).abs().max() > 1e-4
        assert not torch.equal(seen(eyes, what), seen(leader, what)), "through a head of its own"


@pytest.mark.parametrize("algo", ALGOS)
def test_targets_follow_by_polyak_updates(tiny: Tiny, algo: str) -> None:
    agent = finetuned(tiny, algo)
    agent.model.learn(24)
    policy: Any = agent.model.policy
    names = ["critic"] + (["actor"] if algo == "td3" else [])
    before = {name: bits(dict(getattr(policy, f"{name}_target").named_parameters())) for name in names}
    if algo == "td3":
        agent.model._n_updates = 1  # the actor learns, and targets follow, in every second update
    agent.model.train(1, 8)
    agent.venv.close()
    tau = agent.model.tau
    for name in names:
        online = dict(getattr(policy, name).named_parameters())
        target = dict(getattr(policy, f"{name}_target").named_parameters())
        assert online.keys() == target.keys()
        assert any("learned" in key for key in target) == (name == "critic")
        for key, tensor in target.items():
            expected = (1 - tau) * before[name][key] + tau * online[key]
            torch.testing.assert_close(tensor.detach(), expected.detach(), rtol=1e-6, atol=1e-8)
        assert any((tensor != before[name][key]).any() for key, tensor in target.items())


def test_in_plain_sb3_the_encoders_of_actor_and_critic_drift_apart(tiny: Tiny) -> None:
    # The failure that this prevents: after training, the actor acts on an encoder that the critic has never seen.
    agent = finetuned(tiny, "sac")
    kwargs = {
        "features_extractor_class": EncoderExtractor,
        "features_extractor_kwargs": {"encoder": agent.encoder, "features_dim": 16, "compress": 4},
    }
    model = SAC("MlpPolicy", agent.venv, policy_kwargs=kwargs, learning_starts=24, batch_size=8, train_freq=4, seed=0)
    actor, critic = (getattr(model.policy, name).features_extractor.learned for name in ("actor", "critic"))
    assert fingerprint(actor.state()) == fingerprint(critic.state())
    model.learn(48)
    agent.venv.close()
    assert fingerprint(actor.state()) != fingerprint(critic.state())


@pytest.mark.parametrize("algo", ALGOS)
def test_frozen_encoders_and_their_optimizers_are_left_alone(tiny: Tiny, algo: str) -> None:
    policy: Any = build(tiny(algo, standardise=0)).model.policy
    before = policy.actor.optimizer
    follow_critic(policy)
    assert policy.actor.optimizer is before
    assert not policy.actor.features_extractor._leader


def test_the_settings_of_the_optimizer_are_kept(tiny: Tiny) -> None:
    agent = finetuned(tiny, "sac")
    kwargs = {
        "features_extractor_class": EncoderExtractor,
        "features_extractor_kwargs": {"encoder": agent.encoder, "features_dim": 16},
        "optimizer_class": torch.optim.RMSprop,
        "optimizer_kwargs": {"alpha": 0.7, "weight_decay": 0.1},
    }
    policy: Any = SAC("MlpPolicy", agent.venv, learning_rate=0.02, policy_kwargs=kwargs, buffer_size=10).policy
    before = {name: value for name, value in policy.actor.optimizer.param_groups[0].items() if name != "params"}
    follow_critic(policy)
    assert isinstance(policy.actor.optimizer, torch.optim.RMSprop)
    (group,) = policy.actor.optimizer.param_groups
    assert {name: value for name, value in group.items() if name != "params"} == before
    assert (group["lr"], group["alpha"], group["weight_decay"]) == (0.02, 0.7, 0.1)


def test_a_copy_of_the_policy_looks_through_its_own_critic(tiny: Tiny) -> None:
    agent = finetuned(tiny, "sac")
    policy: Any = agent.model.policy
    twin = copy.deepcopy(policy.actor.features_extractor)
    what = observations(agent)
    assert torch.equal(seen(twin, what), seen(policy.actor.features_extractor, what))
    with torch.no_grad():
        next(iter(twin._leader[0].learned.parameters())).mul_(2.0)
    assert not torch.equal(seen(twin, what), seen(policy.actor.features_extractor, what))


@pytest.mark.parametrize("adapt", ["all", "norm", "lora"])
@pytest.mark.parametrize("algo", ALGOS)
def test_learning_goes_on_from_a_checkpoint(
    tiny: Tiny, tmp_path: Path, algo: str, adapt: str, same: Callable[[Any, Any], bool]
) -> None:
    agent = finetuned(tiny, algo, adapt=adapt)
    agent.model.learn(32)
    agent.venv.close()
    checkpoint.save(tmp_path / "last.safetensors", state.capture(agent.model))
    again = finetuned(tiny, algo, adapt=adapt, seed=4)
    stored = checkpoint.load(tmp_path / "last.safetensors")
    state.restore(again.model, stored)
    assert same(stored, state.capture(again.model))
    assert again.sha256() == agent.sha256() != agent.encoder.sha256()
    what = observations(agent).numpy()
    first, second = (one.model.predict(what, deterministic=True)[0] for one in (agent, again))
    np.testing.assert_array_equal(first, second)
    again.model.learn(32)
    again.venv.close()
    assert again.sha256() != agent.sha256()


def test_a_run_is_loaded_and_looks_through_the_critic(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = rl(tiny("sac", mode="finetune", unfreeze="layer1", steps=48, out=out))
    assert result["encoder_loss"] == spec("sac").encoder_loss
    agent = load(out, "last", device="cpu")
    assert agent.sha256() == result["encoder_sha256_after"] != result["encoder_sha256_before"]
    policy: Any = agent.model.policy
    assert policy.actor.features_extractor._leader == (policy.critic.features_extractor,)
    stored = checkpoint.load(out / "checkpoints" / "last.safetensors")["parameters"]["policy"]
    assert set(stored) == set(policy.state_dict())
    assert all(torch.equal(tensor, stored[name]) for name, tensor in policy.state_dict().items())
    assert not [name for name in stored if name.startswith("actor") and "learned" in name]


def test_a_class_of_anybodys_says_which_loss_trained_its_encoder(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sb3_contrib")
    result = rl(
        replace(
            tiny("sac", mode="finetune", unfreeze="layer1", steps=48, out=tmp_path / "run"), algo="sb3_contrib:CrossQ"
        )
    )
    assert result["encoder_loss"] == spec("sac").encoder_loss
    assert spec("sac").encoder_loss in capsys.readouterr().out


def test_every_row_says_which_loss_trains_the_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    show("algos", None, ListConfig())
    shown = capsys.readouterr().out
    for row in ALGORITHMS.values():
        assert row.encoder_loss != AlgorithmSpec.encoder_loss
        assert row.encoder_loss in shown
        assert spec(row.cls).encoder_loss == row.encoder_loss, "module:Class of a known class"
    assert {name for name, row in ALGORITHMS.items() if "critic" in row.encoder_loss} == set(ALGOS)


@pytest.mark.parametrize("algo", ["ppo", "a2c", "trpo", "recurrent_ppo"])
def test_on_policy_the_value_loss_trains_the_encoder_too_but_not_in_trpo(tiny: Tiny, algo: str) -> None:
    agent = finetuned(tiny, algo, head=64, compress=16)  # in a smaller one every ReLU may be off
    model: Any = agent.model
    model.learn(64)
    agent.venv.close()
    model.ent_coef = 0.0
    model.normalize_advantage = False
    model._current_progress_remaining = 1.0
    model.rollout_buffer.advantages[:] = 0.0  # the policy has nothing to gain
    before, value = agent.sha256(), model.policy.value_net.weight.detach().clone()
    model.train()
    assert not torch.equal(model.policy.value_net.weight, value)
    assert (agent.sha256() == before) == (algo == "trpo")
