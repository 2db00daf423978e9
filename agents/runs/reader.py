"""Reading run folders: the one door to what lies in them. Nothing there is executed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillsight.agents.errors import RunError

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
    return read_json(folder / "config.json", missing)


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
