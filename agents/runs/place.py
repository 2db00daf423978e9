"""Places in a run folder that are written to: none of them leads out of it."""

from __future__ import annotations

from pathlib import Path

from stillsight.agents.errors import RunError


def place(folder: Path, *parts: str) -> Path:
    """Where in a run folder something is to be written. Everything that writes into one asks here first.

    The folder itself may be a link; what lies in it may have been packed by somebody else, and a link there would have
    us write into files of whoever opens it.

    Args:
        folder: the run's.
        parts: of the path below it.

    Raises:
        RunError: the path leads out of the folder, or there is a link, a pipe or a device on it.
    """
    path = folder
    for part in Path(*parts).parts:
        path /= part
        if path.is_symlink():
            raise RunError(
                f"{path} is a link to {path.readlink()}, and stillsight writes through no link inside a run folder. "
                f"Remove it. To keep a run on another disk, move {folder} there as a whole and link to that."
            )
        if part == ".." or path.anchor == part or (path.exists() and not (path.is_file() or path.is_dir())):
            raise RunError(f"{path} is no place in {folder} that can be written to. Remove it, or start a new run.")
    return path
