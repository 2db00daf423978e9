"""Runs that are shorter than a rollout: what they do is said, and the same agent is not evaluated again and again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillsight.agents import RlConfig, rl

Tiny = Callable[..., RlConfig]


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]


def _card(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, str], str]:
    """Rows of the card, and all that was printed."""
    told = capsys.readouterr().out
    rows = [line.split(maxsplit=1) for line in told.splitlines() if line.startswith("  ")]
    return {row[0]: row[1].strip() for row in reversed(rows) if len(row) == 2}, told


def test_a_run_shorter_than_a_rollout_is_evaluated_once_and_told_whole(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rl(tiny("ppo", steps=10, eval_every=None, out=tmp_path / "run"))  # of 2 environments x 16 steps
    card, told = _card(capsys)
    assert card["steps"] == (
        "32, not 10: an update takes 2 x 16 (--n-envs, --set n_steps); the agent learns once, at their end"
    )
    assert card["evaluations"] == "1 episode of at most 10,000 steps when it has learned all"
    assert [row["step"] for row in _rows(tmp_path / "run")] == [32]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["eval_every"] == 32
    assert result["env_steps"] == 32
    assert "step 32/32" in told
    assert "10/10" not in told, "it goes on until the rollout is whole"


def test_evaluations_before_and_between_updates_are_named(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rl(tiny("ppo", steps=64, eval_every=8, eval_episodes=2, eval_max_steps=0, out=tmp_path / "run"))
    card, _ = _card(capsys)
    assert card["evaluations"] == (
        "2 episodes every 8 steps and when it has learned all; the first 4 before it learns anything, which begins "
        "after step 32. It learns every 32 steps, and is the same in between. Type --eval-every 32"
    )
    assert [row["step"] for row in _rows(tmp_path / "run")] == [8, 16, 24, 32, 40, 48, 56, 64], "as was asked for"


def test_of_a_replay_memory_it_is_known_when_learning_begins(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rl(tiny("dqn", steps=96, eval_every=24, out=tmp_path / "run"))  # learning_starts=24
    card, _ = _card(capsys)
    assert card["evaluations"] == (
        "1 episode of at most 10,000 steps every 24 steps and when it has learned all; the first before it learns "
        "anything, which begins after step 24"
    )


@pytest.mark.parametrize(
    ("steps", "algo", "every"),
    [(100, "ppo", 1_024), (8_000, "ppo", 1_024), (80_000, "ppo", 8_000), (100, "a2c", 80), (100, "dqn", 10)],
)
def test_by_default_no_agent_is_evaluated_twice(steps: int, algo: str, every: int) -> None:
    assert RlConfig(algo=algo, steps=steps).resolved().eval_every == every
