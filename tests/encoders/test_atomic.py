"""JSON that every program reads, without NaN, in one place that sees to it; and what killed writers leave is swept."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stillsight.encoders.atomic import is_partial, partial_suffix, replacing, sweep, to_json, write_atomically

NOT_WRITTEN = {
    "agents/benchmark/benchmark_config.py",  # strings of TOML
    "agents/benchmark/grid/keys.py",  # values of TOML
    "agents/benchmark/grid/spec.py",  # hashed
    "agents/benchmark/analysis/collect.py",  # compared
    "agents/runs/plots.py",  # compared
    "encoders/supervised/features/frozen_features.py",  # hashed
}
"""Files whose JSON text goes into no JSON file and to no program."""


def strictly(text: str) -> Any:
    """`text` as a program reads it that knows no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_none_become_null_at_every_depth() -> None:
    nested = {"a": math.nan, "b": [1.5, math.inf, {"c": (-math.inf, 2)}], "d": "NaN", "e": True, "f": None}
    assert strictly(to_json(nested)) == {
        "a": None,
        "b": [1.5, None, {"c": [None, 2]}],
        "d": "NaN",
        "e": True,
        "f": None,
    }
    assert to_json({"a": 1}, indent=2) == '{\n  "a": 1\n}'
    with pytest.raises(TypeError):
        to_json({"a": object()})


def writes(source: str) -> list[int]:
    """Lines of `source` that write JSON in which NaN may stand."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("dump", "dumps")
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "json"
        and not any(word.arg == "allow_nan" and ast.literal_eval(word.value) is False for word in node.keywords)
    ]


def test_nothing_writes_json_that_may_hold_nan() -> None:
    root = Path(__file__).parents[2]
    files = [path for folder in ("agents", "encoders", "envs") for path in (root / folder).rglob("*.py")]
    assert len(files) > 150
    odd = {str(path.relative_to(root)): lines for path in files if (lines := writes(path.read_text()))}
    assert set(odd) == NOT_WRITTEN, odd


def test_the_check_sees_json() -> None:
    assert writes("json.dumps(facts)\njson.dump(facts, file)\njson.dumps(facts, allow_nan=True)") == [1, 2, 3]
    assert writes("json.dumps(facts, allow_nan=False)\nto_json(facts)\njson.loads(text)") == []


DYING = """
import os, sys
from pathlib import Path
from stillsight.encoders.atomic import replacing

with replacing(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os._exit(9)
"""


def test_what_a_killed_writer_left_is_gone_with_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    assert subprocess.run([sys.executable, "-c", DYING, str(path)]).returncode == 9
    (left,) = tmp_path.iterdir()
    assert is_partial(left)
    assert re.fullmatch(r"\.film\.[0-9a-f]{8}-\d+-\d+\.part\.mp4", left.name)
    write_atomically(tmp_path / "other.json", "{}")
    assert [each.name for each in tmp_path.iterdir()] == ["other.json"]


def test_what_somebody_writes_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "mine.json") as partial:
        partial.write_text("half")
        sweep(tmp_path)
        assert partial.exists()
        place = partial.name.split(".")[2].split("-")[0]
        names = {
            "theirs": f".a.{place}-{os.getppid()}-5.part.json",
            "elsewhere": ".a.00000000-1-5.part.json",
            "long ago": ".b.00000000-1-5.part.json",
            "no number": ".a.json",
            "a person's": "notes.part.txt",
            "of a version before": ".config.4194999-5.part.json",
            "of a process of our number": f".c.{place}-{os.getpid()}-5.part.json",
        }
        for name in names.values():
            (tmp_path / name).write_text("")
        os.utime(tmp_path / names["long ago"], (time.time() - 90_000,) * 2)
        os.utime(tmp_path / names["of a process of our number"], (time.time() - 90_000,) * 2)
        sweep(tmp_path)
        kept = {name for name, file in names.items() if (tmp_path / file).exists()}
        assert kept == {"theirs", "elsewhere", "no number", "a person's"}
        sweep(tmp_path, alone=True)
        kept = {name for name, file in names.items() if (tmp_path / file).exists()}
        assert kept == {"no number", "a person's"}
    sweep(tmp_path / "nowhere")
    assert is_partial(tmp_path / f".x.{partial_suffix()}")
