"""Records of a run are JSON that every program reads, whatever numbers come out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.records import plain, read_lines

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
