"""Places in a run folder that are written to: none of them leads out of it."""

from __future__ import annotations

from pathlib import Path

from stillsight.agents.errors import RunError
from stillsight.encoders.system import plain_file
from stillsight.encoders.system.plain_file import NotPlainError

WHAT = "run folder"
STREAMS = ("metrics", "episodes", "eval")
"""Files of rows that a run appends to, without their ending."""
FOLDERS = ("checkpoints", "tensorboard", "report")
FILES = (
    *("config.json", "machine.json", "spaces.json", "summary.json", "done", *(f"{stream}.jsonl" for stream in STREAMS)),
    *(f"checkpoints/{name}.safetensors" for name in ("best", "best-before", "best-rollout", "last", "encoder", "head")),
    *(f"report/{name}" for name in ("report.md", "report.json", "confusion.csv")),
)
"""What runs write; besides these the checkpoints that are named after steps, see `STEPS`."""
STEPS = ("step-*.safetensors", "replay-*.safetensors")


def place(folder: Path, *parts: str) -> Path:
    """Where in a run folder something is to be written, see `plain_file.below`. Everything that writes into one asks
    here first.

    Args:
        folder: the run's.
        parts: of the path below it.

    Raises:
        RunError: the path leads out of the folder, or there is a link, a pipe or a device on it.
    """
    try:
        return plain_file.below(folder, *parts, what=WHAT)
    except NotPlainError as error:
        raise RunError(str(error)) from error


def check_places(folder: Path) -> None:
    """Refuse a run folder in which something stands in the way of what its run is going to write, before it begins.

    What else lies there, a user's notes or links, is nobody's concern.

    Raises:
        RunError: see `place`; or a folder stands where a file is to be, or a file where a folder is.
    """
    checkpoints = place(folder, "checkpoints")
    steps = [f"checkpoints/{path.name}" for pattern in STEPS for path in checkpoints.glob(pattern)]
    try:
        for names, is_folder in ((FOLDERS, True), ((*FILES, *sorted(steps)), False)):
            for name in names:
                plain_file.check_kind(place(folder, name), folder=is_folder, what=WHAT)
    except NotPlainError as error:
        raise RunError(str(error)) from error
