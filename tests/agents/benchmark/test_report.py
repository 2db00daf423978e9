"""Reports on made-up cells whose statistics are known by hand: tables, figures, page, and cells that do not count."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillsight.agents.benchmark.analysis.aggregate import aggregate
from stillsight.agents.benchmark.analysis.analysis import Analysis, analyse
from stillsight.agents.benchmark.analysis.collect import Grid, collect
from stillsight.agents.benchmark.analysis.estimates import Estimates
from stillsight.agents.benchmark.analysis.setting import Arm, Setting
from stillsight.agents.benchmark.benchmark_config import ReportConfig
from stillsight.agents.benchmark.grid.cell import Cell
from stillsight.agents.benchmark.grid.parse import read_spec
from stillsight.agents.benchmark.grid.spec import Task
from stillsight.agents.benchmark.report import figures, palette, tables
from stillsight.agents.benchmark.report.numbers import Numbers
from stillsight.agents.benchmark.report.report import report
from stillsight.agents.benchmark.report.table import markdown
from stillsight.agents.errors import RunError

MACHINE = {
    "date": "2026-11-24T10:00:00Z",
    "commit": "5f8a022",
    "python": "3.11.7",
    "versions": {"torch": "2.14.1"},
    "cpu": "A CPU",
    "cores": 2,
    "threads": 1,
    "gpus": [],
}
EVIL = "<script>alert(1)</script> | $x_$ `b`"
"""A name that would run in a page, break a table, and be an equation in a figure."""


def cell(arm: str, role: str, seed: int, score: float, **given: Any) -> dict[str, Any]:
    """A finished cell whose curve rises from 0 at step 100 to `score` at step 200."""
    task, algo = given.pop("task", "stillsight/Tiny-v0"), given.pop("algo", "ppo")
    return {
        "key": f"{re.sub('[^a-z0-9]+', '-', f'{task} {algo} {arm}'.lower())}__seed{seed}",
        "state": "done",
        "error": None,
        "track": "rl",
        "task": task,
        "algo": algo,
        "arm": arm,
        "role": role,
        "seed": seed,
        "tuned": None,
        "budget": 200,
        "pins": {"weights_sha256": "a" * 64, "head": 512},
        "curve": [[100, 0.0, 1.0], [200, score, 3.0]],
        "scores": {"clean": [score - 1, score + 1], "noise": [score / 2]},
        "cost": {
            "wall_seconds": 98.2,
            "env_steps_per_s": 610.0,
            "images_per_step": 1.0,
            "peak_memory_bytes": 812_000_000,
            "trainable_parameters": 212_000,
            "energy_joules": None,
        },
        "machine": MACHINE,
        **given,
    }


def write(folder: Path, cells: Sequence[Mapping[str, Any]], references: Mapping[str, Any] | None = None) -> Path:
    (folder / "cells").mkdir(parents=True)
    for one in cells:
        (folder / "cells" / f"{one['key']}.json").write_text(json.dumps(one))
    if references is not None:
        (folder / "references.json").write_text(json.dumps(references))
    return folder


REFERENCES = {
    "stillsight/Tiny-v0": {
        "random": {"mean": 0.0, "std": 0.5, "episodes": 20},
        "oracle": {"mean": 8.0, "std": 0.25, "episodes": 20},
    }
}
TINY = [
    *(cell("eye frozen", "frozen", seed, 4.0) for seed in range(5)),
    *(cell("nature scratch", "scratch", seed, 2.0) for seed in range(5)),
]


def tiny(tmp_path: Path, cells: Sequence[Mapping[str, Any]] = TINY) -> tuple[Estimates, Analysis]:
    analysis = analyse(collect(write(tmp_path / "tiny", cells, REFERENCES)))
    return analysis.settings[0][0], analysis


def test_scores_of_seeds_that_agree_are_known_by_hand(tmp_path: Path) -> None:
    estimates, _ = tiny(tmp_path)
    assert markdown(tables.scores(estimates)) == (
        "### stillsight/Tiny-v0, ppo: scores\n\n"
        "| arm | role | seeds | IQM (95 % interval) | mean ± std | P(better than nature scratch) "
        "| area under curve | steps to 2.00 | reached |\n"
        "|---|---|---:|---:|---:|---:|---:|---:|---:|\n"
        "| eye frozen | frozen | 5 | 4.00 (4.00 to 4.00) | 4.00 ± 0.00 | 1.00 (1.00 to 1.00) | 2.00 | 150 | 5 of 5 |\n"
        "| nature scratch | scratch | 5 | 2.00 (2.00 to 2.00) | 2.00 ± 0.00 | – | 1.00 | 200 | 5 of 5 |\n"
        "| oracle | reference | – | – | 8.00 ± 0.25 | – | – | – | – |\n"
        "| random | reference | – | – | 0.00 ± 0.50 | – | – | – | – |\n\n"
        "IQM: mean of the middle half of the seeds, with a bootstrap interval. Area under curve: mean height of the "
        "learning curve, averaged over the seeds.\n\n"
        "P: how often a seed beats one of nature scratch, ties counted half, with a 95 % interval.\n\n"
        "2.00 is what nature scratch scores in the end (IQM); steps are the median over the seeds, if most reach it.\n"
    )


def test_the_share_of_episodes_that_succeed_stands_beside_the_scores(tmp_path: Path) -> None:
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    cells = [
        *(cell("eye frozen", "frozen", seed, 4.0, success={"clean": shares[seed], "noise": 0.0}) for seed in range(5)),
        *(cell("nature scratch", "scratch", seed, 2.0) for seed in range(5)),
    ]
    references = {"stillsight/Tiny-v0": {"random": {"mean": 0.0, "std": 0.5, "success_rate": 0.125}}}
    folder = write(tmp_path / "tiny", cells, references)
    shown = markdown(tables.scores(analyse(collect(folder)).settings[0][0])).splitlines()
    rows = [[text.strip() for text in line.split("|")[1:-1]] for line in shown if line.startswith("|")]
    column = rows[0].index("successful")
    assert {row[0]: row[column] for row in rows[2:]} == {"eye frozen": "50%", "nature scratch": "–", "random": "12%"}
    assert len({len(row) for row in rows}) == 1
    assert "Successful: share of the last episodes that reached their goal, averaged over the seeds." in shown
    assert report(folder, ReportConfig()) == 0
    arms = json.loads((folder / "summary.json").read_text())["settings"][0]["arms"]
    assert arms["eye frozen"]["success"] == {"clean": shares, "noise": [0.0] * 5}
    assert "success" not in arms["nature scratch"]


def test_a_report_says_how_many_agents_hardly_saw(tmp_path: Path) -> None:
    def seeing(live: float, clipped: float) -> dict[str, float]:
        return {"live_units": live, "clipped_features": clipped}

    cells = [
        *(cell("eye frozen", "frozen", seed, 4.0, **seeing(0.5, 0.01)) for seed in range(5)),
        cell("nature scratch", "scratch", 0, 2.0),  # of before it was recorded
        *(cell("nature scratch", "scratch", seed, 2.0, **seeing(0.01 * seed, 0.0)) for seed in (1, 2)),
        cell("nature scratch", "scratch", 3, 2.0, **seeing(0.5, 0.0), one_action=True),
        cell("nature scratch", "scratch", 4, 2.0, **seeing(0.5, 0.3)),
    ]
    folder = write(tmp_path / "tiny", cells)
    shown = markdown(tables.scores(analyse(collect(folder)).settings[0][0]))
    assert "What was shown hardly mattered to 3 of the 5 agents of nature scratch: they took one action" in shown
    assert shown.count("hardly mattered") == 1


def test_the_summary_holds_the_numbers_that_are_known_by_hand(tmp_path: Path) -> None:
    cells = [*TINY, cell("alone frozen", "frozen", 0, 1 / 3)]
    assert report(write(tmp_path / "tiny", cells, REFERENCES), ReportConfig()) == 0
    found = json.loads((tmp_path / "tiny" / "summary.json").read_text())
    (setting,) = found["settings"]
    eye, alone = setting["arms"]["eye frozen"], setting["arms"]["alone frozen"]
    assert eye["role"] == "frozen"
    assert eye["seeds"] == [0, 1, 2, 3, 4]
    assert eye["scores"] == {"clean": [4.0] * 5, "noise": [2.0] * 5}
    assert eye["iqm"]["noise"] == {"value": 2.0, "low": 2.0, "high": 2.0}
    assert eye["curve"] == {"steps": [100, 200], "seconds": [1, 3], "iqm": [0, 4], "low": [0, 4], "high": [0, 4]}
    assert eye["cost"]["wall_seconds"] == 98.2
    assert "energy_joules" not in eye["cost"], "what nobody measured"
    assert eye["pins"] == {"weights_sha256": "a" * 64, "head": 512}
    assert alone["iqm"]["clean"] == {"value": 0.333333, "low": None, "high": None}, "of one seed no interval is known"
    assert setting["references"]["oracle"]["mean"] == setting["references"]["random"]["mean"] + 8
    assert setting["threshold"] == 2.0
    assert [pair["winner"] for pair in setting["comparisons"] if pair["one"] == "eye frozen"] == ["eye frozen"]
    assert setting["answers"][0]["told"].startswith("Yes: eye frozen against nature scratch. No verdict")
    assert found["normalised"]["arms"]["eye frozen"]["value"] == 0.5
    assert found["problems"] == []


def test_verdicts_stand_in_the_terminal_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "tiny", TINY, REFERENCES)
    assert report(folder, ReportConfig()) == 0
    shown = capsys.readouterr().out
    text = (folder / "report.md").read_text()
    answers = re.findall(r"^- \*\*(.*?)\*\* (.*)$", text, flags=re.M)
    assert len(answers) == 2
    for question, told in answers:
        assert f"  {question} {told}\n" in shown
    assert shown.index("stillsight/Tiny-v0, ppo\n") < shown.index(answers[0][0]) < shown.index("10 cells count")
    report(write(tmp_path / "alone", TINY[:5]), ReportConfig())
    assert "There is nothing to compare." not in capsys.readouterr().out, "its losses under shifts are something"


def test_several_environments_have_a_verdict_together_and_one_has_none(tmp_path: Path) -> None:
    other = [{**row, "task": "Other-v0", "key": f"other-{row['key']}"} for row in TINY]
    bounds = {"Other-v0": REFERENCES["stillsight/Tiny-v0"]}
    folder = write(tmp_path / "two", [*TINY, *other], REFERENCES | bounds)
    assert report(folder, ReportConfig()) == 0
    text, page = (folder / "report.md").read_text(), (folder / "index.html").read_text()
    assert text.index("### All environments, normalised") < text.index("### Other-v0, ppo")
    told = "eye frozen is ahead of nature scratch in the end by 0.25 (0.25 to 0.25), better in 100% (100% to 100%)"
    for whole in (text, page):
        assert f"{told} of all pairs of seeds (5 seeds)." in whole
        assert "Over 2 environments, with so many seeds in each." in whole
        assert "for the number of comparisons: 1. " in whole
    together = json.loads((folder / "summary.json").read_text())["normalised"]
    assert together["answers"][0] == {
        "question": "Do frozen pretrained features beat training from scratch?",
        "told": "Yes: eye frozen against nature scratch.",
    }
    assert together["comparisons"][0]["winner"] == "eye frozen"
    assert report(write(tmp_path / "one", TINY, REFERENCES), ReportConfig()) == 0
    assert "### All environments, normalised\n\n- **" not in (tmp_path / "one" / "report.md").read_text()
    assert "answers" not in json.loads((tmp_path / "one" / "summary.json").read_text())["normalised"]


def test_shifts_cost_and_aggregate_are_known_by_hand(tmp_path: Path) -> None:
    estimates, analysis = tiny(tmp_path)
    shifts = tables.shifts(*analysis.settings[0])
    assert shifts is not None
    assert shifts.columns == ("arm", "clean", "noise", "lost to noise")
    assert [value.text for value in shifts.rows[0]] == [
        "eye frozen",
        "4.00 (4.00 to 4.00)",
        "2.00",
        "2.00 (2.00 to 2.00)",
    ]
    cost = tables.cost(estimates)
    assert dict(zip(cost.columns, (value.text for value in cost.rows[0]), strict=True)) == {
        "arm": "eye frozen",
        "seconds to 2.00": "2",
        "seconds of training": "98",
        "env steps/s": "610",
        "images encoded per step": "1.00",
        "parameters that learn": "212,000",
        "peak memory, MB": "812",
    }
    assert cost.notes[1] == "Measured on: A CPU, 2 cores, 1 thread, no GPU."
    together = tables.together(analysis.together)
    assert [[value.number for value in row[1:]] for row in together.rows] == [
        [5, 0.5, 0.5, 0.5, 0.5],
        [5, 0.25, 0.25, 0.25, 0.75],
    ]


def test_without_bounds_there_is_no_aggregate_and_a_sentence(tmp_path: Path) -> None:
    grid = collect(write(tmp_path / "bare", TINY))
    together = tables.together(aggregate(grid))
    assert together.rows == ()
    assert together.notes == (
        "Not in it, because random play or a goal is not known: stillsight/Tiny-v0, ppo. "
        "Give the [[task]] a low = and a high =.",
    )
    asked = [Task("stillsight/Tiny-v0", "rl", {}, threshold=1.0, low=-4.0, high=4.0)]
    grid = collect(tmp_path / "bare", tasks=asked)
    assert [row[2].text for row in tables.together(aggregate(grid)).rows] == [
        "1.00 (1.00 to 1.00)",
        "0.75 (0.75 to 0.75)",
    ]
    scores = tables.scores(analyse(grid).settings[0][0])
    assert "steps to 1.00" in scores.columns
    assert scores.rows[0][-2].text == "125"


def test_arms_that_lack_a_task_are_not_averaged_over_fewer(tmp_path: Path) -> None:
    other = [cell("eye frozen", "frozen", seed, 6.0, task="Other-v0") for seed in range(5)]
    references = {**REFERENCES, "Other-v0": REFERENCES["stillsight/Tiny-v0"]}
    together = aggregate(collect(write(tmp_path / "two", [*TINY, *other], references)))
    assert list(together.scores) == ["eye frozen"]
    assert tables.together(together).rows[0][2].number == pytest.approx(0.625)


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    estimates, _ = tiny(tmp_path, [TINY[0], TINY[5]])
    row = [value.text for value in tables.scores(estimates).rows[0]]
    assert row[3:6] == ["4.00 (one seed)", "4.00 ± –", "1.00 (one seed)"]


def test_rates_that_were_tried_are_told_and_not_pooled(tmp_path: Path) -> None:
    tried = [cell("eye frozen", "finetune", 1000 + seed, 9.0, tuned=0.3) for seed in range(2)]
    estimates, analysis = tiny(tmp_path, [*TINY, *tried])
    assert [len(arm.cells) for arm in estimates.setting.arms] == [5, 5]
    told = tables.rates(analysis.rates)
    assert told is not None
    assert [value.text for value in told.rows[0]] == ["eye frozen", "stillsight/Tiny-v0, ppo", "0.3", "2", "9"]


@given(st.floats(1e-3, 1e6), st.floats(-1, 1))
def test_scores_are_written_with_the_digits_of_the_largest(largest: float, share: float) -> None:
    arm = Arm("a", "frozen", (Cell.from_json(cell("a", "frozen", 0, 0.0, scores={"clean": [largest]})),))
    show = Numbers(Setting("rl", "t", "ppo", (arm,), {}))
    text = show(largest * share).replace(",", "")
    assert float(text) == pytest.approx(largest * share, abs=max(0.005 * largest, 5.1e-5))
    assert not re.fullmatch(r"-0(\.0+)?", text)


# Cells that do not count


def told(grid: Grid) -> dict[str, tuple[str, str]]:
    return {problem.key: (problem.kind, problem.reason) for problem in grid.problems}


@pytest.mark.parametrize(
    ("changes", "kind", "why"),
    [
        (
            {"state": "failed", "error": "RunError: loss is nan\nat step 2048."},
            "failed",
            "RunError: loss is nan at step",
        ),
        ({"state": "failed", "error": None}, "failed", "no reason was recorded"),
        ({"scores": {"clean": [1.0, float("nan")]}}, "failed", "nan stands among its clean scores"),
        ({"curve": [[100, float("inf"), 1.0]]}, "failed", "inf stands among its evaluations"),
        ({"scores": {}}, "damaged", "it has no clean scores"),
        ({"scores": {"clean": ["many"]}}, "damaged", "what should be a number in it is none"),
        ({"curve": [[100, 1.0]]}, "damaged", "a row of its curve is not steps, return and seconds"),
        ({"pins": None}, "damaged", "it has no pins"),
        ({"state": "half"}, "damaged", "its state is 'half', and must be done or failed"),
        ({"seed": "1"}, "damaged", "its seed is '1', and must be a whole number"),
        ({"role": None}, "damaged", "its role is None, and must be text"),
        ({"pins": {"weights_sha256": "b" * 64, "head": 512}}, "mismatched", "weights_sha256 is 'bbb"),
        (
            {"pins": {"weights_sha256": "a" * 64, "head": 64}},
            "mismatched",
            "head is 64, not 512 as in 4 of the 5 cells",
        ),
        ({"budget": 100}, "mismatched", "budget is 100, not 200 as in 4 of the 5 cells of eye frozen"),
        ({"seed": 3}, "mismatched", "seed 3 of eye frozen is there already"),
    ],
)
def test_a_cell_that_does_not_count_is_named_and_pooled_with_none(
    tmp_path: Path, changes: dict[str, Any], kind: str, why: str
) -> None:
    spoilt = {**TINY[4], "scores": {"clean": [1e6]}, **changes}
    estimates, analysis = tiny(tmp_path, [*TINY[:4], spoilt, *TINY[5:]])
    grid = analysis.grid
    found, words = told(grid)[spoilt["key"]]
    assert (found, why in words) == (kind, True), words
    assert "\n" not in words
    assert estimates.setting.arms[0].scores().tolist() == [4.0] * 4
    assert not grid.complete
    table = tables.problems(grid)
    assert table is not None
    assert table.notes[0] == f"1 {kind}. None of them is in any number of this report."
    assert "stillsight benchmark SPEC.toml --retry" in table.notes[1]


def test_files_that_are_no_cells_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "b", TINY)
    (folder / "cells" / "half.json").write_text('{"key": "ha')
    (folder / "cells" / "list.json").write_text("[]")
    (folder / "cells" / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (folder / "cells" / "copy.json").write_text(json.dumps(TINY[0]))
    grid = collect(folder)
    assert {key: kind for key, (kind, _) in told(grid).items()} == dict.fromkeys(
        ("half", "list", "bytes", "copy"), "damaged"
    )
    assert told(grid)["list"][1] == "its file holds no JSON object"
    assert told(grid)["copy"][1] == f"its file says that it is {TINY[0]['key']}"
    assert len(grid.cells) == 10


def test_of_two_halves_the_lowest_seed_counts(tmp_path: Path) -> None:
    cells = [{**one, "budget": 100 + seed // 2} for seed, one in enumerate(TINY[:4])]
    grid = tiny(tmp_path, cells)[1].grid
    assert [one.seed for one in grid.cells] == [0, 1]
    assert [kind for kind, _ in told(grid).values()] == ["mismatched"] * 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=12))
def test_what_is_pooled_was_made_alike_with_one_cell_a_seed(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int]]
) -> None:
    cells = [
        {**cell("eye", "frozen", seed, 1.0, pins={"head": pin}), "key": f"{at:02}"}
        for at, (seed, pin) in enumerate(drawn)
    ]
    grid = collect(write(tmp_path_factory.mktemp("drawn") / "b", cells))
    assert len({one.result.pins["head"] for one in grid.cells if one.result}) == 1
    seeds = [one.seed for one in grid.cells]
    assert len(set(seeds)) == len(seeds)
    assert {one.key for one in grid.cells} | set(told(grid)) == {one["key"] for one in cells}
    assert len(grid.cells) + len(grid.problems) == len(cells)


SPEC = """name = "two arms"
seeds = 2
controls = ["scratch"]

[rl]
steps = 200

[[task]]
env = "stillsight/Orchard-v0"
low = 0.0
high = 10.0

[[encoder]]
encoder = "retina"
"""


def test_the_spec_says_what_is_missing_and_what_was_not_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "b"
    (folder / "cells").mkdir(parents=True)
    (folder / "SPEC.toml").write_text(SPEC)
    spec = read_spec(folder / "SPEC.toml")
    wanted = [one for one in spec.cells() if one.tuned is None]
    assert len(wanted) == 4
    for one in [*wanted[:3]]:
        made = cell(one.arm, one.role, one.seed, 5.0, task=one.task) | {"key": one.key}
        (folder / "cells" / f"{one.key}.json").write_text(json.dumps(made))
    stray = cell("stray", "frozen", 0, 1.0)
    (folder / "cells" / f"{stray['key']}.json").write_text(json.dumps(stray))
    assert report(folder, ReportConfig()) == 1
    text = (folder / "report.md").read_text()
    assert text.startswith("# two arms\n")
    escaped = wanted[3].key.replace("_", "\\_")
    assert f"| missing | {escaped} | it was not run yet |" in text
    assert "| not asked for | stillsight-tiny-v0-ppo-stray\\_\\_seed0 | SPEC.toml does not ask for it |" in text
    assert "Run what is missing: stillsight benchmark SPEC.toml" in text
    assert "0.50 (0.50 to 0.50)" in text, "normalised by the bounds of SPEC.toml"
    assert "3 cells count of the 4 that SPEC.toml asks for" in (folder / "index.html").read_text()
    shown = capsys.readouterr().out
    assert re.search(r"missing +1 cells\n", shown)
    assert str(folder / "index.html") in shown
    last = cell(wanted[3].arm, wanted[3].role, wanted[3].seed, 5.0, task=wanted[3].task)
    (folder / "cells" / f"{wanted[3].key}.json").write_text(json.dumps(last | {"key": wanted[3].key}))
    assert report(folder, ReportConfig(out=tmp_path / "again")) == 0, "what was not asked for is no fault"


def test_nothing_to_report_on_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"b has no cells/\*\.json to report on\. Run: stillsight benchmark SPEC\.toml$"):
        report(tmp_path / "b", ReportConfig())
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("pinned", "played", "counts"),
    [("one 1.0", "one 1.0", True), ("one 1.0", "one 2.0", False), (None, "one 2.0", True)],
)
def test_random_play_of_another_version_of_the_game_is_no_reference(
    tmp_path: Path, pinned: str | None, played: str, counts: bool
) -> None:
    """The failure it prevents: an upgrade measures random play anew, and finished cells are scaled by that."""
    version = {} if pinned is None else {"env_version": pinned}
    cells = [{**cell, "pins": {**cell["pins"], **version}} for cell in TINY]
    players = {
        name: {**one, "options": {"env_version": played}} for name, one in REFERENCES["stillsight/Tiny-v0"].items()
    }
    (setting,) = collect(write(tmp_path / "tiny", cells, {"stillsight/Tiny-v0": players})).settings
    assert (set(setting.references), setting.bounds is not None) == ({*players} if counts else set(), counts)


@pytest.mark.parametrize("text", ["{", "[]", '{"t": {"random": {"mean": NaN}}}', '{"t": {"random": {}}}'])
def test_damaged_references_are_one_sentence(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "b", TINY)
    (folder / "references.json").write_text(text)
    with pytest.raises(
        RunError, match=r"references\.json is damaged \(.*\)\. Remove it, or run the benchmark again\.$"
    ):
        report(folder, ReportConfig())
    assert not (folder / "report.md").exists()


@pytest.mark.parametrize("name", ["jinja2", "matplotlib", "scipy"])
def test_a_missing_package_is_one_sentence_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = write(tmp_path / "b", TINY)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RunError, match=rf'^{name} is not installed\. Run: pip install "stillsight\[benchmark\]"$'):
        report(folder, ReportConfig())
    assert [path.name for path in folder.iterdir()] == ["cells"]


def test_a_benchmark_in_which_everything_failed_is_reported(tmp_path: Path) -> None:
    folder = write(tmp_path / "b", [{**one, "state": "failed", "error": "no"} for one in TINY[:2]])
    assert report(folder, ReportConfig()) == 1
    assert "No cell is finished yet" in (folder / "index.html").read_text()
    assert "2 failed. None of them" in (folder / "report.md").read_text()


# The whole report


def whole() -> list[dict[str, Any]]:
    """Two tracks, an arm with a hostile name, a failed cell, a mismatched one, cells without curves."""
    cells = [*TINY[:9], {**TINY[9], "state": "failed", "error": "RunError: <b>boom</b>"}]
    cells += [cell(EVIL, "finetune", seed, 3.0 + seed / 4) for seed in range(5)]
    cells += [{**cell(EVIL, "finetune", 5, 3.0), "pins": {"weights_sha256": "c" * 64}}]
    for role, score in (("frozen", 0.75), ("scratch", 0.5)):
        for seed in range(5):
            curve = [] if role == "frozen" else [[1, 0.25, 2.0], [2, score, 4.0]]
            given = {"task": "cifar10, 50 images a class", "algo": "linear", "track": "cifar", "curve": curve}
            cells.append(cell(f"eye {role}", role, seed, score, **given, scores={"clean": [score + seed / 1000]}))
    return cells


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was reported on, with a video."""
    folder = write(tmp_path_factory.mktemp("report") / "b", whole(), REFERENCES)
    videos = folder / "runs" / TINY[0]["key"] / "videos"
    videos.mkdir(parents=True)
    (videos / "best episode.mp4").write_bytes(b"")
    assert report(folder, ReportConfig()) == 1
    return folder


def test_the_same_cells_give_the_same_bytes_in_another_folder(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "elsewhere", whole()[::-1], REFERENCES)
    for one in other.glob("cells/*.json"):  # JSON objects have no order
        one.write_text(json.dumps(dict(reversed(json.loads(one.read_text()).items()))))
    assert report(other, ReportConfig(out=tmp_path / "out")) == 1
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert len([name for name in names if name.endswith(".svg")]) == 6
    assert {"report.md", "scores.md", "index.html", "figures/profile.png"} <= set(names)
    for name in names:
        if name != "index.html":  # it links the video, which is not there
            assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes(), name
    page = (folder / "index.html").read_text()
    assert (tmp_path / "out" / "index.html").read_text() == re.sub(r"<h3>Videos</h3>.*?</ul>\n", "", page, flags=re.S)


def test_scores_hold_no_clock(folder: Path, tmp_path: Path) -> None:
    slower = [
        {**one, "curve": [[at, value, 7 * took] for at, value, took in one["curve"]], "cost": {"wall_seconds": 1e4}}
        for one in whole()
    ]
    assert report(write(tmp_path / "slow", slower, REFERENCES), ReportConfig()) == 1
    assert (tmp_path / "slow" / "scores.md").read_bytes() == (folder / "scores.md").read_bytes()
    slow, fast = ((path / "report.md").read_text() for path in (tmp_path / "slow", folder))
    assert slow.split("## Cost")[0] == fast.split("## Cost")[0]
    assert slow != fast


def _seconds(summary: dict[str, Any]) -> list[list[float]]:
    curves = [arm["curve"] for setting in summary["settings"] for arm in setting["arms"].values()]
    return [curve["seconds"] for curve in curves if curve is not None]


def test_times_are_the_processors_where_every_cell_knows_them(folder: Path, tmp_path: Path) -> None:
    """Wall seconds tell what else the machine did."""

    def with_processor(one: dict[str, Any]) -> dict[str, Any]:
        return {**one, "curve": [[*row, 3 * row[2]] for row in one["curve"]]}

    cells = whole()
    known = write(tmp_path / "known", [with_processor(one) for one in cells], REFERENCES)
    mixed = write(tmp_path / "mixed", [with_processor(cells[0]), *cells[1:]], REFERENCES)
    assert report(known, ReportConfig()) == report(mixed, ReportConfig()) == 1
    first, second, wall = (json.loads((path / "summary.json").read_text()) for path in (known, mixed, folder))
    tripled = [[3 * value for value in times] for times in _seconds(wall)]
    found = _seconds(first)
    assert len(found) > 1
    assert found == [pytest.approx(times) for times in tripled]
    assert second == wall
    assert "CPU seconds of training" in (known / "report.md").read_text()
    assert "CPU seconds of training" not in (mixed / "report.md").read_text()


def test_markdown_shows_hostile_names_as_they_stand(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    assert "<script" not in text
    assert "<b>" not in text
    shown = "| &lt;script>alert(1)&lt;/script> \\| $x\\_$ \\`b\\` |"
    rows = [line for line in text.splitlines() if line.startswith(shown)]
    assert [len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows] == [9, 4, 6, 7], "scores, shifts, aggregate, cost"
    for name in re.findall(r"\]\((figures/.*?)\)", text):
        assert (folder / name).is_file()


class Page(HTMLParser):
    """Every element, every text, and whether what is opened is closed."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
            self.inside.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.inside[tag][-1] += data

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "index.html").read_text())


def test_the_page_holds_the_curves_of_the_cells(page: Page) -> None:
    found = json.loads(page.inside["script"][0])["settings"]
    assert [one["title"] for one in found] == ["stillsight/Tiny-v0, ppo", "cifar10, 50 images a class, linear"]
    agents, pictures = ({arm["label"]: arm for arm in one["arms"]} for one in found)
    assert agents["eye frozen"]["curve"] == [[100, 1.0, 0.0, 0.0, 0.0], [200, 3.0, 4.0, 4.0, 4.0]]
    assert agents["eye frozen"]["seeds"] == 5
    assert agents["nature scratch"]["seeds"] == 4
    assert agents[EVIL]["curve"][1][:3] == [200, 3.0, 3.5]
    assert pictures["eye frozen"]["curve"] == []
    assert pictures["eye scratch"]["curve"] == [[1, 2.0, 0.25, 0.25, 0.25], [2, 4.0, 0.5, 0.5, 0.5]]
    assert found[0]["references"] == [{"name": "oracle", "mean": 8.0}, {"name": "random", "mean": 0.0}]
    assert len({(arm["tint"], arm["dash"]) for arm in found[0]["arms"]}) == 3


def test_the_page_needs_nothing_else_and_runs_one_script(page: Page, folder: Path) -> None:
    text = (folder / "index.html").read_text()
    assert [attributes.get("type") for attributes in page.all("script")] == ["application/json", None]
    policy = next(row["content"] for row in page.all("meta") if row.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.inside["script"][1].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    sources = [row.get(name) or "" for _, row in page.elements for name in ("href", "src", "srcset", "action")]
    assert {source[:5] for source in sources} == {"", "#verd", "#sett", "#toge", "#prob", "#prov", "data:", "runs/"}
    assert "<script>alert" not in text
    assert "<b>boom" not in text
    assert EVIL in page.inside["th"], "shown as it stands"
    assert any("<b>boom</b>" in value for value in page.inside["td"])
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_the_page_says_the_verdicts_first_and_everything_without_scripts(page: Page, folder: Path) -> None:
    headings = page.inside["h2"]
    assert headings[0] == "Verdicts"
    assert headings[-2:] == ["Cells that do not count", "Where the numbers come from"]
    first, second = page.inside["article"]
    short, _, numbers = first.partition("In numbers: ")
    assert "Do frozen pretrained features beat training from scratch?" in short
    assert "No verdict with fewer than 5 seeds: eye frozen" in short
    assert "eye frozen and nature scratch: only 4 seeds, no verdict" in numbers
    assert "eye frozen is ahead of eye scratch in the end by 0.250" in second
    for line in (folder / "report.md").read_text().split("## Scores")[0].splitlines():
        if line.startswith("- **"):
            question, _, told = line.removeprefix("- **").partition("** ")
            assert question in page.inside["dt"]
            assert any(told == item.strip() for item in page.inside["dd"]) or "\\" in told, line
        elif line.startswith("- ") and "\\" not in line:
            assert any(line[2:] == item.strip() for item in page.inside["li"]), line
    cells = [value.strip() for value in (*page.inside["td"], *page.inside["th"])]
    for row in tables.scores(analyse(collect(folder)).settings[0][0]).rows:
        assert all(value.text in cells for value in row)
    assert page.inside["noscript"]
    (video,) = page.all("video")
    assert video["src"] == f"runs/{TINY[0]['key']}/videos/best%20episode.mp4"
    assert {"A CPU, 2 cores, 1 thread, no GPU", "torch 2.14.1", "5f8a022"} <= set(page.inside["dd"])


def test_numbers_in_the_page_are_sorted_by_their_value(page: Page) -> None:
    values = {row["data-sort"] for row in page.all("td") if "data-sort" in row}
    assert {"4.0", "150.0", "212000.0"} <= values


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_colour_stands_out_from_its_page(root: Path) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    blocks = re.findall(r":root \{(.*?)\}", (root / "agents" / "benchmark" / "report" / "page.css").read_text(), re.S)
    assert len(blocks) == 2
    for block, arms in zip(blocks, (palette.LIGHT, palette.DARK), strict=True):
        named = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        for text in ("ink", "quiet", "link"):
            assert contrast(named[text], named["page"]) >= 4.5, text
            assert contrast(named[text], named["raised"]) >= 4.5, text
        assert contrast(named["alert-ink"], named["alert"]) >= 4.5
        for colour in arms:
            assert contrast(colour, named["page"]) >= 3.0, colour
    looks = {(palette.colour(index), palette.dash(index)) for index in range(64)}
    assert len(looks) == 64


# Figures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> dict[str, Any]:
    """Name -> figure, none of them written."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(figures, "_save", lambda figure, _, name: found.setdefault(name, figure) and name)
    figures.draw(analyse(collect(folder)), tmp_path / "figures")
    return found


def lines(axes: Any) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): list(zip(*map(list, line.get_data()), strict=True)) for line in axes.get_lines()}


def test_a_curve_of_one_evaluation_is_a_point(tmp_path: Path) -> None:
    cells = [{**one, "curve": one["curve"][-1:]} for one in TINY]
    estimates, analysis = tiny(tmp_path, cells)
    figure = figures.learning(estimates, analysis.grid.arm_order("rl"))
    assert figure is not None
    for axes in figure.axes:
        (eye,) = [line for line in axes.get_lines() if line.get_label() == "eye frozen"]
        assert (len(eye.get_xdata()), eye.get_marker()) == (1, "o")
        assert len(axes.collections) == 2, "and a bar of each arm's interval"


def test_figures_show_the_numbers_of_the_cells(drawn: dict[str, Any]) -> None:
    steps, seconds = drawn["tiny-v0-ppo-curves"].axes
    assert lines(steps)["eye frozen"] == [(100, 0.0), (200, 4.0)]
    assert lines(seconds)["eye frozen"] == [(1.0, 0.0), (3.0, 4.0)]
    assert lines(steps)["random"] == [(0, 0.0), (1, 0.0)]
    assert seconds.get_xlabel() == "seconds of training, median over the seeds"
    (bars,) = drawn["tiny-v0-ppo-shifts"].axes
    heights = {group.get_label(): [bar.get_height() for bar in group] for group in bars.containers}
    assert heights["eye frozen"] == [4.0, 2.0]
    (scores,) = drawn["tiny-v0-ppo-scores"].axes
    assert [label.get_text() for label in scores.get_yticklabels()][:2] == ["eye frozen (5)", "nature scratch (4)"]
    (profile,) = drawn["profile"].axes
    marks = dict(lines(profile)["eye frozen"])
    assert (marks[0.49], marks[0.5]) == (1.0, 0.0), "all runs score 0.5, none more"
    (pictures, _) = drawn["cifar10-50-images-a-class-linear-curves"].axes
    assert [name for name in lines(pictures) if name.startswith("eye")] == ["eye scratch"]


def test_arms_have_one_colour_in_all_figures(drawn: dict[str, Any]) -> None:
    def colours(axes: Any) -> dict[str, str]:
        return {line.get_label(): line.get_color() for line in axes.get_lines() if line.get_label()[0] != "_"}

    curves, profile = colours(drawn["tiny-v0-ppo-curves"].axes[0]), colours(drawn["profile"].axes[0])
    assert profile == {label: curves[label] for label in profile}
    assert curves["eye frozen"] == palette.LIGHT[0]
    assert len(set(profile.values())) == len(profile) == 3


@given(st.lists(st.sampled_from(["a/x", "b/x", "x", "", "x_2", "日本", "x y"]), max_size=8))
def test_no_two_settings_share_a_file(tasks: list[str]) -> None:
    found = figures.names([Setting("rl", task, "", (), {}) for task in tasks])
    assert len(set(found)) == len(tasks)
    assert all(re.fullmatch(r"[a-z0-9._-]+", name) for name in found)
