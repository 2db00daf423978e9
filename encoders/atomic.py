"""Writing a file that every reader can read: whole and on the disk, or not at all; and JSON without NaN."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES)
"""What file systems answer that cannot flush a folder, and folders that may be written and not listed."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path` to write to, with the same ending; it takes the place of `path` at the end.

    What was written is on the disk before the name is, and the name before this returns, so that a power cut leaves
    the file before it or this one, whole. Where the block raises, or writes nothing there, `path` stays as it was, and
    nothing is left behind.

    Raises:
        OSError: the disk is full, fails, or cannot be written. Where the folder alone could not be flushed, the new
            file has taken its place.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}-{time.monotonic_ns()}.part{path.suffix}")
    try:
        yield partial
        if partial.exists():
            sync(partial)
            os.replace(partial, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # a disk that fails here failed before, which is what is to be said
            partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, text as UTF-8, see `replacing`.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Bring what was written to `path`, by this process or another, from the system's memory to the disk.

    Raises:
        OSError: the disk is full or fails; what lies in the file is then not what was written.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk, where its file system can.

    Raises:
        OSError: the disk fails.
    """
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


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
