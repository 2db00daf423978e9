"""Throughput: counts are exact, ratios are of the same round, errors of a measuring process arrive as they are."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stillsight.agents import RlConfig
from stillsight.agents.errors import RunError
from stillsight.agents.features.extractor import canonical
from stillsight.agents.measure import arm as measuring
from stillsight.agents.measure import stock
from stillsight.agents.measure import throughput as module
from stillsight.agents.measure.arm import Ours
from stillsight.agents.measure.floor import Floor
from stillsight.agents.measure.measure_config import ThroughputConfig
from stillsight.agents.measure.process import ARMS, ArmProcess
from stillsight.agents.measure.stock import Stock, StockExtractor
from stillsight.agents.measure.throughput import throughput
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.encoders.building import build as build_encoder
from stillsight.encoders.encoder import fingerprint

Tiny = Callable[..., RlConfig]


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "PREFILL", 24)
    monkeypatch.setattr(stock, "STOCK_SLOTS", 100)


def test_stock_encodes_a_frame_for_every_look_at_it_and_we_encode_it_once(tiny: Tiny) -> None:
    # T3 of the measured traps: PPO 1 + epochs (and the last value of a rollout), SAC 1 + 5 batches a step, by frames.
    ppo = tiny(set=("n_steps=16", "batch_size=32", "n_epochs=2"), max_episode_steps=1000).resolved()
    stock = Stock(ppo).measure(0.0)
    assert stock["env_steps"] == 32
    assert stock["images_encoded_per_env_step"] == pytest.approx(3 * (1 + 2 + 1 / 16))
    ours = Ours(ppo).measure(0.0)
    assert ours["images_encoded_per_env_step"] <= 1.1
    in_policy = Ours(replace(ppo, in_policy=True)).measure(0.0)
    assert in_policy["images_encoded_per_env_step"] == pytest.approx(stock["images_encoded_per_env_step"])
    chosen = ("learning_starts=24", "batch_size=8", "buffer_size=300", "train_freq=1")
    sac = tiny("sac", set=chosen, n_envs=1, max_episode_steps=1000).resolved()
    found = Stock(sac).measure(0.0)
    assert found["images_encoded_per_env_step"] == pytest.approx(3 * (1 + 5 * 8), rel=0.1)
    assert Ours(sac).measure(0.0)["images_encoded_per_env_step"] <= 1.1


@pytest.mark.parametrize("algo", sorted(ALGORITHMS))
def test_every_algorithm_is_measured_in_every_arm(tiny: Tiny, algo: str) -> None:
    config = tiny(algo).resolved()
    for name, arm in ARMS.items():
        if name == "stock" and algo == "trpo":
            continue  # stock TRPO asks for gradients of parameters that require none, and raises
        made = arm(config)
        row, facts = made.measure(0.01), made.facts()
        assert row["env_steps_per_s"] > 0
        if name == "floor":
            assert set(row["seconds_per_env_step"]) == {"environment", "encoder", "update"}
            continue
        assert sum(row["shares"].values()) == pytest.approx(1.0)
        assert {"environment", "encoder", "update"} <= set(row["shares"])
        assert facts["checkpoint_bytes"] > 0
        assert facts["buffer_bytes"] > 0


def test_the_stock_arm_is_stock(tiny: Tiny) -> None:
    config = tiny(head=24).resolved()
    encoder = build_encoder(config, pinned=True)
    before = fingerprint(encoder.state())
    arm = Stock(config)
    (extractor,) = {m for m in arm.model.policy.modules() if isinstance(m, StockExtractor)}
    assert type(arm.model).__module__.startswith("stable_baselines3.")
    assert {p.dtype for p in extractor.backbone.parameters()} == {torch.float32}
    # Frozen with care: the comparison is with someone who knows the traps.
    assert not any(p.requires_grad for p in extractor.backbone.parameters())
    weights = extractor.backbone.state_dict()
    arm.measure(0.0)
    assert fingerprint(extractor.backbone.state_dict()) == fingerprint(weights)
    assert fingerprint(encoder.state()) == before
    # The same features as ours, from the same pixels.
    pixels = torch.randint(0, 256, (2, 9, 16, 16), dtype=torch.uint8)
    frames = pixels.unflatten(1, (3, 3)).flatten(0, 1)
    expected = encoder(frames).unflatten(0, (2, 3)).flatten(1)
    torch.testing.assert_close(extractor._look(pixels), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "finetune", "unfreeze": "layer2"},
        {"mode": "finetune", "adapt": "norm"},
        {"mode": "frozen", "pooling": "conv4"},
        {"mode": "scratch"},
    ],
)
def test_stock_trains_what_ours_trains(tiny: Tiny, changes: dict[str, str]) -> None:
    """The failure it prevents: stock goes back through the whole network, where ours trains its last stage."""
    config = tiny("ppo", tap="layer2", **changes).resolved()
    stock, ours = Stock(config), Ours(config)
    before = stock.model.policy.features_extractor.backbone.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    stock.measure(0.01)
    extractor = stock.model.policy.features_extractor
    moved = sum(tensor.numel() for name, tensor in extractor.backbone.named_parameters() if tensor.requires_grad)
    learned = canonical(ours.model.policy).learned.parameters()
    assert moved == sum(tensor.numel() for tensor in learned if tensor.requires_grad) > 0
    for name, tensor in extractor.backbone.named_parameters():
        if not tensor.requires_grad:
            assert torch.equal(tensor, before[name]), name


def test_the_floor_is_the_sum_of_its_parts(tiny: Tiny) -> None:
    row = Floor(tiny().resolved()).measure(0.03)
    assert row["env_steps_per_s"] == pytest.approx(1 / sum(row["seconds_per_env_step"].values()))


def test_updates_counted_by_episodes_are_a_sentence(tiny: Tiny) -> None:
    config = tiny("dqn", n_envs=1, set=("train_freq=[1, 'episode']", "buffer_size=100", "batch_size=4"))
    with pytest.raises(RunError, match=r"train_freq counts episodes\. Type --set train_freq=1"):
        Ours(config.resolved())


class Fake:
    """Stands for a measuring process, with rates that are known."""

    rates: dict[str, list[float]]

    def __init__(self, name: str, run: RlConfig) -> None:
        self.name, self.run = name, run
        self.left = list(self.rates[name])

    def answer(self) -> dict[str, Any]:
        return {}

    def ask(self, seconds: float | None) -> dict[str, Any]:
        if seconds is None:
            return {"buffer_bytes": 2_000_000}
        return {"env_steps_per_s": self.left.pop(0), "shares": {"encoder": 0.25, "rest": 0.75}}

    def stop(self) -> None:
        pass


def test_ratios_are_of_the_same_round(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The machine is half as fast in the second round: the ratio of medians would say 15, each round says 10 or 20.
    Fake.rates = {"stock": [10.0, 5.0, 10.0], "cached": [100.0, 50.0, 200.0], "floor": [200.0, 100.0, 250.0]}
    monkeypatch.setattr(module, "ArmProcess", Fake)
    found = throughput(tiny(), ThroughputConfig(arms=("stock", "cached", "floor"), rounds=3, json=True))
    assert found["ratios"]["cached / stock"] == {"median": 10.0, "least": 10.0, "most": 20.0}
    assert found["ratios"]["cached / floor"] == {"median": 0.5, "least": 0.5, "most": 0.8}
    assert found["arms"]["cached"]["env_steps_per_s"] == 100.0
    assert found["arms"]["cached"]["env_steps_per_s_range"] == [50.0, 200.0]
    printed = json.loads(capsys.readouterr().out)
    assert printed["ratios"] == found["ratios"]
    assert torch.__version__.startswith(printed["machine"]["versions"]["torch"])
    throughput(tiny(), ThroughputConfig(arms=("stock", "cached", "floor"), rounds=3))
    table = capsys.readouterr().out
    assert "cached / stock: 10  (10 .. 20)" in table
    assert "25%" in table


def test_a_round_that_would_end_too_late_is_not_begun_and_the_first_one_always_is(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fake.rates = {"stock": [10.0, 20.0, 30.0], "cached": [100.0, 100.0, 100.0]}
    monkeypatch.setattr(module, "ArmProcess", Fake)
    config = ThroughputConfig(arms=("stock", "cached"), rounds=3)
    shown: list[str] = []
    found = module.compare(tiny(), config, lambda name, _: shown.append(name), left=lambda: -1.0)
    assert [len(arm["rounds"]) for arm in found["arms"].values()] == [1, 1]
    assert shown == ["stock", "cached"]
    time_left = iter([60.0, -1.0])
    found = module.compare(tiny(), config, left=lambda: next(time_left))
    assert found["ratios"]["cached / stock"] == {"median": 7.5, "least": 5.0, "most": 10.0}


def test_an_arm_that_breaks_is_raised_or_handed_over(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(Fake):
        def ask(self, seconds: float | None) -> dict[str, Any]:
            if self.name == "stock" and len(self.left) == 1:
                raise RunError("gone.")
            return super().ask(seconds)

    Fake.rates = {"stock": [10.0, 20.0], "cached": [100.0, 100.0]}
    monkeypatch.setattr(module, "ArmProcess", Breaking)
    config = ThroughputConfig(arms=("stock", "cached"), rounds=2)
    with pytest.raises(RunError, match=r"^gone\.$"):
        module.compare(tiny(), config)
    broken: list[tuple[str, str]] = []
    found = module.compare(tiny(), config, broken=lambda name, error: broken.append((name, str(error))))
    assert broken == [("stock", "gone.")]
    assert {name: len(arm["rounds"]) for name, arm in found["arms"].items()} == {"cached": 2}
    assert found["ratios"] == {}


def test_a_real_process_measures_and_its_errors_come_back(tiny: Tiny) -> None:
    found = throughput(tiny(), ThroughputConfig(arms=("cached",), rounds=1, seconds=0.01))
    assert found["arms"]["cached"]["images_encoded_per_env_step"] <= 1.2
    config = tiny("dqn", n_envs=1, set=("train_freq=[1, 'episode']", "buffer_size=100", "batch_size=4"))
    with pytest.raises(RunError, match="train_freq counts episodes"):
        throughput(config, ThroughputConfig(arms=("cached",), rounds=1, seconds=0.01))


@pytest.mark.parametrize(
    ("config", "changes", "sentence"),
    [
        (ThroughputConfig(rounds=0), {}, r"--rounds and --seconds must be above 0"),
        (ThroughputConfig(seconds=float("nan")), {}, r"--rounds and --seconds must be above 0"),
        (ThroughputConfig(), {"in_policy": True}, r"Drop --in-policy\."),
    ],
)
def test_what_measures_nothing_is_a_sentence(
    tiny: Tiny, config: ThroughputConfig, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RunError, match=sentence):
        throughput(tiny(**changes), config)


def test_a_process_that_dies_is_a_sentence(tiny: Tiny) -> None:
    process = ArmProcess("stock", tiny())
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    theirs.close()
    process._ends = (ours, None)
    with pytest.raises(RunError, match=r"measured stock ended by itself; .* --arms in-policy cached floor\."):
        process.answer()


def test_a_typical_step_is_timed(tiny: Tiny) -> None:
    dqn = measuring.settings(tiny("dqn").resolved(), short=False)
    assert dqn == {"learning_starts": 24, "exploration_initial_eps": 0.01}
    ppo = tiny(set=("n_steps=128", "batch_size=64"), n_envs=2).resolved()
    assert measuring.settings(ppo, short=True) == {"n_steps": 32}
    assert measuring.settings(ppo, short=False) == {}
    assert np.isclose(Ours(replace(ppo, in_policy=True)).unit, 64)


def test_hidden_layers_of_a_class_that_has_its_own_are_the_same_in_stock(tiny: Tiny) -> None:
    """The failure it prevents: "no layers" in stock alone, and a ratio of two networks."""
    config = replace(tiny("ppo", n_envs=1), algo="stable_baselines3:PPO").resolved()
    assert config.net_arch is None
    policies: list[Any] = [Stock(config).model.policy, Ours(config).model.policy]
    shapes = [[tuple(one.shape) for one in policy.mlp_extractor.parameters()] for policy in policies]
    assert shapes[0] == shapes[1]
    assert (64, 16) in shapes[0]


def test_several_images_and_a_state_are_measured_by_the_floor_and_refused_by_stock(tiny: Tiny) -> None:
    config = tiny("ppo", env="robot_world:Robot-v0", pixels=("image", "wrist"), state=("joints",)).resolved()
    found = Floor(config).measure(0.0)
    assert found["env_steps_per_s"] > 0
    with pytest.raises(
        RunError, match=r"features extractor of one image, and robot_world:Robot-v0 shows images .*arms"
    ):
        Stock(config)
