"""JSON that every program reads: no NaN, no infinities, and one place that sees to it."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest

from stillsight.encoders.atomic import to_json

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
