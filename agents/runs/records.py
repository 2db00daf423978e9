"""Records: configurations and rows as JSON, and back. Reading one executes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import fcntl
import io
import itertools
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from stillsight.agents.errors import RunError
from stillsight.agents.runs import schema
from stillsight.encoders.atomic import finite, replacing, to_json, writing
from stillsight.encoders.system.plain_file import open_plain

Config = TypeVar("Config")
TRIES = 100
"""How often a file of rows is opened again because another one has its name by then."""


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append `row` to a JSON-lines file, whole or not at all, after what a killed process left of its last row is cut.

    A process that is killed keeps the row, and the disk has it with the next checkpoint.

    Raises:
        DiskFault: the disk is full, or the file cannot be written.
        NotPlainError: it is a link, a pipe or a device.
    """
    line = (to_json(plain(row)) + "\n").encode()
    with writing(path), _appending(path) as file:
        _mend(file)
        before = file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[file.write(line) :]
        except OSError:
            with contextlib.suppress(OSError):  # a disk that filled up in the middle of the row
                file.truncate(before)
            raise


def _appending(path: Path) -> io.FileIO:
    """Open and lock a JSON-lines file of one name.

    One that has other names (hard links) is copied first, and the copy takes its place. A backup by `cp -al` has such
    files, and a stranger's archive may: rows would show up in a file that is not this run's. To refuse it would help
    nobody, since the copy is right in both cases; a checkpoint is replaced in the same way.
    """
    for tries in itertools.count():
        file = open_plain(path, "a+b")
        try:
            with contextlib.suppress(OSError):  # a disk that knows no locks
                fcntl.flock(file, fcntl.LOCK_EX)  # two evaluations of one run may end at once
            there = os.fstat(file.fileno())
            # Another may have copied it while we waited; and some network disks number their files anew each time.
            if tries < TRIES and not os.path.samestat(os.stat(path, follow_symlinks=False), there):
                file.close()
                continue
            if there.st_nlink <= 1 or tries >= TRIES:
                return file
            with replacing(path) as partial:
                shutil.copyfile(path, partial, follow_symlinks=False)
            file.close()
        except BaseException:
            file.close()
            raise
    raise AssertionError("unreachable")


def _mend(file: io.FileIO) -> None:
    """End a JSON-lines file with a whole row."""
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    torn = file.read().rpartition(b"\n")[2]
    try:
        json.loads(torn)
        file.write(b"\n")
    except ValueError:
        file.truncate(end - len(torn))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; the inverse of `append_line`. A last row that is half written is left out.

    Raises:
        RunError: a row before the last is no JSON, or a row has not what the rows of its stream have, see
            `schema.STREAMS`.
    """
    lines = schema.read_bounded(path, schema.LARGEST_STREAM).splitlines()
    kind = schema.STREAMS.get(path.stem, dict[str, Any])
    rows = []
    for number, line in enumerate(lines, 1):
        what = f"Line {number} of {path}"
        try:
            row = schema.parse(line, what, strict=False)
        except RunError:
            if number < len(lines):
                raise
            break
        schema.convert(row, kind, what)
        rows.append(row)
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


def revive(cls: type[Config], record: Mapping[str, Any], what: object = "The run's config.json") -> Config:
    """A configuration dataclass from its JSON record; the inverse of `plain`.

    Args:
        cls: of the configuration.
        record: what `plain` gave; fields that it lacks are at their defaults.
        what: the file that it is from, for messages.

    Raises:
        RunError: the record has fields that this version does not know, or values that they do not take.
    """
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    found = {name: value for name, value in record.items() if name != "command"}
    if strange := sorted(set(found) - fields):
        names = ", ".join(ascii(name)[1:-1] for name in strange[:5])
        raise RunError(f"{what} has fields that this version does not know: {names}.")
    config: Config = schema.convert(found, cls, what)
    return config
