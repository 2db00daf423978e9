"""Reading run folders: the one door to what lies in them. Nothing there is executed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillsight.agents.errors import CheckpointError, RunError
from stillsight.agents.runs import schema
from stillsight.agents.runs.lock import LOCK_FILE
from stillsight.encoders.atomic import is_partial
from stillsight.encoders.errors import as_typed

RUNS = Path("results/runs")
"""Where run folders go by default."""


IMPORTED = "imported.json"
"""Says in a run folder that `stillsight import` made where its policy came from."""


def check_resumable(folder: Path) -> None:
    """Raise `RunError` for an imported run, which holds no state of learning."""
    if (folder / IMPORTED).exists():
        raise RunError(
            f"{folder} was imported: it holds a policy and no state of learning to go on from. Play it: stillsight "
            f"evaluate {as_typed(folder)}. To learn on from it, begin a new run: stillsight rl --from "
            f"{as_typed(folder)}"
        )


def checkpoint_path(folder: Path, name: str) -> Path:
    """Where a run folder keeps the checkpoint called `name`.

    Raises:
        CheckpointError: the name leads out of the folder; one checkpoint names another, and a file may say anything.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise CheckpointError(
            f"{name!r} names no checkpoint of {folder}. Names are letters, digits, '-', '_' and '.', such as best and "
            "last."
        )
    return folder / "checkpoints" / f"{name}.safetensors"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run folder, as it stands: what it names is not looked at, see `trust.open_run` for that.

    Raises:
        RunError: there is no run in `folder`, or its config.json is damaged.
    """
    missing = f"{folder} is no run folder: it has no config.json. `stillsight list runs` shows the runs."
    if is_unbegun(folder):
        missing = (
            f"{folder} is no run folder: it has no config.json. If a run was stopped there before it had written that, "
            f"begin it again: its flags and --out {as_typed(folder)}, without --resume."
        )
    return read_json(folder / "config.json", missing, schema.Flat)


def is_unbegun(folder: Path) -> bool:
    """Whether `folder` is empty, or a run was stopped in it before it had written anything but files of no meaning."""
    try:
        return all(
            path.name == LOCK_FILE or is_partial(path) or (path.name == "checkpoints" and not any(path.iterdir()))
            for path in folder.iterdir()
        )
    except OSError:
        return False


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a run folder; see `schema.SummaryRecord` for what can be relied on.

    None of a run that is not finished: what lies there then is of the shorter one that it was.

    Raises:
        RunError: it is damaged.
    """
    path = folder / "summary.json"
    if not ((folder / "done").exists() and path.exists()):
        return None
    return read_json(path, "", schema.SummaryRecord)


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """The sessions in machine.json of a run folder, oldest first; none where it was not written yet.

    Raises:
        RunError: it is damaged.
    """
    path = folder / "machine.json"
    sessions: list[dict[str, Any]] = read_json(path, "", schema.MachineRecord)["sessions"] if path.exists() else []
    return sessions


def read_json(path: Path, missing: str, kind: Any = dict[str, Any], advice: str = schema.RESTORE) -> dict[str, Any]:
    """A JSON file of a run folder.

    Args:
        path: of the file.
        missing: the sentence to say where there is none.
        kind: what it must hold, see `schema`; the file may hold more.
        advice: what to do about one that is damaged.

    Raises:
        RunError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise RunError(missing or f"{path} is no file. Remove it, or start a new run.")
    content: dict[str, Any] = schema.parse(schema.read_bounded(path), path, advice=advice)
    schema.convert(content, kind, path, advice)
    return content


def find_runs(root: Path = RUNS) -> Iterator[Path]:
    """Every run folder below `root`."""
    return (path.parent for path in sorted(root.glob("**/config.json")))
