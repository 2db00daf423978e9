"""Writing a file that every reader can read: whole or not at all, and JSON without NaN."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stillsight.encoders.writing import writing


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path` to write to, with the same ending; it takes the place of `path` at the end.

    Where the block raises, or writes nothing there, `path` stays as it was, and nothing is left behind.

    Raises:
        DiskFault: the file cannot take its place. What the block itself writes is to stand under `writing(path)`.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}-{time.monotonic_ns()}.part{path.suffix}")
    try:
        yield partial
        with writing(path):
            if partial.exists():
                partial.replace(path)
    finally:
        with contextlib.suppress(OSError):  # which would hide what went wrong before it
            partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, text as UTF-8.

    Raises:
        DiskFault: the disk is full, or the folder cannot be written.
    """
    with replacing(path) as partial, writing(path):
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` (dicts, lists, tuples, text, numbers, None) as JSON; a number that is not finite becomes null.

    Python's json would write NaN and Infinity, which JSON does not know: other programs refuse the file.

    Raises:
        TypeError: something in it is of another type.
    """
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """`value` with None in the place of every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
