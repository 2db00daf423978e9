"""Check that the disk has room before anything is written, and say what is wrong with a cache."""

from __future__ import annotations

import shutil
from pathlib import Path

from stillsight.encoders.errors import EncoderError


def check_room(folder: Path, needed: int) -> None:
    """Make `folder` and refuse it if it cannot take `needed` more bytes.

    Raises:
        EncoderError: there is too little room, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise EncoderError(f"The cache {folder} cannot be made ({error}). Choose another: --cache FOLDER.") from error
    if free < needed:
        raise no_room(folder, needed, free)


def no_room(folder: Path, needed: int, free: int) -> EncoderError:
    """The sentence about a full disk."""
    return EncoderError(
        f"{folder} needs {needed:,} bytes more, and its disk has {free:,} free. Make room, or take another disk: "
        "--cache FOLDER. What was computed so far is kept."
    )
