"""The keys of SPEC.toml: their names and types, checked before anything is made of them."""

from __future__ import annotations

import datetime
import difflib
import enum
import json
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from stillsight.agents.benchmark.grid.cell import CONFIGS, PLACED, Track
from stillsight.agents.errors import RunError
from stillsight.agents.runs.trust import USERS
from stillsight.encoders.config import EncoderConfig
from stillsight.encoders.errors import unknown

TOP: dict[str, Any] = {
    "name": str,
    "seeds": int | tuple[int, ...],
    "algos": tuple[str, ...],
    "shifts": tuple[str, ...],
    "episodes": int,
    "controls": tuple[str, ...],
    "rates": tuple[float, ...],
    "tuning_seeds": int,
    "videos": int,
}
"""Keys at the top of SPEC.toml -> their types."""
TASK: dict[str, Any] = {"threshold": float, "low": float, "high": float, "label": str}
"""What a [[task]] may have beside the flags of its track."""
ENCODER_KEYS: dict[str, Any] = {
    "taps": tuple[str, ...],
    "label": str,
    "track": Literal["rl", "cifar"],
    "controls": tuple[str, ...],
}
"""What an [[encoder]] table may have beside the flags that choose an encoder."""
ARM_KEYS: dict[str, Any] = {"name": str, "role": str, "rates": tuple[float, ...], "track": Literal["rl", "cifar"]}
"""What an [[arm]] table may have beside the flags of its track."""
SINGLE, LISTS = ("rl", "cifar"), ("task", "encoder", "arm")
"""Tables that stand once, and those that stand as often as one likes."""
WIDEST = 2**63
"""TOML's integers are of 64 bits (toml.io, v1.0.0), and nothing that is counted here needs more."""
WORDS: dict[type, str] = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
EXAMPLES: dict[type, object] = {str: "...", int: 5, float: 0.5, bool: True}


def check_keys(record: Mapping[str, Any]) -> None:
    """Refuse what SPEC.toml may not have, by name and by type.

    Args:
        record: the parsed file.

    Raises:
        RunError: what was found, what is allowed, what to type.
    """
    check_names("setting", record, (*TOP, *SINGLE, *LISTS), "SPEC.toml may have", "SPEC.toml")
    for name in SINGLE:
        if not isinstance(record.get(name, {}), dict):
            raise RunError(f"{_shown(name, record[name])} is no table. Type [{name}], and its keys below it.")
    for name in LISTS:
        rows = record.get(name, [])
        if isinstance(rows, dict):
            raise RunError(f"[{name}] is one table, and {name} is a list of them. Type [[{name}]].")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise RunError(f"{_shown(name, rows)} is no list of tables. Type [[{name}]], and its keys below it.")
    _check_types("SPEC.toml", record, TOP)
    for track in CONFIGS:
        _check_table(f"[{track}]", record.get(track, {}), {}, _flags(track))
    for row in record.get("task", ()):
        if ("env" in row) == ("dataset" in row):
            raise RunError("A [[task]] names either an env or a dataset; give one of them.")
        _check_table("[[task]]", row, TASK, _flags("rl" if "env" in row else "cifar"))
    for row in record.get("encoder", ()):
        _check_table("[[encoder]]", row, ENCODER_KEYS, _encoder_flags())
    for row in record.get("arm", ()):
        _check_types("[[arm]]", row, ARM_KEYS)
        for track in _tracks(record):
            if row.get("track", track) == track:
                _check_table("[[arm]]", row, ARM_KEYS, _flags(track))


def check_names(noun: str, names: Iterable[str], known: Collection[str], allowed: str, flag: str) -> None:
    """Raise `RunError`, see `unknown` for its words, if one of `names` is not `known`."""
    for name in names:
        if name not in known:
            raise RunError(unknown(noun, name, known, allowed, flag))


def _tracks(record: Mapping[str, Any]) -> list[Track]:
    """The tracks that have a task."""
    named = {"rl" if "env" in row else "cifar" for row in record.get("task", ())}
    return [track for track in CONFIGS if track in named]


def _field_types(config: type[Any]) -> dict[str, Any]:
    """Types of the fields of a configuration, without what its class keeps beside them."""
    hints = typing.get_type_hints(config)
    return {item.name: hints[item.name] for item in fields(config)}


def _flags(track: Track) -> dict[str, Any]:
    config = CONFIGS[track]
    types = _field_types(config)
    return {config.WORDS.get(name, name): kind for name, kind in types.items() if name not in PLACED}


def _encoder_flags() -> dict[str, Any]:
    """Without what is no file's to say."""
    return {name: kind for name, kind in _field_types(EncoderConfig).items() if name not in USERS}


def _check_table(where: str, table: Mapping[str, Any], own: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
    if "accept_license" in table:
        raise RunError(
            f"{where} has accept_license, and a file accepts for nobody. Drop it, and type once: stillsight list "
            "encoders ENCODER --accept-license"
        )
    for name in PLACED:
        if name in table and name != "seed":
            raise RunError(f"{where} has {name}, and the grid places its runs. Drop it, or type: --out FOLDER.")
    if "seed" in table:
        raise RunError(
            f"{where} has {_shown('seed', table['seed'])}, and the grid's seeds stand at the top. Type, say: "
            "seeds = [0, 1, 2]"
        )
    check_names("setting", table, [*own, *flags], f"{where} may have", where)
    _check_types(where, table, {**flags, **own})


def _check_types(where: str, table: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for name, value in table.items():
        if name in kinds:
            _check_type(where, name, value, kinds[name])


def _check_type(where: str, name: str, value: Any, kind: Any) -> None:
    """Raise `RunError` if `value` is not of `kind`, a type as the configurations declare them."""
    options = _options(kind)
    found = f"{where} has {_shown(name, value)}"
    for option in options:
        if typing.get_origin(option) is tuple and isinstance(value, list):
            for item in value:
                _check_type(where, name, item, typing.get_args(option)[0])
            return
        if isinstance(option, type) and _is(value, option):
            if isinstance(value, str) and not value.isprintable():
                raise RunError(f"{found}, which holds more than text. Type letters, digits and signs alone.")
            if isinstance(value, int | float) and not abs(value) < WIDEST:
                raise RunError(f"{found}, which counts nothing. Type, say: {name} = {_toml(EXAMPLES[option])}")
            return
    choices = [choice for option in options for choice in _choices(option)]
    if choices:
        if value in choices:
            return
        near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5) or choices[:1]
        listed = ", ".join(map(_toml, choices))
        raise RunError(f"{found}, and it may be {listed}. Type: {name} = {_toml(near[0])}")
    raise RunError(f"{found}, {_kind(value)}, and it must be {_wanted(options)}. Type{_instead(name, value, options)}")


def _options(kind: Any) -> list[Any]:
    """The types that a value may have: those of a union but None, which TOML does not have; a path is a string."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return [option for part in typing.get_args(kind) if part is not type(None) for option in _options(part)]
    return [str if kind is Path else kind]


def _choices(option: Any) -> list[str]:
    if typing.get_origin(option) is Literal:
        return list(typing.get_args(option))
    return [member.value for member in option] if isinstance(option, type) and issubclass(option, enum.Enum) else []


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):  # which Python takes for an integer
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _wanted(options: list[Any]) -> str:
    words = []
    for option in options:
        if typing.get_origin(option) is tuple:
            words.append(f"an array of {WORDS[typing.get_args(option)[0]].split()[-1]}s")
        else:
            words.append(WORDS[option])
    return " or ".join(words)


def _instead(name: str, value: Any, options: list[Any]) -> str:
    """What to type: the same value as the right type if that can be read from it, else an example."""
    for option in options:
        inner = typing.get_args(option)[0] if typing.get_origin(option) is tuple else option
        try:
            meant = json.loads(value) if isinstance(value, str) and inner is not str else value
        except ValueError:
            meant = value
        if isinstance(meant, float) and meant.is_integer() and inner is int:
            meant = int(meant)
        if _is(meant, inner):
            return f": {name} = {_toml([meant] if inner is not option else meant)}"
    example = EXAMPLES[typing.get_args(options[0])[0] if typing.get_origin(options[0]) is tuple else options[0]]
    return f", say: {name} = {_toml([example] if typing.get_origin(options[0]) is tuple else example)}"


def _kind(value: Any) -> str:
    """The type of a value in TOML's words."""
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", int: "an integer", float: "a float", list: "an array", dict: "a table"}
    return names.get(type(value), "a date or a time")


def _shown(name: str, value: Any) -> str:
    text = _toml(value)
    return f"{name} = {text if len(text) <= 60 else text[:57] + '...'}"


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False)
