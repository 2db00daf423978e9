"""How much of a head changes with what it is shown is counted, recorded, and warned of where it is next to nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillsight.agents import RlConfig, rl
from stillsight.agents.benchmark.grid.pins import pins
from stillsight.agents.features.extractor import canonical, extractors
from stillsight.agents.features.live_units import FEW, MANY, SAMPLE, LiveUnits, Sample, live_units
from stillsight.agents.features.standardise import FirstLook, Statistics
from stillsight.agents.playing import play
from stillsight.agents.playing.play import evaluate
from stillsight.agents.playing.play_config import EvaluateConfig
from stillsight.agents.playing.player import Player, load
from stillsight.agents.training import build as building
from stillsight.agents.training.build import Agent, make_agent
from stillsight.agents.training.summary import card
from stillsight.encoders.building import build as build_encoder

Tiny = Callable[..., RlConfig]


def agent_of(config: RlConfig) -> Agent:
    """An agent that has not learned yet."""
    resolved = config.resolved()
    return make_agent(resolved, build_encoder(resolved, pinned=True), n_envs=2)


def shown_to(agent: Agent, steps: int = 12) -> Sample:
    """What it is shown by random play."""
    sample = Sample()
    shown = agent.venv.reset()
    for _ in range(steps):
        actions = np.array([agent.venv.action_space.sample() for _ in range(2)])
        sample.add(shown, actions)
        shown = agent.venv.step(actions)[0]
    return sample


@given(passed=st.integers(1, 700), width=st.integers(1, 3))
def test_a_sample_is_small_and_evenly_spread(passed: int, width: int) -> None:
    sample = Sample()
    for step in range(passed):
        sample.add(np.array([[step, row] for row in range(width)]), np.zeros(width, int))
    steps = [int(row[0]) for row in sample.rows]
    assert len(sample.rows) == min(passed, len(sample.rows)) <= SAMPLE
    assert len(sample.rows) == passed or len(sample.rows) >= SAMPLE // 2
    assert steps[0] == 0
    assert len(set(np.diff(steps))) <= 1, "one stride for all"
    if passed > 2 * width and len(sample.rows) == passed:
        assert {int(row[1]) for row in sample.rows} == set(range(width)), "of each environment"


def test_a_sample_keeps_what_it_saw_where_the_array_is_used_again() -> None:
    sample, shown = Sample(), np.zeros((2, 3))
    sample.add(shown, np.zeros(2))
    shown += 1
    sample.add(shown, np.zeros(2))
    assert [row.tolist() for row in sample.rows] == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("mode", ["frozen", "scratch"])
def test_units_are_counted_as_by_hand(tiny: Tiny, mode: str) -> None:
    agent = agent_of(tiny(mode=mode))
    sample, extractor = shown_to(agent), canonical(agent.model.policy)
    head = extractor.head
    assert head is not None
    with torch.no_grad():
        head.linear.weight[:3] = 0
        units = extractor(torch.as_tensor(np.stack(sample.rows)).float()).numpy()
    moving = units.std(axis=0) > 1e-3 * np.sqrt((units**2).mean())
    assert not moving[:3].any()
    assert moving[3:].any()
    found = live_units(agent.model.policy, sample)
    assert found == LiveUnits(round(moving.mean(), 4), 0.0 if mode == "scratch" else found.clipped)  # type: ignore[union-attr]
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.fill_(3.0)  # large and always the same: no dormant neuron, and it says nothing
    blind = live_units(agent.model.policy, sample)
    assert blind is not None
    assert blind.live == 0.0
    assert "0.0% of the units of this policy's head change" in str(blind.warning())


def test_the_head_that_sees_least_is_told_of(tiny: Tiny) -> None:
    agent = agent_of(tiny("td3"))
    sample = shown_to(agent)
    before = live_units(agent.model.policy, sample)
    assert before is not None
    assert before.live > FEW
    heads = [one.head for one in extractors(agent.model.policy)]
    assert len(heads) > 1
    assert heads[-1] is not None
    torch.nn.init.zeros_(heads[-1].linear.weight)
    after = live_units(agent.model.policy, sample)
    assert after is not None
    assert after.live == 0.0


def test_clipped_features_are_counted(tiny: Tiny) -> None:
    agent = agent_of(tiny())
    sample, extractor = shown_to(agent), canonical(agent.model.policy)
    assert extractor.head is not None
    width = len(extractor.head.standardise.mean)
    std = torch.full((width,), 1e6)
    mean = torch.zeros(width)
    mean[: width // 4] = 1e9  # a quarter of them a thousand deviations away
    extractor.take(FirstLook(Statistics(mean, std), None))
    found = live_units(agent.model.policy, sample)
    assert found is not None
    assert found.clipped == round(width // 4 / width, 4) > MANY
    assert LiveUnits(0.5, found.clipped).warning() is not None
    assert LiveUnits(0.5, MANY).warning() is None
    assert LiveUnits(FEW, 0.0).warning() is None


def test_nothing_is_said_where_nothing_can_be_told(tiny: Tiny) -> None:
    agent = agent_of(tiny())
    sample = Sample()
    assert live_units(agent.model.policy, sample) is None, "nothing was shown"
    for _ in range(3):
        sample.add(agent.venv.reset() * 0, np.zeros(2, int))
    assert live_units(agent.model.policy, sample) is None, "one and the same was shown"


SAME, OTHER, FEW_OF_THEM = [2.0] * 30, [2.0] * 29 + [1.0], [2.0] * 9
CLOSE, APART = [0.5, 0.5004] * 15, [0.5, 0.51] * 15


@pytest.mark.parametrize(
    ("actions", "one"), [(SAME, True), (OTHER, False), (FEW_OF_THEM, False), (CLOSE, True), (APART, False)]
)
def test_an_agent_that_always_does_the_same_is_told_of(tiny: Tiny, actions: list[float], one: bool) -> None:
    agent = agent_of(tiny(standardise=0))
    sample, shown = Sample(), agent.venv.reset().copy()
    for action in actions:
        shown += 1
        sample.add(shown, np.array([action, action]) if action == actions[0] else np.array([actions[0], action]))
    found = live_units(agent.model.policy, sample)
    assert found is not None
    assert found.one_action is one
    assert (found.warning() is not None) is one
    if one:
        assert "one and the same action in every step" in str(found.warning())


def test_a_blind_policy_is_warned_of_in_the_end_and_evaluations_record_it(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure that this would have shown: statistics of another network, most features beyond the clip, a run that
    ends well, and returns that were learned by memory of the first frames."""

    config = tiny(eval_every=32, checkpoint_every=0)
    width = len(canonical(agent_of(config).model.policy).head.standardise.mean)  # type: ignore[union-attr]
    rl(tiny(eval_every=32, out=tmp_path / "sees"))
    assert "of the units" not in capsys.readouterr().err
    of_another = FirstLook(Statistics(torch.full((width,), 50.0), torch.full((width,), 0.01)), None)
    monkeypatch.setattr(building, "gather_statistics", lambda *_, **__: of_another)
    rl(tiny(eval_every=32, out=tmp_path / "blind"))
    said = capsys.readouterr().err
    assert said.count("stillsight: warning: ") == 1
    assert "--set learning_rate=1e-4" in said
    rows = {
        name: [json.loads(line) for line in (tmp_path / name / "eval.jsonl").read_text().splitlines()]
        for name in ("sees", "blind")
    }
    assert len(rows["blind"]) == 3
    assert all(row["live_units"] > FEW and row["clipped_features"] < MANY for row in rows["sees"])
    assert all(row["live_units"] < FEW and row["clipped_features"] == 1.0 for row in rows["blind"])


def test_evaluate_tells_of_a_blind_policy_and_of_what_it_was_shown(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rl(tiny(out=tmp_path / "sees"))
    rl(tiny(out=tmp_path / "blind"))
    playing = EvaluateConfig(episodes=2, random_episodes=0, device="cpu")
    capsys.readouterr()
    result = evaluate(tmp_path / "sees", playing)
    assert result["live_units"] > FEW
    assert "of the units" not in capsys.readouterr().err

    def blinded(*args: Any, **options: Any) -> Player:
        player = load(*args, **options)
        head = canonical(player.model.policy).head
        assert head is not None
        torch.nn.init.zeros_(head.linear.weight)
        return player

    monkeypatch.setattr(play, "load", blinded)
    for shift, expected in ((None, "--set learning_rate=1e-4"), ("blur", "It was shown the game through blur")):
        result = evaluate(tmp_path / "blind", replace(playing, shift=shift))
        said = capsys.readouterr().err
        assert "stillsight: warning: 0.0% of the units of this policy's head" in said
        assert expected in said
        assert ("--set" in said) is (shift is None)
        (*_, line) = (tmp_path / "blind" / "evaluations.jsonl").read_text().splitlines()
        kept = json.loads(line)
        assert (kept["live_units"], kept["one_action"]) == (result["live_units"], result["one_action"]) == (0.0, True)


@pytest.mark.parametrize(
    ("mode", "chosen", "standardised"),
    [
        *((mode, None, True) for mode in ("frozen", "random", "finetune")),
        ("scratch", None, False),
        ("scratch", True, True),
        ("frozen", False, False),
    ],
)
def test_features_are_standardised_unless_a_network_begins_at_random_and_learns(
    tiny: Tiny, mode: str, chosen: bool | None, standardised: bool
) -> None:
    config = tiny(mode=mode, standardise_features=chosen).resolved()
    assert config.standardise_features is standardised
    agent = agent_of(config)
    head = canonical(agent.model.policy).head
    assert head is not None
    assert head.standardise.leaves is not standardised
    assert card(agent)["head"].startswith("standardised features" if standardised else "features as they are")
    facts = {"weights_sha256": "w", "encoder_sha256_before": "e", "encoder_sha256_after": "e"}
    pinned = pins(config, facts)
    assert pinned.get("standardise_features", True) is standardised
    assert ("standardise_features" in pinned) is not standardised, "cells of before pool with those of today"
