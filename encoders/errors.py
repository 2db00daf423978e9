"""The errors of encoders and of files, the sentence about a name that does not exist, and notices."""

from __future__ import annotations

import difflib
import errno
import functools
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path, PurePath


class EncoderError(ValueError):
    """A user's mistake around encoders, weights or data sets, worded so that it can be printed as it stands."""


class DamagedFileError(EncoderError):
    """Why a file is damaged, incomplete or no file of its kind: words for whoever knows what it is to make a sentence
    of."""


class MemoryShortError(EncoderError):
    """A file that free memory has no room for, worded so that it can be printed as it stands.

    It is no damaged one: whoever passes over damaged files, replaces or removes them, leaves this one as it is.

    Args:
        what: the file, or words for what is in it.
        reason: what it takes and what there is, such as "it holds 8 bytes, and 4 of memory are free".
        advice: what to do, where something better is known than to make room.
    """

    def __init__(self, what: object, reason: str, advice: str = "") -> None:
        super().__init__(
            f"{what} was not read, and is kept as it is: {reason}. "
            f"{advice or 'End what else takes memory here, or take a machine with more, and type the same again.'}"
        )
        self.reason = reason


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, of this machine or of a device; torch's own are
    RuntimeErrors."""
    said = str(error)
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(word in said for word in words))


def unknown(noun: str, found: str, known: Iterable[str], allowed: str, flag: str) -> str:
    """The sentence for a name that does not exist: what was found, the nearest match, what is allowed, what to type.

    Args:
        noun: what the name is of, say "encoder".
        found: the name that was given.
        known: the names that exist.
        allowed: what stands before the list of them.
        flag: what to type before the nearest one.
    """
    names = list(known)
    spelt = {name.lower(): name for name in names}  # PPO is ppo
    near = [spelt[name] for name in difflib.get_close_matches(found.lower(), spelt, n=1, cutoff=0.5)]
    guess = f" Did you mean {near[0]!r}? Type: {flag} {near[0]}." if near else ""
    return f"There is no {noun} named {found!r}.{guess} {allowed}: {', '.join(names)}."


def file_for_module(path: str, flag: str) -> str:
    """The sentence about `folder/file.py:name` where `module:name` is meant; "" of any other."""
    module, _, name = path.partition(":")
    if not (module.endswith(".py") or "/" in module or module.startswith(".")):
        return ""
    named = f"{PurePath(module).name.removesuffix('.py').strip('.')}:{name}"
    return f"{path!r} names a file, and module:name names a module. From its folder, type: {flag} {named}"


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
        reason = str(self.strerror)
        known, _ = CAUSES.get(self.errno or 0, (reason, ""))
        return known if reason == os.strerror(self.errno or 0) else reason

    def __str__(self) -> str:
        _, remedy = CAUSES.get(self.errno or 0, ("", "Take another folder"))
        return f"{self.filename} cannot be written: {self.cause}. {remedy}. {self.advice}"


def refused(error: OSError) -> str:
    """The sentence about any error of the system: a `DiskFault`'s own, or what can be said of another's."""
    if isinstance(error, DiskFault) or error.errno is None:
        return str(error)
    told, remedy = CAUSES.get(error.errno, (error.strerror or os.strerror(error.errno), "Mend that"))
    what = error.filename or "A file, or the standard output,"
    return f"{what} cannot be read or written: {told}. {remedy}."


def first_line(error: object) -> str:
    """The first line of what an error says, or its type where it says nothing: for the middle of a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def last_line(error: object) -> str:
    """The last line of what an error says, in which some say what it comes to, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def in_brackets(error: BaseException) -> str:
    """The type of somebody else's error, and the first line of what it may say, cut to 200 characters."""
    kind, said = type(error).__name__, first_line(error)[:200].removesuffix(".")
    return kind if said == kind else f"{kind}: {said}"


@functools.cache
def say_once(sentence: str) -> None:
    """Print a notice on the standard error, the first time in this process: of what somebody waits for, or loses."""
    print(f"stillsight: {printable_lines(sentence)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    r"""`text` on one line that a terminal shows and does not obey: control characters as `\n`, no UTF-8 as `\xe9`.

    File names may hold anything but a slash, and reports, charts and terminals may not.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def as_typed(path: Path) -> str:
    """`path` as a word of a command line that a user is told to type, whatever its name does to a shell.

    One that begins with a dash would be a flag; from the current folder it is a path.
    """
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def printable_lines(text: object) -> str:
    """The same of each line of a message, in which names and texts of somebody else may stand."""
    return "\n".join(map(printable, str(text).split("\n")))


def _escaped(character: str) -> str:
    byte = ord(character) - 0xDC00  # as Python holds what it cannot decode in a file's name
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode()
