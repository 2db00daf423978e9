"""The benchmark cell, to and from JSON: published records read and are written again to the byte."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillsight.agents.benchmark.grid import parse
from stillsight.agents.benchmark.grid.cell import Cell, CellError, Result
from stillsight.agents.benchmark.grid.parse import parse_spec, read_spec
from stillsight.agents.benchmark.running.local import RENDERING
from stillsight.envs import EnvError
from stillsight.envs.suites import highway

PUBLISHED = Path(__file__).resolve().parents[3] / "results" / "published" / "benchmark"
RECORD: dict[str, Any] = {
    "key": "k",
    "track": "rl",
    "task": "Task-v0",
    "algo": "ppo",
    "arm": "eye frozen",
    "role": "frozen",
    "seed": 3,
    "tuned": None,
    "budget": 200,
    "state": "done",
    "error": None,
    "machine": {"cpu": "A CPU", "gpus": []},
    "pins": {"head": 512, "set": ["n_steps=16"]},
    "curve": [[100, 0.5, 1.25], [200, 4.0, 3.0]],
    "scores": {"clean": [1.0, 2.0, 6.0], "hue": [0.0]},
    "cost": {"wall_seconds": 98.2, "energy_joules": None},
    "run": "runs/k",
    "took": 120.5,
    "bytes": 4096,
}


OF_NO_CONTROL = {"orchard-v0__ppo__retina-layer2-finetuned-rate-0.1__seed1000__53677d73"}
"""Published beside the cells that a SPEC.toml asks for, as its report says."""


def test_published_records_are_written_again_to_the_byte() -> None:
    paths = sorted(PUBLISHED.glob("*/cells/*.json"))
    assert len(paths) >= 262
    for path in paths:
        cell = Cell.parse(path.read_bytes(), path.stem)
        assert cell.state == "done"
        assert cell.text().encode() == path.read_bytes(), path


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*/SPEC.toml")), ids=lambda path: path.parent.name)
def test_published_specs_have_no_key_without_effect(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "_check_cells", lambda *_: None)  # which need their games and weights
    asked = read_spec(path)
    ended = {one.stem for one in path.parent.glob("cells/*.json")} - OF_NO_CONTROL
    assert ended <= set(asked.expected())


# These two grids were run when one random arm stood beside all taps; their reports answer nothing for the other taps.
NOT_RUN: dict[str, dict[str, int]] = {
    "four-tasks": {"ppo__mobilenet-v2-features.3-random": 4 * 5},
    "orchard": {"ppo__retina-layer3-random": 10},
}
"""Published grid -> part of the keys of cells that it lacks, and how many there are of them."""


# A grid without cells is still to be run.
RUN = sorted(path for path in PUBLISHED.glob("*/SPEC.toml") if (path.parent / "cells").is_dir())


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.parent.name)
def test_planned_cells_of_published_specs_have_the_published_keys_and_survive_json(path: Path) -> None:
    cells = read_spec(path, check=False).all_cells()
    planned = {cell.key for cell in cells if cell.tuned is None}
    lacking = NOT_RUN.get(path.parent.name, {})
    run = {one.stem for one in path.parent.glob("cells/*.json")}
    assert {part: sum(part in key for key in planned - run) for part in lacking} == lacking
    assert len(planned - run) == sum(lacking.values())
    for cell in cells:
        assert cell.state == "planned"
        assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell


def test_a_record_is_read_field_by_field() -> None:
    cell = Cell.from_json(RECORD)
    assert (cell.key, cell.seed, cell.tuned, cell.budget, cell.state) == ("k", 3, None, 200, "done")
    assert cell.result == Result(
        machine={"cpu": "A CPU", "gpus": []},
        pins={"head": 512, "set": ["n_steps=16"]},
        curve=((100, 0.5, 1.25), (200, 4.0, 3.0)),
        scores={"clean": (1.0, 2.0, 6.0), "hue": (0.0,)},
        cost={"wall_seconds": 98.2, "energy_joules": None},
        run="runs/k",
        took=120.5,
        bytes=4096,
    )
    assert list(cell.to_json()) == list(RECORD)
    assert cell.to_json() == RECORD


@pytest.mark.parametrize("name", ["live_units", "clipped_features"])
def test_what_a_head_saw_is_a_share_or_unknown(name: str) -> None:
    cell = Cell.from_json(RECORD | {name: 0.25})
    assert getattr(cell.result, name) == 0.25
    assert cell.to_json()[name] == 0.25
    assert name not in Cell.from_json(RECORD).to_json()
    for wrong in (1.5, -0.1, "much"):
        with pytest.raises(CellError, match=name):
            Cell.from_json(RECORD | {name: wrong})


def test_a_cell_keeps_the_share_of_its_episodes_that_succeed() -> None:
    record = RECORD | {"success": {"clean": 0.25, "hue": 0.0}}
    cell = Cell.from_json(record)
    assert cell.result is not None
    assert cell.result.success == {"clean": 0.25, "hue": 0.0}
    assert cell.to_json() == record
    for wrong in (1.5, -0.1, "all"):
        with pytest.raises(CellError, match="what it says of its run cannot be read"):
            Cell.from_json(RECORD | {"success": {"clean": wrong}})


def test_what_a_record_has_beside_it_is_passed_over_and_what_is_new_in_it_may_be_missing() -> None:
    old = {name: value for name, value in RECORD.items() if name not in ("run", "took", "bytes", "tuned")}
    cell = Cell.from_json({**old, "colour": "red"})
    assert cell.result is not None
    assert (cell.tuned, cell.result.run, cell.result.took, cell.result.bytes) == (None, None, None, None)
    assert cell.to_json() == {**old, "tuned": None}


def test_the_score_of_a_cell_is_its_clean_mean_and_a_failed_one_wins_nothing() -> None:
    cell = Cell.from_json(RECORD)
    assert cell.score == 3.0
    assert cell.failed("it crashed").score == -math.inf


def test_a_failed_cell_keeps_one_line_of_its_error() -> None:
    cell = Cell.from_json(RECORD).failed("RuntimeError: it\n  crashed " + "x " * 400)
    assert cell.state == "failed"
    assert cell.error is not None
    assert cell.error.startswith("RuntimeError: it crashed x x")
    assert cell.error.endswith(" ...")
    assert len(cell.error) <= 300
    assert list(cell.to_json()) == list(RECORD)[:11]
    assert Cell.parse(cell.text().encode(), "k") == cell


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"scores": {"clean": [1.0, math.nan]}}, "nan stands among its clean scores"),
        ({"scores": {"clean": [1.0], "hue": [-math.inf]}}, "-inf stands among its hue scores"),
        ({"curve": [[100, math.inf, 1.0]]}, "inf stands among its evaluations"),
        ({"cost": {"wall_seconds": math.nan}}, "nan stands among its costs (wall_seconds)"),
    ],
)
def test_numbers_that_are_not_finite_make_a_failed_cell_read_or_run(changes: dict[str, Any], error: str) -> None:
    """A file that says so, and a run that ends so."""
    read = Cell.from_json(RECORD | changes)
    assert (read.state, read.error, read.result) == ("failed", error, None)
    record = RECORD | changes
    result = Result({}, {}, tuple(map(tuple, record["curve"])), record["scores"], record["cost"])
    ended = Cell.from_json(RECORD).done(result)
    assert (ended.state, ended.error, ended.result) == ("failed", error, None)


@pytest.mark.parametrize(
    ("changes", "flaw"),
    [
        ({"key": 3}, "its key is 3, and must be text"),
        ({"role": None}, "its role is None, and must be text"),
        ({"track": "chess"}, "its track is 'chess', and must be rl or cifar"),
        ({"state": "half"}, "its state is 'half', and must be done or failed"),
        ({"seed": "1"}, "its seed is '1', and must be a whole number"),
        ({"budget": None}, "its budget is None, and must be a number"),
        ({"tuned": "0.3"}, "its tuned is '0.3', and must be a number"),
        ({"machine": []}, "it has no machine"),
        ({"pins": None}, "it has no pins"),
        ({"scores": {"hue": [1.0]}}, "it has no clean scores"),
        ({"scores": {"clean": []}}, "it has no clean scores"),
        ({"scores": {"clean": ["many"]}}, "what should be a number in it is none"),
        ({"scores": {"clean": 3.0}}, "what should be a number in it is none"),
        ({"curve": [7]}, "what should be a number in it is none"),
        ({"cost": {"wall_seconds": "long"}}, "what should be a number in it is none"),
        ({"curve": [[100, 1.0]]}, "a row of its curve is not steps, return and seconds"),
    ],
)
def test_a_record_that_is_no_cell_is_refused_with_its_flaw(changes: dict[str, Any], flaw: str) -> None:
    with pytest.raises(CellError) as error:
        Cell.from_json(RECORD | changes)
    assert str(error.value) == flaw


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        (b'{"key": "ha', "its file cannot be read: "),
        (b"\xff\xfe\x00", "its file cannot be read: "),
        (b"[]", "its file holds no JSON object"),
        (json.dumps({**RECORD, "key": "other"}).encode(), "its file says that it is other"),
        (
            json.dumps({**RECORD, "state": "planned", "work": {}}).encode(),
            "its work cannot be read: KeyError: 'config'",
        ),
    ],
)
def test_a_file_that_holds_no_ended_cell_is_refused(text: bytes, flaw: str) -> None:
    with pytest.raises(CellError, match=flaw):
        Cell.parse(text, "k")


def test_a_file_that_holds_a_planned_cell_is_refused() -> None:
    spec = parse_spec('[[task]]\nenv = "stillsight/Orchard-v0"\n[[encoder]]\nencoder = "retina"', check=False)
    cell = spec.cells()[0]
    with pytest.raises(CellError, match="its state is 'planned', and must be done or failed"):
        Cell.parse(cell.text().encode(), cell.key)


def test_a_cell_that_ended_is_not_run_again() -> None:
    with pytest.raises(CellError, match="The cell k is done, and only planned cells can be run"):
        Cell.from_json(RECORD).planned_work()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(RECORD)), JSON)
def test_whatever_stands_in_a_field_is_read_or_refused(name: str, value: Any) -> None:
    """A stranger's file ends in a sentence, and never in a traceback."""
    for state in ("done", "failed", "planned"):
        _read_or_refused({**RECORD, "state": state, "work": value, name: value})


def _read_or_refused(record: dict[str, Any]) -> None:
    try:
        cell = Cell.from_json(record)
    except CellError:
        return
    assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell


def test_a_workers_environment_lets_every_suite_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with pytest.raises(EnvError, match="would be black"):
        highway.check_drawing("highway-fast-v0")
    for name, value in RENDERING.items():
        monkeypatch.setenv(name, value)
    highway.check_drawing("highway-fast-v0")
