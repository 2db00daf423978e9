"""Writing a file that every reader can read: whole or not at all, refused in one sentence, and JSON without NaN."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from stillsight.encoders.errors import DiskFault


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise what the system answers to a write of `path` as `DiskFault`.

    Args:
        path: the name that the file is to have, whatever it is called while it is written.
    """
    try:
        yield
    except DiskFault:
        raise
    except OSError as error:
        number = error.errno or errno.EIO
        raise DiskFault(number, error.strerror or str(error) or os.strerror(number), path) from error
    except SafetensorError as error:  # which has the system's number in its text alone
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise DiskFault(int(found[1]), os.strerror(int(found[1])), path) from error


def check_free(path: Path, needed: int) -> None:
    """Refuse to begin a file that its disk cannot take.

    Args:
        path: of the file; its folder is there.
        needed: bytes, those of a header included.

    Raises:
        DiskFault: there is too little room.
    """
    with writing(path):
        free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise DiskFault(errno.ENOSPC, f"it needs {needed:,} bytes, and its disk has {free:,} free", path)


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
