"""Writing a file whole or not at all: a reader finds the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path` to write to, with the same ending; it takes the place of `path` at the end.

    Where the block raises, or writes nothing there, `path` stays as it was, and nothing is left behind.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}-{time.monotonic_ns()}.part{path.suffix}")
    try:
        yield partial
        if partial.exists():
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, text as UTF-8.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
