"""Plain files: what somebody else may have laid in a folder is opened where it is a file, and nothing else is."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO, Literal, cast

from stillsight.encoders.errors import DamagedFileError

_FLAGS = {"rb": os.O_RDONLY, "r+b": os.O_RDWR | os.O_CREAT, "a+b": os.O_RDWR | os.O_APPEND | os.O_CREAT}
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def check_plain(path: Path, *, followed: bool = False) -> None:
    """Refuse what is no file: through a link something else is read or written, at a pipe one waits for whoever is at
    its other end, and a device may never end. What is not there passes.

    Args:
        path: of the file.
        followed: a link to a file is one, as where a user names it.

    Raises:
        DamagedFileError: what it is, in words that go on from its name.
    """
    if not followed and path.is_symlink():
        raise DamagedFileError(f"is a link, to {os.readlink(path)}, and no file")
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe, a socket or a device"
        raise DamagedFileError(f"is {kind}, and no file")


def open_plain(path: Path, mode: Literal["rb", "r+b", "a+b"] = "rb") -> IO[bytes]:
    """Open a file, through no link and without waiting; with + it is made where it is missing.

    Raises:
        DamagedFileError: see `check_plain`.
        OSError: it is missing or a folder, or the disk refuses.
    """
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    check_plain(path)
    handle = os.open(path, _FLAGS[mode] | _SAFE, 0o666)  # what has come there since is no link, and keeps nobody
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DamagedFileError("is no file any more")
    return cast("IO[bytes]", os.fdopen(handle, mode.replace("a+b", "ab+")))


def read_plain(path: Path, most: int) -> bytes:
    """What a file holds, through no link and without waiting.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        DamagedFileError: it is larger, or see `check_plain`.
        OSError: it is missing, or the disk refuses.
    """
    with open_plain(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise DamagedFileError(f"has more than {most:,} bytes")
    return content
