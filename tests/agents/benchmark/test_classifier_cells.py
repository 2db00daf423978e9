"""Cells of data sets: what they cost, whoever encoded their images, and the seconds of their curves."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillsight.agents.benchmark.analysis.analysis import analyse
from stillsight.agents.benchmark.analysis.collect import collect
from stillsight.agents.benchmark.grid.cell import Cell, Result
from stillsight.agents.benchmark.grid.parse import parse_spec
from stillsight.agents.benchmark.report import tables
from stillsight.agents.benchmark.report.table import markdown
from stillsight.agents.benchmark.running import worker
from stillsight.agents.benchmark.running.plan import _measured
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.runs.records import read_lines
from stillsight.agents.runs.trust import Trust

pytestmark = pytest.mark.usefixtures("settings_restored")

GRID = """
name = "paint"
seeds = 2
controls = ["warm-start"]
rates = [0.3]
[cifar]
device = "cpu"
precision = "float32"
cache = "{cache}"
epochs = 2
batch = 20
crop = 0
[[task]]
dataset = "{paint}"
[[encoder]]
encoder = "retina"
taps = ["layer1"]
"""
ANY = Trust(all=True)
TAKEN = ("wall_seconds", "cpu_seconds", "energy_joules")


@pytest.fixture(scope="module")
def folder(paint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark whose cells have run, one after the other."""
    folder = tmp_path_factory.mktemp("cells")
    text = GRID.format(cache=folder / "cache", paint=paint)
    (folder / "SPEC.toml").write_text(text)
    for cell in parse_spec(text, trust=ANY).cells():
        Results(folder).write(worker.run_cell(cell, folder / "runs", ANY))
    return folder


def results(folder: Path, role: str) -> list[Result]:
    cells = [Cell.parse(path.read_bytes(), path.stem) for path in sorted((folder / "cells").iterdir())]
    assert [cell.error for cell in cells] == [None] * 4
    return [cell.result for cell in cells if cell.role == role and cell.result is not None]


def test_what_a_cell_takes_whose_features_were_at_hand_is_not_known(folder: Path) -> None:
    """The failure it prevents: medians of cells that encoded and of others that did not make 224 pixels a side look
    cheaper than 64."""
    first, second = results(folder, "frozen")
    counts = [(one.cost["images_encoded"], one.cost["images_at_hand"]) for one in (first, second)]
    assert counts == [(40, 0), (0, 40)], "train, validation and test images, once"
    assert first.cost["wall_seconds"]
    assert first.cost["cpu_seconds"]
    assert [second.cost[name] for name in TAKEN] == [None] * 3
    assert second.cost["trainable_parameters"] == first.cost["trainable_parameters"]
    assert second.took is not None, "by which the plan tells how long another takes"


def test_a_warm_start_encodes_for_itself_and_its_curve_tells_it(folder: Path) -> None:
    for one in results(folder, "warm-start"):
        assert one.cost["images_at_hand"] == 0
        assert one.cost["wall_seconds"]
        assert one.run is not None
        rows = read_lines(folder / one.run / "metrics.jsonl")
        assert [row[2] for row in one.curve] == [row["train_seconds"] for row in rows if "epoch" in row]
        assert 0 < one.curve[0][2] < one.curve[1][2]
        assert not (folder / one.run / "features").exists(), "nothing that is as large stays"


def test_the_table_and_the_plan_do_without_what_is_not_known(folder: Path) -> None:
    ((estimates, _),) = analyse(collect(folder)).settings
    costs = {one.arm.role: one.costs for one in estimates.arms}
    first, second = results(folder, "frozen")
    assert costs["frozen"]["wall_seconds"] == first.cost["wall_seconds"]
    (frozen,) = (one.arm.label for one in estimates.arms if one.arm.role == "frozen")
    assert (
        "Seconds, CPU seconds and energy are those of the cells that encoded all their images themselves: 1 of 2 of "
        f"{frozen}. The others found"
    ) in " ".join(tables.cost(estimates).notes)
    assert markdown(tables.cost(estimates))
    spec = parse_spec((folder / "SPEC.toml").read_text(), trust=ANY)
    seconds = {found["seconds"] for found in _measured(spec, Results(folder)).values()}
    assert second.took in seconds


def test_a_table_of_which_nothing_is_known_is_shown_all_the_same(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "cells").iterdir():
        if Cell.parse(path.read_bytes(), path.stem).seed == 1:
            (tmp_path / "cells").mkdir(exist_ok=True)
            (tmp_path / "cells" / path.name).write_bytes(path.read_bytes())
    ((estimates, _),) = analyse(collect(tmp_path)).settings
    table = tables.cost(estimates)
    (row,) = (row for row in table.rows if row[0].text.endswith("frozen"))
    assert row[table.columns.index("seconds of training")] == tables.UNKNOWN
    assert "0 of 1 of" in " ".join(table.notes)
