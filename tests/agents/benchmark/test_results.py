"""Where cells' records are kept: local folders and other addresses alike, whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from stillsight.agents.benchmark.grid.cell import Cell, Result
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.errors import RunError


def cell(key: str = "task__ppo__arm__seed0__01234567", score: float = 1.5) -> Cell:
    result = Result(
        machine={"cpu": "A CPU"},
        pins={"head": 512},
        curve=((100, score, 1.0),),
        scores={"clean": (score,)},
        cost={"wall_seconds": 2.0},
    )
    place: Any = {"task": "Task-v0", "algo": "ppo", "arm": "arm", "role": "frozen", "seed": 0, "budget": 200}
    return Cell(key=key, track="rl", result=result, **place)


@pytest.fixture(params=["folder", "address"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> Results:
    """Results in a folder that is not there yet, and in one that fsspec keeps in memory."""
    return Results(tmp_path / "new" / "grid" if request.param == "folder" else f"memory://{tmp_path.name}")


def test_a_record_is_kept_read_and_forgotten(results: Results) -> None:
    assert results.read(cell().key) is None
    results.write(cell())
    assert results.read(cell().key) == cell()
    results.write(cell(score=9.0))
    assert results.read(cell().key) == cell(score=9.0)
    results.remove(cell().key)
    assert results.read(cell().key) is None
    results.remove(cell().key)  # there is nothing to forget


def test_a_record_that_is_set_aside_is_kept_and_is_no_cell(results: Results) -> None:
    assert results.set_aside(cell().key) is None
    for score in (1.5, 9.0):
        results.write(cell(score=score))
        results.set_aside(cell().key)
        assert results.read(cell().key) is None
    kept = [results.get(f"cells/{cell().key}.json.aside{number}") for number in (1, 2)]
    assert kept == [cell().text(), cell(score=9.0).text()], "the second takes nobody's place"


def test_small_files_lie_beside_the_records(results: Results) -> None:
    assert results.get("SPEC.toml") is None
    results.put("SPEC.toml", "seeds = 5  # fünf\n")
    assert results.get("SPEC.toml") == "seeds = 5  # fünf\n"


@pytest.mark.parametrize("damaged", ['{"key": "ha', "[]", json.dumps({"key": "half"}), cell("another").text()])
def test_a_damaged_record_is_none(results: Results, damaged: str) -> None:
    results.put("cells/half.json", damaged)
    assert results.read("half") is None


def test_a_folder_holds_the_record_and_nothing_else(tmp_path: Path) -> None:
    Results(tmp_path).write(cell())
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [
        f"cells/{cell().key}.json"
    ]
    assert (tmp_path / "cells" / f"{cell().key}.json").read_text() == cell().text()


def test_a_write_that_fails_leaves_the_old_record(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    results.write(cell())

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(results.files), "mv", full)
        with pytest.raises(OSError, match="No space left"):
            results.write(cell(score=9.0))
    assert results.read(cell().key) == cell()
    names = results.files.ls(f"{results.root}/cells", detail=False)
    assert [name.rpartition("/")[2] for name in names] == [f"{cell().key}.json"]


def _write_often(folder: Path) -> None:
    for score in range(300):
        Results(folder).write(cell(score=float(score)))


def test_a_reader_never_sees_half_of_a_record(tmp_path: Path) -> None:
    Results(tmp_path).write(cell())
    path = tmp_path / "cells" / f"{cell().key}.json"
    writer = multiprocessing.get_context("fork").Process(target=_write_often, args=(tmp_path,))
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(Cell.parse(path.read_bytes(), cell().key).score)
    writer.join()
    assert writer.exitcode == 0
    assert 299.0 in {*seen, Cell.parse(path.read_bytes(), cell().key).score}


def test_a_relative_folder_is_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Results(Path("grid")).write(cell())
    assert (tmp_path / "grid" / "cells" / f"{cell().key}.json").is_file()
    assert Results("grid").address == "grid"  # what a worker is told


def test_an_address_that_fsspec_does_not_know_is_one_sentence() -> None:
    with pytest.raises(RunError, match="nowhere://x cannot be reached"):
        Results("nowhere://x")
