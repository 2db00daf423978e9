"""Open files that somebody else may have laid: plain ones, without waiting, and through no link where we write."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import Literal, cast, overload

from stillsight.encoders.errors import DamagedFileError, EncoderError, as_typed

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
}
"""File types of stat that are no plain file, in words."""


class NotPlainError(EncoderError):
    """A pipe, a device, a socket or a link where a plain file is to be, worded so that it can be printed as it stands.

    Args:
        path: of the file.
        reason: what it is, such as "it is no file but a pipe", for whoever makes a sentence of their own.
        sentence: to be printed; by default one that says what to do about the path.
    """

    def __init__(self, path: Path, reason: str, sentence: str = "") -> None:
        super().__init__(
            sentence
            or f"{path} cannot be opened: {reason}, and stillsight opens plain files alone. Remove it, or give a file."
        )
        self.reason = reason


@overload
def open_plain(path: Path, mode: Literal["rb"] = ...) -> io.BufferedReader: ...


@overload
def open_plain(path: Path, mode: Literal["r+b"]) -> io.BufferedRandom: ...


@overload
def open_plain(path: Path, mode: Literal["a+b"]) -> io.FileIO: ...


def open_plain(
    path: Path, mode: Literal["rb", "r+b", "a+b"] = "rb"
) -> io.BufferedReader | io.BufferedRandom | io.FileIO:
    """Open a plain file, whose content alone was laid by somebody: a pipe would wait, a device would never end.

    To read, a link to a plain file is one, as in the caches of weights. Where `mode` writes, the last part of `path`
    may be no link, see `below` for the folders before it; a file that is missing is made, and nothing is cut off.

    Args:
        path: of the file.
        mode: "rb" to read, "r+b" to write anywhere, "a+b" to append, unbuffered.

    Raises:
        NotPlainError: it is a pipe, a device, a socket or, where it is written, a link.
        OSError: there is none to be read, it is a folder, or the system refuses it.
    """
    writes = mode != "rb"

    def opener(name: str, flags: int) -> int:
        flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        if writes:
            flags |= os.O_NOFOLLOW | os.O_CREAT
        try:
            handle = os.open(name, flags, 0o666)
        except OSError as error:
            if error.errno == errno.ENXIO or (error.errno == errno.ELOOP and os.path.islink(name) and writes):
                raise NotPlainError(path, _what(os.stat(name, follow_symlinks=not writes).st_mode)) from error
            raise
        there = os.fstat(handle).st_mode
        if stat.S_ISREG(there):
            return handle
        os.close(handle)
        if stat.S_ISDIR(there):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise NotPlainError(path, _what(there))

    file = open(path, mode, 0 if mode == "a+b" else -1, opener=opener)  # noqa: SIM115 - whoever asks for it closes it
    return cast("io.BufferedReader | io.BufferedRandom | io.FileIO", file)


def read_plain(path: Path, most: int) -> bytes:
    """The content of a plain file of at most `most` bytes.

    Raises:
        NotPlainError, OSError: see `open_plain`.
        DamagedFileError: it has more.
    """
    with open_plain(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise DamagedFileError(f"it has more than {most:,} bytes, and none of ours has so many")
    return content


def below(folder: Path, *parts: str, what: str) -> Path:
    """Where in a folder something is to be written, of which nothing leads out of it: everything that writes asks here.

    The folder itself may be a link, which its user typed; what lies in it may have been packed by somebody else, and a
    link there would have us write into files of whoever opens it.

    Args:
        folder: the whole that is ours.
        parts: of the path below it.
        what: the folder is, such as "run folder".

    Raises:
        NotPlainError: the path leads out of the folder, or there is a link, a pipe or a device on it.
    """
    path = folder
    for part in Path(*parts).parts:
        path /= part
        if part == ".." or path.anchor == part:
            raise NotPlainError(
                path,
                "it leads out of the folder",
                f"{path} is no place in {folder} that can be written to: it leads out of it. Name one below.",
            )
        try:
            mode = path.lstat().st_mode
        except OSError:  # nothing is there yet, or who writes there will be told
            continue
        if stat.S_ISLNK(mode):
            target = path.readlink()
            raise NotPlainError(
                path,
                f"it is a link to {target}",
                f"{path} is a link to {target}, and stillsight writes through no link inside a {what}. Remove it. To "
                f"keep a {what} on another disk, move {folder} there as a whole and link to that.",
            )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise NotPlainError(
                path,
                _what(mode),
                f"{path} is no place in {folder} that can be written to: {_what(mode)}. Remove it, or start anew.",
            )
    return path


def check_kind(path: Path, *, folder: bool, what: str) -> None:
    """Refuse a folder where a file is to be written, and a file where a folder is; nothing may be there as well.

    Args:
        path: from `below`.
        folder: a folder is to be there.
        what: they lie in, such as "run folder".

    Raises:
        NotPlainError: the other one is there.
    """
    if path.exists() and path.is_dir() != folder:
        there, wanted = ("a file", "a folder") if folder else ("a folder", "a file")
        raise NotPlainError(
            path,
            f"it is {there}",
            f"{path} is no place that can be written to: it is {there}, and a {what} has {wanted} there. Move it away: "
            f"mv {as_typed(path)} {as_typed(Path(f'{path}.old'))}",
        )


def _what(mode: int) -> str:
    return f"it is no file but {_KINDS.get(stat.S_IFMT(mode), 'something else')}"
