"""The sha256 of a file whose author publishes none: noted beside it at its first use, and compared from then on."""

from __future__ import annotations

import re
from pathlib import Path

from stillsight.encoders.atomic import write_atomically
from stillsight.encoders.errors import DiskFault, EncoderError, say_once


def note(path: Path) -> Path:
    """Where the hash of the file at `path` is noted, in the format of the program sha256sum."""
    return path.with_name(f"{path.name}.sha256")


def compare(path: Path, sha256: str) -> None:
    """Compare a file's sha256 with what it was at its first use; at that, note it.

    Raises:
        EncoderError: it is another file now, or what was noted cannot be read.
    """
    try:
        noted = note(path).read_text()
    except FileNotFoundError:
        keep(path, sha256)
        return
    except (OSError, UnicodeDecodeError):
        noted = ""
    known = re.match(r"[0-9a-f]{64}\b", noted)
    if known is None:
        raise EncoderError(
            f"{note(path)} holds no sha256, so that nobody knows whether {path.name} is what it was at its first use. "
            f"Get the file again, or, if you trust it, delete {note(path)}."
        )
    if known[0] != sha256:
        raise EncoderError(
            f"{path} is damaged, or another file than when it was first used: its sha256 begins with {sha256[:8]}, and "
            f"{note(path).name} beside it says {known[0][:8]}. Get the file again; if you have put another one there, "
            f"delete {note(path)}."
        )


def keep(path: Path, sha256: str) -> None:
    """Note what a file that has just come here is, whatever was noted of one before it."""
    try:
        write_atomically(note(path), f"{sha256}  {path.name}\n")
    except DiskFault as fault:
        say_once(f"the sha256 of {path} could not be noted beside it ({fault.cause}), so it cannot be compared.")
