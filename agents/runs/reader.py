"""Reading run folders: the one door to what lies in them. Nothing there is executed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillsight.agents.errors import RunError
from stillsight.agents.runs.lock import LOCK_FILE
from stillsight.encoders.atomic import is_partial

RUNS = Path("results/runs")
"""Where run folders go by default."""


def checkpoint_path(folder: Path, name: str) -> Path:
    """Where a run folder keeps the checkpoint called `name`."""
    return folder / "checkpoints" / f"{name}.safetensors"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run folder.

    Raises:
        RunError: there is no run in `folder`, or its config.json is damaged.
    """
    missing = f"{folder} is no run folder: it has no config.json. `stillsight list runs` shows the runs."
    if is_unbegun(folder):
        missing = (
            f"{folder} is no run folder: it has no config.json. If a run was stopped there before it had written that, "
            f"begin it again: its flags and --out {folder}, without --resume."
        )
    return read_json(folder / "config.json", missing)


def is_unbegun(folder: Path) -> bool:
    """Whether `folder` is empty, or a run was stopped in it before it had written anything but files of no meaning."""
    try:
        return all(
            path.name == LOCK_FILE or is_partial(path) or (path.name == "checkpoints" and not any(path.iterdir()))
            for path in folder.iterdir()
        )
    except OSError:
        return False


def read_json(path: Path, missing: str) -> dict[str, Any]:
    """A JSON file of a run folder.

    Args:
        path: of the file.
        missing: the sentence to say where there is none.

    Raises:
        RunError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise RunError(missing)
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}). Restore it, or start a new run.") from error
    return content


def find_runs(root: Path = RUNS) -> Iterator[Path]:
    """Every run folder below `root`."""
    return (path.parent for path in sorted(root.glob("**/config.json")))
