"""Writing a file that every reader can read: whole and on the disk or not at all, and JSON without NaN."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stillsight.encoders.errors import DiskFault

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES)
"""What file systems answer that cannot flush a folder, and folders that may be written and not listed."""
_PARTIAL = re.compile(r"\..+\.(?:(?P<place>[0-9a-f]{8})-)?(?P<pid>\d+)-\d+\.part(?:\.\w+)?")
_BEGAN = time.time()
_DAY = 86_400.0
_swept: set[Path] = set()


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

    What was written is on the disk before the name is, and the name before this returns, so that a power cut leaves
    the file before it or this one, whole. Where the block raises, or writes nothing there, `path` stays as it was, and
    nothing is left behind. A process that is killed inside leaves a file, which the next one that writes into the
    folder removes, see `sweep`.

    Raises:
        DiskFault: the disk is full, fails, or cannot be written. Where the folder alone could not be flushed, the new
            file has taken its place. What the block itself writes is to stand under `writing(path)`.
    """
    if (folder := path.parent.absolute()) not in _swept:
        _swept.add(folder)
        sweep(folder)
    partial = path.with_name(f".{path.stem}.{partial_suffix()}{path.suffix}")
    try:
        yield partial
        with writing(path):
            if partial.exists():
                sync(partial)
                os.replace(partial, path)
                sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # a disk that fails here failed before, which is what is to be said
            partial.unlink(missing_ok=True)


def partial_suffix() -> str:
    """What the name of a file ends with until it is whole: who writes it, by which `sweep` knows what nobody does."""
    return f"{_place()}-{os.getpid()}-{time.monotonic_ns()}.part"


def sweep(folder: Path, *, alone: bool = False) -> None:
    """Remove what processes that were killed left half written in `folder`; not in the folders below.

    A file is nobody's if its process is gone or, where that ran on another machine or in another container, if nothing
    was written to it for a day.

    Args:
        folder: may be missing.
        alone: nobody else writes here, which a lock says: every half-written file is a leftover.
    """
    with contextlib.suppress(OSError):  # one that may only be read is nobody's to sweep
        for path in list(folder.iterdir()):
            written = _PARTIAL.fullmatch(path.name)
            if written is not None and (alone or _abandoned(path, written["place"], int(written["pid"]))):
                path.unlink(missing_ok=True)


def is_partial(path: Path) -> bool:
    """Whether a file has the name of one that is being written, or that a killed process left."""
    return _PARTIAL.fullmatch(path.name) is not None


def _abandoned(path: Path, place: str | None, pid: int) -> bool:
    modified = path.lstat().st_mtime
    if place not in (None, _place()):
        return time.time() - modified > _DAY
    if pid == os.getpid():  # in containers the processes of one run after another have the same few numbers
        return modified < _BEGAN
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # another user's
        return False
    return False


@functools.cache
def _place() -> str:
    """Eight hex digits for this machine and, within it, for the container whose processes we can see."""
    try:
        container = os.readlink("/proc/self/ns/pid")
    except OSError:
        container = ""
    return hashlib.blake2b(f"{platform.node()} {container}".encode(), digest_size=4).hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, text as UTF-8, see `replacing`.

    Raises:
        DiskFault: the disk is full, or the folder cannot be written.
    """
    with replacing(path) as partial, writing(path):
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
