"""The plan: what is said while kinds of cells are tried, and an estimate that takes no start-up for training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stillsight.agents import RlConfig, cli
from stillsight.agents.benchmark.grid.cell import Cell, Work
from stillsight.agents.benchmark.running import plan
from stillsight.agents.benchmark.running.forecast import forecast
from stillsight.agents.benchmark.running.trial import MOMENT, Mark, Pace, _shortened

SPEC = """
seeds = 2
episodes = 2
controls = []
[rl]
steps = 64
n_envs = 2
eval_every = 32
eval_episodes = 1
standardise = 8
head = 8
max_episode_steps = 20
set = ["n_steps=16", "batch_size=16", "n_epochs=1"]
[[task]]
env = "stillsight/Orchard-v0"
[[encoder]]
encoder = "retina"
taps = ["stem"]
[[arm]]
name = "broken"
role = "random"
encoder = "retina"
mode = "random"
tap = "stem"
set = ["n_steps=1", "batch_size=16"]
n_envs = 1
"""
GROUP = "stillsight/Orchard-v0/ppo/retina stem frozen"


def _record(**changed: float) -> dict[str, float]:
    parts = {"start": 10.0, "waiting_step": 0.5, "step": 2.0, "evaluation": 7.0, "episode": 3.0, "bytes": 0.0}
    return parts | changed


def test_what_comes_once_is_counted_once() -> None:
    """The start, whatever the number of steps; evaluations and episodes as often as they are played."""
    work = Work(RlConfig(steps=1_000, n_envs=4, eval_every=100, eval_episodes=6), ("noise",), episodes=5, videos=1)
    assert forecast(_record(), work) == 10 + 2 * 1_000 + 7 * 10 * 2 + 3 * (5 * 2 + 1)
    longer = replace(work, config=replace(work.config, steps=2_000, eval_every=0))
    assert forecast(_record(), longer) == 10 + 2 * 2_000 + 7 * 1 * 2 + 3 * (5 * 2 + 1)
    off_policy = RlConfig(algo="dqn", steps=6_000, eval_every=0, eval_episodes=1)  # which learns from 5,000 on
    assert forecast(_record(), Work(off_policy, (), 1, 0)) == 10 + 0.5 * 5_000 + 2 * 1_000 + 7 + 3
    short = replace(off_policy, steps=3_000)
    assert forecast(_record(), Work(short, (), 1, 0)) == 10 + 0.5 * 3_000 + 7 + 3


def _marked(pace: Pace, *marks: tuple[int, float]) -> Pace:
    pace.marks = [Mark(*mark) for mark in marks]
    return pace


def test_the_pace_is_that_after_the_first_update_and_its_delay() -> None:
    pace = _marked(Pace(learning_starts=0), (0, 100.0), (64, 130.0), (128, 131.0), (192, 132.0))
    assert pace.steps() == (2 / 128, 2 / 128)  # and not 32 / 192
    assert pace._on_step(), "it goes on until it has learned for a moment"
    assert not _marked(pace, (0, 100.0), (64, 130.0), (128, 131.0), (192, 130.0 + MOMENT))._on_step()
    waiting = _marked(Pace(learning_starts=10), (0, 0.0), (4, 5.0), (8, 5.4), (12, 9.0), (16, 11.0))
    assert waiting.steps() == (pytest.approx(0.1), 0.5)
    ended = _marked(Pace(learning_starts=0), (0, 0.0))
    ended.ended = type(ended.ended)(50, 25.0)
    assert ended.steps() == (0.5, 0.5), "of a run that ends in its first rollout, what all of it took"


def test_a_trial_learns_from_as_many_batches_a_step() -> None:
    ppo = _shortened(RlConfig().resolved())
    assert {"n_steps=32", "batch_size=256", "n_epochs=6"} < set(ppo.set)  # 8 environments x 32 are a batch
    assert ppo.steps == RlConfig().steps, "schedules and the choice of an engine are the whole run's"
    assert (ppo.eval_every, ppo.eval_episodes) == (0, 8)
    assert "learning_starts=256" in _shortened(RlConfig(algo="dqn").resolved()).set


def test_each_kind_is_tried_once_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "SPEC.toml").write_text(SPEC)
    words = ["benchmark", str(tmp_path / "SPEC.toml"), "--out", str(tmp_path), "--plan", "--jobs", "1"]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "Kinds of cells that have not run yet: 2. One of each is tried for a moment" in told
    rows = [line for line in told.splitlines() if re.match(r"\d of 2  ", line)]
    known = json.loads((tmp_path / "estimates.json").read_text())
    assert len(rows) == 2
    row = re.fullmatch(r"1 of 2  (.*): (\d+) s once, \S+ ms an env step; (\d+) s a cell", rows[0])
    assert row is not None, rows[0]
    assert [kind.rpartition("/")[0] for kind in known] == [row[1]]
    assert rows[1].startswith("2 of 2  ")
    assert ": its trial failed, as the cell would: " in rows[1]
    [trial] = known.values()
    assert 0 < trial["step"] < 0.2, "64 steps of a second in all; a start is not spread over them"
    assert trial["start"] > 10 * trial["step"]
    seconds = int(row[3])
    assert re.search(rf"about {2 * seconds}|about {2 * seconds - 1}|about {2 * seconds + 1}", told)
    assert "2 of a kind that has not run yet" in told

    def not_tried(cells: Sequence[Cell], *_: object, **__: object) -> Iterator[Cell]:
        yield from (cell.failed("it is not tried here") for cell in cells)

    monkeypatch.setattr(plan, "run_local", not_tried)
    assert cli.main(words) == 0
    again = capsys.readouterr().out
    assert "Kinds of cells that have not run yet: 1." in again, (
        "what was tried is known, and what failed is tried again"
    )
    (tmp_path / "SPEC.toml").write_text(SPEC.replace("steps = 64", "steps = 64\nsize = 40"))
    assert cli.main(words) == 0
    other = capsys.readouterr().out
    assert "Kinds of cells that have not run yet: 2." in other, "an arm of that name with other settings is another"
