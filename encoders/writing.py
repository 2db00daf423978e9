"""`writing`, which every write of ours goes through, and DiskFault: a file that was refused, in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

KEPT = "What was written before is kept."

CAUSES: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("its disk is full", "Make room there"),
    errno.EDQUOT: ("your quota on its disk is used up", "Make room there"),
    errno.EFBIG: (
        "it would be larger than a file may be here (ulimit -f)",
        "Type before the command: ulimit -f unlimited",
    ),
    errno.EROFS: ("its disk can only be read", "Take a folder on another disk"),
    errno.EACCES: ("you may not do that there", "Make the folder yours (chmod u+rwx), or take another"),
    errno.EPERM: ("you may not do that there", "Make the folder yours (chmod u+rwx), or take another"),
    errno.EIO: ("its disk reports an error", "See what ails the disk (dmesg), or take a folder on another"),
    errno.EMFILE: ("this process has too many files open (ulimit -n)", "Type before the command: ulimit -n 4096"),
    errno.ENFILE: ("the machine has too many files open", "End what else runs on it"),
    errno.ENOENT: ("its folder is not there, or not any more", "Bring it back, or take another"),
    errno.ENOTDIR: ("a part of its path is no folder", "Take another folder"),
    errno.EISDIR: ("it is a folder", "Move it away, or take another place"),
    errno.ENAMETOOLONG: ("its name is too long", "Take a shorter one"),
    errno.ELOOP: ("its links lead round in a circle", "Take another folder"),
    errno.ESTALE: ("its network disk has lost it", "Mount the disk again"),
}
"""What the system says (errno) -> what that means, and what to do about it."""


class DiskFault(OSError):  # noqa: N818 - an error is the user's, a fault happened to them
    """A file that could not be written, worded so that it can be printed as it stands; the exit code is 1.

    It is an `OSError` with the number of the cause, so whoever can do without the file goes on catching that.

    Args:
        number: errno of the cause.
        reason: the system's word for it, or a better one.
        path: of the file, under the name that it was to have.
    """

    def __init__(self, number: int, reason: str, path: str | Path) -> None:
        super().__init__(number, reason, str(path))
        self.advice = KEPT
        """What is kept, and how to go on; whoever knows more says it here."""

    @property
    def cause(self) -> str:
        """Why, in a few words."""
        known, _ = CAUSES.get(self.errno or 0, (self.strerror, ""))
        return known if self.strerror == os.strerror(self.errno or 0) else self.strerror

    def __str__(self) -> str:
        _, remedy = CAUSES.get(self.errno or 0, ("", "Take another folder"))
        return f"{self.filename} cannot be written: {self.cause}. {remedy}. {self.advice}"


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


def refused(error: OSError) -> str:
    """The sentence about any error of the system: a `DiskFault`'s own, or what can be said of another's."""
    if isinstance(error, DiskFault) or error.errno is None:
        return str(error)
    told, remedy = CAUSES.get(error.errno, (error.strerror or os.strerror(error.errno), "Mend that"))
    what = f"{error.filename} cannot be read or written" if error.filename else "A file cannot be read or written"
    return f"{what}: {told}. {remedy}."
