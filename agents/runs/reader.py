"""Reading run folders: the one door to what lies in them. Nothing there is executed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillsight.agents.errors import RunError

RUNS = Path("results/runs")
"""Where run folders go by default."""


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run folder.

    Raises:
        RunError: there is no run in `folder`, or its config.json is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise RunError(f"{folder} is no run folder: it has no config.json. `stillsight list runs` shows the runs.")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}). Restore it, or start a new run.") from error
    return config


def find_runs(root: Path = RUNS) -> Iterator[Path]:
    """Every run folder below `root`."""
    return (path.parent for path in sorted(root.glob("**/config.json")))
