"""A cell that was interrupted goes on with its agent, and ends as if nothing had happened, or begins anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback

from stillsight.agents.benchmark.grid.cell import Cell
from stillsight.agents.benchmark.grid.parse import parse_spec
from stillsight.agents.benchmark.grid.pins import code_pins
from stillsight.agents.benchmark.running import worker
from stillsight.agents.benchmark.running.interrupted import code_file, goes_on
from stillsight.agents.playing import play
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.records import read_lines
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.episodes import Episode
from stillsight.agents.training.learn import learn
from stillsight.encoders.mode import Mode
from stillsight.envs import EnvOptions

GRID = """
name = "interrupted"
seeds = 1
episodes = 2
controls = []
videos = 0
[rl]
steps = 128
n_envs = 2
eval_every = 32
checkpoint_every = 32
eval_episodes = 1
standardise = 8
head = 8
compress = 4
max_episode_steps = 20
workers = "off"
engine = "folded"
device = "cpu"
threads = 1
set = ["n_steps=16", "batch_size=16", "n_epochs=1"]
[[task]]
env = "stillsight/Orchard-v0"
[[encoder]]
encoder = "retina"
taps = ["stem"]
"""


class _Interrupt(BaseCallback):
    """Breaks off training at step 84, in the middle of a rollout."""

    def _on_step(self) -> bool:
        if self.num_timesteps >= 84:
            raise OSError("the machine went down")
        return True


@pytest.fixture(scope="module")
def cell() -> Cell:
    (only,) = parse_spec(GRID).cells()
    return only


@pytest.fixture(scope="module")
def whole(cell: Cell, tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """The cell when nothing interrupts it."""
    return worker.run_cell(cell, tmp_path_factory.mktemp("whole"))


def _interrupted(cell: Cell, runs: Path) -> Path:
    """The run folder that an interruption leaves."""
    folder = runs / cell.key
    config = cell.planned_work().config
    assert isinstance(config, RlConfig)
    code_file(folder).write_text(json.dumps(code_pins(config)))
    config = replace(config, out=folder).resolved()
    with pytest.raises(OSError, match="went down"), Run(folder, "rl", config) as run:
        learn(config, run, [_Interrupt()])
    return folder


def _sessions(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((folder / "machine.json").read_text())["sessions"]
    return found


def _alike(one: Cell, other: Cell) -> bool:
    assert one.result is not None, one.error
    assert other.result is not None, other.error
    curves = [[row[:2] for row in ended.result.curve] for ended in (one, other) if ended.result is not None]
    return curves[0] == curves[1] and (one.result.scores, one.result.pins) == (other.result.scores, other.result.pins)


def test_a_rate_is_chosen_by_episodes_that_no_reported_agent_plays(
    cell: Cell, whole: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played, under = [], worker.episodes_under

    def watched(*args: Any, **kwargs: Any) -> list[Episode]:
        played.append(range(kwargs["seed"], kwargs["seed"] + kwargs["episodes"]))
        return under(*args, **kwargs)

    monkeypatch.setattr(worker, "episodes_under", watched)
    ended = worker.run_cell(replace(cell, tuned=1.0), tmp_path)
    assert ended.result is not None, ended.error
    assert whole.result is not None
    assert played == [range(40_000, 40_002)]
    assert ended.result.pins == {**whole.result.pins, "scored_apart": True}


def test_it_goes_on_from_its_last_checkpoint_to_the_same_numbers(cell: Cell, whole: Cell, tmp_path: Path) -> None:
    folder = _interrupted(cell, tmp_path)
    before = len(read_lines(folder / "eval.jsonl"))
    ended = worker.run_cell(cell, tmp_path)
    assert before == 2
    assert _alike(ended, whole)
    assert len(_sessions(folder)) == 2
    assert ended.result is not None
    assert ended.result.cost["cpu_seconds"] is None, "what the first try took in all is not known"
    assert ended.result.cost["wall_seconds"] > 0
    seconds = [row[2:] for row in ended.result.curve]
    assert all(len(pair) == 2 for pair in seconds)
    assert seconds == sorted(seconds), "both clocks go on where they stood"


def test_one_that_was_stopped_in_a_rollout_goes_on_from_the_checkpoint_before(
    cell: Cell, whole: Cell, tmp_path: Path
) -> None:
    folder = _interrupted(cell, tmp_path)
    last = folder / "checkpoints" / "last.safetensors"
    content = checkpoint.load(last)
    assert content["step"] == 64
    checkpoint.save(last, {**content, "games": None})  # as a signal in the middle of a rollout leaves it
    assert _alike(worker.run_cell(cell, tmp_path), whole)
    assert len(_sessions(folder)) == 2


def test_without_games_in_a_checkpoint_it_begins_anew(cell: Cell, whole: Cell, tmp_path: Path) -> None:
    folder = _interrupted(cell, tmp_path)
    for path in (folder / "checkpoints").glob("*.safetensors"):
        checkpoint.save(path, {**checkpoint.load(path), "games": None})
    assert _alike(worker.run_cell(cell, tmp_path), whole)
    assert len(_sessions(folder)) == 1


@pytest.mark.parametrize("fact", ["commit", "changes"])
def test_on_another_machine_or_commit_it_begins_anew(cell: Cell, whole: Cell, tmp_path: Path, fact: str) -> None:
    folder = _interrupted(cell, tmp_path)
    machine = {"sessions": [{**_sessions(folder)[0], fact: "0" * 40}]}
    (folder / "machine.json").write_text(json.dumps(machine))
    assert _alike(worker.run_cell(cell, tmp_path), whole)
    assert [session.get(fact) for session in _sessions(folder)] != ["0" * 40]


@pytest.mark.parametrize("known", [True, False])
def test_of_code_that_was_edited_since_it_begins_anew(cell: Cell, whole: Cell, tmp_path: Path, known: bool) -> None:
    """The failure it prevents: a cell learns half in one game and half in another, and is pinned to the latter."""
    folder = _interrupted(cell, tmp_path)
    if known:
        edited = {**json.loads(code_file(folder).read_text()), "env_version": "my_envs 0a1b2c"}
        code_file(folder).write_text(json.dumps(edited))
    else:  # as versions before this one left it
        code_file(folder).unlink()
    assert _alike(worker.run_cell(cell, tmp_path), whole)
    assert len(_sessions(folder)) == 1
    assert json.loads(code_file(folder).read_text()) == code_pins(cell.planned_work().config)


def test_a_cell_is_pinned_to_the_code_that_it_began_with(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code is imported once: a file that is edited while a cell runs is the next one's."""
    versions = iter(["before", "while it ran"])
    monkeypatch.setattr(worker, "code_pins", lambda _: {"env_version": next(versions)})
    ended = worker.run_cell(cell, tmp_path)
    assert ended.result is not None, ended.error
    assert ended.result.pins["env_version"] == "before"


def test_at_another_rate_it_begins_anew(cell: Cell, tmp_path: Path) -> None:
    """A cell has one name at all rates: what was begun at one was recorded as if it had been learned at another."""

    def at(rate: float) -> Cell:
        work = cell.planned_work()
        config = replace(work.config, mode=Mode.FINETUNE, encoder_lr=rate, steps=96)
        return replace(cell, work=replace(work, config=config, episodes=1))

    folder, other = _interrupted(at(0.5), tmp_path), at(0.25)
    same, config = at(0.5).planned_work().config, other.planned_work().config
    assert isinstance(same, RlConfig)
    assert isinstance(config, RlConfig)
    code = code_pins(same)
    assert goes_on(folder, same, code)
    assert not goes_on(folder, config, code)
    ended = worker.run_cell(other, tmp_path)
    assert ended.result is not None, ended.error
    assert ended.result.pins["encoder_lr"] == 0.25
    assert json.loads((folder / "config.json").read_text())["encoder_lr"] == 0.25
    assert len(_sessions(folder)) == 1


def test_one_that_was_trained_whole_is_only_played(cell: Cell, whole: Cell, tmp_path: Path) -> None:
    worker.run_cell(cell, tmp_path)
    folder = tmp_path / cell.key
    rows, stood = (folder / "metrics.jsonl").read_bytes(), (folder / "done").stat().st_mtime_ns
    assert _alike(worker.run_cell(cell, tmp_path), whole)
    assert (folder / "metrics.jsonl").read_bytes() == rows
    assert (folder / "done").stat().st_mtime_ns == stood


def test_the_score_of_a_cell_is_of_the_game_as_its_own_evaluations_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure it prevents: an agent that learned in a scene without shadows (`shift = "plain"`) is scored in one
    with them, and the loss under an unseen shift is called clean."""
    text = GRID.replace("videos = 0", 'videos = 0\nshifts = ["blur"]').replace("[rl]", '[rl]\nshift = "noise"')
    (cell,) = parse_spec(text.replace("steps = 128", "steps = 32")).cells()
    seen = []

    def played(_: object, options: EnvOptions, *, episodes: int, **__: object) -> list[Episode]:
        seen.append(options.shift)
        return [Episode(float(len(seen)), 20, False)] * episodes

    monkeypatch.setattr(play, "play_seeds", played)
    ended = worker.run_cell(cell, tmp_path)
    assert seen == ["noise", "blur"]
    assert ended.result is not None
    assert ended.result.scores == {"clean": (1.0, 1.0), "blur": (2.0, 2.0)}
