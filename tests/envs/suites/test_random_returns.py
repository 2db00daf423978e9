"""What rows say of random play is what was measured and is published beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillsight.envs import ROWS, EnvOptions, reference_returns


def measured(root: Path) -> dict[str, dict[str, object]]:
    lines = (root / "results/published/envs/random.jsonl").read_text().splitlines()
    return {line["env"]: line for line in map(json.loads, lines)}


def test_rows_have_the_returns_that_are_published_and_no_others(root: Path) -> None:
    known = measured(root)
    assert {row.id for row in ROWS.values() if row.random is not None} == known.keys()
    for env_id, line in known.items():
        mean = ROWS[env_id].random
        assert isinstance(line["mean"], float)
        assert mean == pytest.approx(line["mean"], rel=6e-4, abs=5e-4), env_id
        assert (line["episodes"], line["seed"]) == (100, 0)


@pytest.mark.parametrize("env_id", ["stillsight/Orchard-v0"])
def test_the_same_games_give_the_same_returns(env_id: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillsight.envs.making.action_seed", lambda seed: seed)  # as when they were measured
    score = reference_returns(env_id, 100, 0, options=ROWS[env_id].options)["random"]
    assert score["mean"] == measured(root)[env_id]["mean"]
    assert score["std"] == measured(root)[env_id]["std"]


def test_games_are_the_same_where_nothing_is_drawn() -> None:
    pytest.importorskip("pygame")
    row = ROWS["CartPole-v1"].options
    drawn, blind = (
        reference_returns("CartPole-v1", 3, 0, options=options)["random"]
        for options in (row.merge(size=16), EnvOptions(pixels=("off",), state=("on",)))
    )
    assert drawn == blind
    assert drawn["mean"] > 5
