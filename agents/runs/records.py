"""Records: configurations and rows as JSON, and back. Reading one executes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from stillsight.agents.errors import RunError
from stillsight.encoders.atomic import finite, to_json, writing

Config = TypeVar("Config")


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append `row` to a JSON-lines file, whole or not at all.

    Raises:
        DiskFault: the disk is full, or the file cannot be written.
    """
    line = (to_json(plain(row)) + "\n").encode()
    with writing(path), path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[file.write(line) :]
        except OSError:
            with contextlib.suppress(OSError):  # a disk that filled up in the middle of the row
                file.truncate(before)
            raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; the inverse of `append_line`. A last row that is half written is left out.

    Raises:
        RunError: a row before the last is no JSON.
    """
    lines = path.read_text().splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise RunError(
                    f"Line {number} of {path} is damaged ({error}). Restore it, or start a new run."
                ) from error
    return rows


def plain(value: Any) -> Any:
    """`value` as JSON knows it: dataclasses as dicts, paths and enums as strings, numpy scalars as numbers, and numbers
    that are not finite as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return finite(value.item())
    if isinstance(value, float):
        return finite(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def revive(cls: type[Config], record: Mapping[str, Any]) -> Config:
    """A configuration dataclass from its JSON record; the inverse of `plain`.

    Raises:
        RunError: the record has fields that this version does not know.
    """
    types = typing.get_type_hints(cls)
    found = {name: value for name, value in record.items() if name != "command"}
    if strange := sorted(set(found) - set(types)):
        raise RunError(f"The run's config.json has fields that this version does not know: {', '.join(strange)}.")
    return cls(**{name: _typed(types[name], value) for name, value in found.items()})


def _typed(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    for option in (kind, *typing.get_args(kind)):
        if isinstance(option, type) and issubclass(option, Path | enum.Enum):
            return option(value)
    return tuple(value) if isinstance(value, list) else value
