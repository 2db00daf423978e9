"""The tables of the benchmark's README name every key of SPEC.toml, with its type and its default."""

from __future__ import annotations

import enum
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from stillsight.agents.benchmark.grid.arms import CONTROLS, RATES
from stillsight.agents.benchmark.grid.cell import CONFIGS, PLACED
from stillsight.agents.benchmark.grid.keys import ARM_KEYS, ENCODER_KEYS, TASK, TOP
from stillsight.agents.benchmark.grid.parse import parse_spec
from stillsight.encoders.config import EncoderConfig

NAMED = ("env", "dataset")
"""Flags that a [[task]] is recognised by."""


def rows(root: Path, heading: str) -> list[tuple[str, str, str]]:
    """Key, type and default of each row of the table that follows the line which begins with `heading`."""
    text = (root / "agents" / "benchmark" / "README.md").read_text()
    table = text.split(f"\n{heading}", 1)[1].split("\n\n", 2)[1]
    return re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", table, flags=re.M)


def toml_type(kind: Any) -> str:
    """A field's type in TOML's words."""
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    if typing.get_origin(kind) is tuple:
        return f"array of {toml_type(options[0])}s"
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " or ".join(map(toml_type, options))
    if typing.get_origin(kind) is typing.Literal or issubclass(kind, enum.Enum | Path | str):
        return "string"
    return {int: "integer", float: "float", bool: "boolean"}[kind]


def toml_value(value: Any) -> str:
    """A default as TOML writes it."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"`{value:_}`"
    return "`[]`" if isinstance(value, tuple) else f'`"{value.value if isinstance(value, enum.Enum) else value}"`'


def expected(config: type[Any], without: frozenset[str] = frozenset()) -> Iterator[tuple[str, str, str]]:
    hints = typing.get_type_hints(config)
    for item in fields(config):
        if item.name not in {*PLACED, *NAMED, *without}:
            yield config.WORDS.get(item.name, item.name), toml_type(hints[item.name]), toml_value(item.default)


ENCODER = frozenset(item.name for item in fields(EncoderConfig))


@pytest.mark.parametrize(
    ("heading", "flags"),
    [
        ("The flags that choose an encoder", list(expected(EncoderConfig))),
        ("Further flags of `[rl]`", list(expected(CONFIGS["rl"], ENCODER))),
        ("Further flags of `[cifar]`", list(expected(CONFIGS["cifar"], ENCODER))),
    ],
)
def test_every_flag_has_its_row(root: Path, heading: str, flags: list[tuple[str, str, str]]) -> None:
    assert sorted(rows(root, heading)) == sorted(flags)


def test_every_key_of_a_benchmark_has_its_row(root: Path) -> None:
    for heading, keys in (
        ("At the top:", TOP),
        ("`[[task]]`", dict.fromkeys(NAMED, str) | TASK),
        ("`[[encoder]]`", ENCODER_KEYS),
        ("`[[arm]]`", ARM_KEYS),
    ):
        shown = {key: kind for key, kind, _ in rows(root, heading)}
        assert shown == {key: toml_type(kind) for key, kind in keys.items()}
        assert len(rows(root, heading)) == len(keys), "each stands once"


def test_the_defaults_at_the_top_are_those_of_an_empty_spec(root: Path) -> None:
    spec = parse_spec('[[task]]\nenv = "stillsight/Orchard-v0"\n[[encoder]]\nencoder = "retina"', check=False)
    defaults = {key: default for key, _, default in rows(root, "At the top:")}
    for key in ("episodes", "tuning_seeds", "videos"):
        assert defaults[key] == f"`{getattr(spec, key)}`"
    assert defaults["seeds"] == f"`{len(spec.seeds)}`"
    assert defaults["algos"] == '`["ppo"]`'
    assert spec.algos == ("ppo",)
    assert defaults["shifts"] == "`[]`"
    assert spec.shifts == ()
    assert defaults["rates"] == f"`{list(RATES)}`"
    assert len(CONTROLS) == 5  # "all five"


def test_the_spec_of_the_readme_is_one(root: Path) -> None:
    text = (root / "agents" / "benchmark" / "README.md").read_text()
    (shown,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    arms = parse_spec(shown).arms["stillsight/Orchard-v0", "ppo"]
    assert [arm.name for arm in arms] == [
        "retina layer2 frozen",
        "retina layer3 frozen",
        "retina layer2 random",
        "retina layer3 random",
        "nature scratch",
        "retina with LoRA",
    ]


def test_every_file_has_its_place_in_the_readme(root: Path) -> None:
    text = (root / "agents" / "benchmark" / "README.md").read_text()
    table = text.split("## Files, in reading order")[1].split("## SPEC.toml")[0]
    folder = root / "agents" / "benchmark"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if path.name != "__init__.py"}
    assert set(re.findall(r"`([\w/]+\.py)`", table)) - {"tests/agents/benchmark/test_rooms.py"} == files
