"""Records of a run are JSON that every program reads, whatever numbers come out."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillsight.agents.errors import RunError
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.records import append_line, plain, read_lines
from stillsight.encoders import EncoderError

ODD = {
    "loss": math.nan,
    "variance": np.float32("inf"),
    "reward": torch.tensor(-math.inf),
    "fine": np.float64(0.5),
    "deep": {"rows": [(1, np.float64("nan"))]},
}
PLAIN = {"loss": None, "variance": None, "reward": None, "fine": 0.5, "deep": {"rows": [[1, None]]}}


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


class Sink:
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def log(self, stream: str, row: Any) -> None:
        self.rows.append((stream, row))

    def close(self) -> None:
        pass


def test_a_run_writes_no_nan(tmp_path: Path) -> None:
    assert plain(ODD) == PLAIN
    sink = Sink()
    with Run(tmp_path / "run", "rl", ODD, sinks=[sink]) as run:
        run.log("metrics", ODD)
        run.write_json("summary.json", ODD)
    for name in ("metrics.jsonl", "summary.json", "config.json", "machine.json"):
        for text in (tmp_path / "run" / name).read_text().splitlines() if name.endswith("l") else ["all"]:
            whole = (tmp_path / "run" / name).read_text() if text == "all" else text
            json.loads(whole, parse_constant=refuse)
    assert read_lines(tmp_path / "run" / "metrics.jsonl") == [PLAIN]
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == PLAIN
    assert sink.rows == [("metrics", PLAIN)]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e308, 0.1])
def test_a_checkpoint_keeps_every_number(tmp_path: Path, number: float) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, {"best": number, "rows": [number, torch.ones(1)]})
    header = path.read_bytes()
    size = int.from_bytes(header[:8], "little")
    structure = json.loads(header[8 : 8 + size], parse_constant=refuse)["__metadata__"]["structure"]
    json.loads(structure, parse_constant=refuse)
    found = checkpoint.load(path)
    assert repr(found["best"]) == repr(number)
    assert repr(found["rows"][0]) == repr(number)


@pytest.mark.parametrize(
    ("left", "rows"),
    [
        ('{"step": 1, "return": 0.5}\n{"step": 2, "ret', [1, 3]),
        ('{"step": 1, "return": 0.5}\n{"step": 2, "return": 0.5}', [1, 2, 3]),
        ('{"ste', [3]),
        ("\0\0\0", [3]),
        ('{"step": 1, "return": 0.5}\n\0\0', [1, 3]),
        ("", [3]),
    ],
)
def test_a_torn_row_is_no_part_of_the_next_one(tmp_path: Path, left: str, rows: list[int]) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(left)
    append_line(path, {"step": 3, "return": 0.5})
    assert [row["step"] for row in read_lines(path)] == rows
    assert path.read_text().endswith('{"step": 3, "return": 0.5}\n')


def test_a_row_that_lacks_its_end_alone_outlives_a_rewind(tmp_path: Path) -> None:
    with Run(tmp_path / "run", "rl", {}) as run:
        run.card("title", {})
    rows = [{"step": 1, "mean": 0.5, "std": 0.0}, {"step": 2, "mean": 0.5, "std": 0.0}]
    (tmp_path / "run" / "eval.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2')
    with Run(tmp_path / "run", "rl", {}, resumed=True) as run:
        run.rewind(2)
        assert run.rows("eval") == rows
        assert run.rows("metrics") == [{"step": 1}]
        assert run.rows("episodes") == []


def test_rows_of_two_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    program = (
        "import sys; from pathlib import Path; from stillsight.agents.runs.records import append_line\n"
        "for number in range(200): append_line(Path(sys.argv[1]), {'who': sys.argv[2], 'returns': [0.5] * 3000})"
    )
    both = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(row["who"] for row in read_lines(path)) == ["a"] * 200 + ["b"] * 200


def test_rows_are_not_written_under_another_name_of_the_file(tmp_path: Path) -> None:
    path, other = tmp_path / "evaluations.jsonl", tmp_path / "backup.jsonl"
    append_line(path, {"step": 1})
    os.link(path, other)
    append_line(path, {"step": 2})
    append_line(path, {"step": 3})
    assert other.read_text() == '{"step": 1}\n'
    assert [row["step"] for row in map(json.loads, path.read_text().splitlines())] == [1, 2, 3]
    assert sorted(os.listdir(tmp_path)) == ["backup.jsonl", "evaluations.jsonl"]


@pytest.mark.usefixtures("ends")
def test_rows_go_into_no_link_and_no_pipe(tmp_path: Path) -> None:
    path, diary = tmp_path / "metrics.jsonl", tmp_path / "diary.txt"
    diary.write_text("kept")
    path.symlink_to(diary)
    with pytest.raises(EncoderError, match="it is no file but a link"):
        append_line(path, {"step": 1})
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(EncoderError, match="it is no file but a pipe"):
        append_line(path, {"step": 1})
    with pytest.raises(RunError, match="it is no file but a pipe"):
        read_lines(path)
    assert diary.read_text() == "kept"
