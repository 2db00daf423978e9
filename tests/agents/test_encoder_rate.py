"""The encoder learns at a fixed share of the algorithm's rate, at every step, whatever SB3 writes into the groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor
from torch.optim import SGD, Optimizer

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.features.encoder_rate import FACTOR, optimizers, scale
from stillsight.agents.features.extractor import canonical
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.agents.training.build import Agent, make_agent
from stillsight.agents.training.state import model_state as state
from stillsight.encoders import Mode
from stillsight.encoders.building import build as build_encoder
from stillsight.encoders.learned import Learned

Tiny = Callable[..., RlConfig]
FALLING = ("learning_rate=lin_1e-2",)


def build(config: RlConfig) -> Agent:
    return make_agent(config.resolved(), build_encoder(config, pinned=True), n_envs=2)


def finetuned(tiny: Tiny, algo: str, **changes: Any) -> Agent:
    config = tiny(algo, mode="finetune", standardise=0)
    return build(RlConfig(**{**vars(config), "set": (*config.set, *FALLING), **changes}))


def encoder_ids(model: BaseAlgorithm) -> set[int]:
    parts = [module for module in model.policy.modules() if isinstance(module, Learned)]
    return {id(parameter) for part in parts for parameter in part.parameters()}


def expected_rate(model: BaseAlgorithm) -> float:
    return float(model.lr_schedule(model._current_progress_remaining))


Rates = list[tuple[float, dict[str, float]]]


def record(model: BaseAlgorithm) -> Rates:
    """At each step of each optimizer: the schedule's rate, and those in force for the encoder and for the rest."""
    seen: Rates = []
    ids = encoder_ids(model)

    def look(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        rates = {
            "encoder" if id(parameter) in ids else "rest": group["lr"]
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        seen.append((expected_rate(model), rates))

    for optimizer in optimizers(model.policy).values():
        optimizer.register_step_pre_hook(look)
    return seen


@pytest.mark.parametrize("algo", [name for name, row in ALGORITHMS.items() if not row.natural_gradient])
def test_the_factor_is_in_force_at_every_step_of_the_schedule(tiny: Tiny, algo: str) -> None:
    agent = finetuned(tiny, algo, encoder_lr=0.25)
    seen = record(agent.model)
    agent.model.learn(64)
    agent.venv.close()
    assert len({rate for rate, _ in seen}) > 1, "the schedule falls"
    with_encoder = [(rate, rates) for rate, rates in seen if "encoder" in rates]
    assert with_encoder
    for rate, rates in with_encoder:
        assert rates == pytest.approx({"encoder": 0.25 * rate, "rest": rate})
    for rate, rates in seen:
        assert rates["rest"] == pytest.approx(rate)
    # Between steps the group has the schedule's rate again, and nothing else that a checkpoint would keep.
    for optimizer in optimizers(agent.model.policy).values():
        first, *others = optimizer.param_groups
        for group in others:
            assert group.keys() - first.keys() == {FACTOR}
            assert group["lr"] == first["lr"]


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_a_step_of_plain_descent_is_factor_times_rate_times_gradient(tiny: Tiny, algo: str) -> None:
    agent = finetuned(tiny, algo)
    policy: Any = agent.model.policy
    owned = [parameter for group in policy.optimizer.param_groups for parameter in group["params"]]
    policy.optimizer = SGD(owned, lr=1.0)
    scale(policy, 0.1)
    ids, steps = encoder_ids(agent.model), 0
    before: list[Tensor] = []

    def start(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        before[:] = [parameter.detach().clone() for parameter in owned]

    def end(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        nonlocal steps
        steps += 1
        rate = expected_rate(agent.model)
        for parameter, old in zip(owned, before, strict=True):
            assert parameter.grad is not None
            factor = 0.1 if id(parameter) in ids else 1.0
            torch.testing.assert_close(parameter.detach(), old - factor * rate * parameter.grad, rtol=1e-6, atol=1e-8)

    policy.optimizer.register_step_pre_hook(start)
    policy.optimizer.register_step_post_hook(end)
    agent.model.learn(96)
    agent.venv.close()
    assert steps >= 6


def test_without_the_hooks_sb3_writes_its_own_rate_over_the_group(tiny: Tiny) -> None:
    # Were this changed upstream, a group with a rate of its own would do.
    agent = finetuned(tiny, "ppo")
    policy: Any = agent.model.policy
    learned = list(canonical(policy).learned.parameters())
    ids = encoder_ids(agent.model)
    rest = [parameter for parameter in policy.parameters() if id(parameter) not in ids]
    policy.optimizer = torch.optim.Adam([{"params": rest}, {"params": learned, "lr": 1e-5}], lr=1e-2)
    seen = record(agent.model)
    agent.model.learn(32)
    agent.venv.close()
    assert seen
    assert all(rates["encoder"] == rates["rest"] for _, rates in seen)


def test_a_factor_of_one_changes_nothing(tiny: Tiny) -> None:
    agent = finetuned(tiny, "ppo", encoder_lr=1.0)
    policy: Any = agent.model.policy
    assert len(policy.optimizer.param_groups) == 1
    assert not policy.optimizer._optimizer_step_pre_hooks
    assert not policy.optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_a_small_factor_moves_the_encoder_less_and_the_head_as_before(tiny: Tiny, algo: str) -> None:
    def first_step(factor: float) -> tuple[float, float]:
        agent = finetuned(tiny, algo, encoder_lr=factor)
        eyes = canonical(agent.model.policy)
        before = {name: tensor.clone() for name, tensor in eyes.state_dict().items()}
        agent.model.learn(64)
        agent.venv.close()
        moved = {name: float((tensor - before[name]).abs().max()) for name, tensor in eyes.state_dict().items()}
        return moved["learned.steps.1.0.weight"], moved["head.linear.weight"]

    slow, fast = first_step(0.01), first_step(1.0)
    assert 0 < slow[0] < fast[0] / 30
    assert slow[1] > fast[1] / 3


@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_groups_and_factor_come_back_from_a_checkpoint(
    tiny: Tiny, algo: str, tmp_path: Path, same: Callable[[Any, Any], bool]
) -> None:
    from stillsight.agents.runs import checkpoint

    agent = finetuned(tiny, algo, encoder_lr=0.25)
    agent.model.learn(64)
    agent.venv.close()
    captured = state.capture(agent.model)
    checkpoint.save(tmp_path / "last.safetensors", captured)
    again = finetuned(tiny, algo, encoder_lr=0.25, seed=5)
    state.restore(again.model, checkpoint.load(tmp_path / "last.safetensors"))
    assert same(checkpoint.load(tmp_path / "last.safetensors"), state.capture(again.model))
    factors = [
        group.get(FACTOR) for optimizer in optimizers(again.model.policy).values() for group in optimizer.param_groups
    ]
    assert [factor for factor in factors if factor] == [0.25]
    seen = record(again.model)
    again.model.learn(64)
    again.venv.close()
    with_encoder = [(rate, rates) for rate, rates in seen if "encoder" in rates]
    assert with_encoder
    assert all(rates["encoder"] == pytest.approx(0.25 * rate) for rate, rates in with_encoder)


def test_a_run_says_what_trained_the_encoder_and_how_fast(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    result = rl(tiny("ppo", mode="finetune", adapt="lora", lora_rank=4, encoder_lr=0.5, steps=64, out=out))
    assert {name: result[name] for name in ("adapt", "batchnorm", "lora_rank", "encoder_lr", "encoder_loss")} == {
        "adapt": "lora",
        "batchnorm": "frozen",
        "lora_rank": 4,
        "encoder_lr": 0.5,
        "encoder_loss": "policy and value losses together",
    }
    shown = " ".join(capsys.readouterr().out.split()).replace("│ ", "")
    assert "additions of rank 4, BatchNorm statistics frozen" in shown
    assert "0.5 times the learning rate" in shown
    # The run plays, and what it learned is handed on under official names, A and B added to W.
    assert load(out, "last", device="cpu").sha256() == result["encoder_sha256_after"]
    assert result["encoder_sha256_after"] != result["encoder_sha256_before"]
    again = rl(tiny("ppo", weights=out, steps=32, out=tmp_path / "again"))
    assert again["weights_source"] == "run"
    assert again["encoder_sha256_before"] == result["encoder_sha256_after"]


@pytest.mark.parametrize("factor", ["0", "-0.1", "nan", "inf"])
def test_a_factor_that_is_none_is_refused(factor: str) -> None:
    with pytest.raises(RunError) as caught:
        RlConfig(mode=Mode.FINETUNE, encoder_lr=float(factor)).check()
    assert str(caught.value) == (
        f"--encoder-lr {factor} is no multiple of a learning rate. Type a number above 0, say 0.1; to keep the encoder "
        "as it is, type --mode frozen."
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--encoder-lr 0", "--encoder-lr 0 is no multiple of a learning rate. Type a number above 0, say 0.1"),
        ("--encoder-lr 0.1", "with --mode frozen it does not. Type --mode finetune, or drop --encoder-lr"),
        ("--mode finetune --encoder-lr 0.1 --algo trpo", "whose natural-gradient step has no learning rate. Drop"),
        ("--mode finetune --encoder-lr 2 --algo sb3_contrib:TRPO", "no learning rate. Drop --encoder-lr, or type"),
        ("--adapt lora", "--adapt lora says how the encoder learns, and with --mode frozen it does not"),
        ("--mode random --batchnorm train", "--batchnorm train says how the encoder learns"),
        ("--mode finetune --adapt lora --lora-rank 0", "--lora-rank 0 adds nothing"),
        ("--mode scratch --encoder nature --adapt norm", "--adapt norm finds no normalisation layers with weights"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert main(["rl", *arguments.split(), "--device", "cpu", "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert sentence in lines[0]
    assert not out.exists()
