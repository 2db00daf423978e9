"""The ancestor: the run whose policy another one begins with, and the checkpoint that holds it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillsight.agents.errors import RunError
from stillsight.agents.runs import checkpoint, history
from stillsight.agents.runs.reader import read_config
from stillsight.encoders.errors import as_typed
from stillsight.encoders.system.plain_file import NotPlainError, open_plain


@dataclass(frozen=True)
class Ancestor:
    """The run whose policy another one begins with.

    Attributes:
        folder: its folder.
        checkpoint: name of the checkpoint.
        step: environment steps that its policy had learned from.
        sha256: of the checkpoint's file.
    """

    folder: Path
    checkpoint: str
    step: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """For summary.json."""
        return {"run": str(self.folder), "checkpoint": self.checkpoint, "step": self.step, "sha256": self.sha256}


def ancestor_file(folder: Path, name: str) -> Path:
    """The file of the checkpoint `name` of a run that another one is to begin with.

    Runs that were stopped before their first evaluation have no best agent; "best" is their last one then, as it is
    where they are played.

    Raises:
        RunError: there is no run, it is none of an agent, or it has no such checkpoint.
        CheckpointError: `name` is no name of a checkpoint.
    """
    command = read_config(folder).get("command", "rl")
    if command != "rl":
        raise RunError(
            f"--from {folder} names a {command} run, and only rl runs hold a policy. To begin with its encoder, type: "
            f"--mode finetune --weights {as_typed(folder)}"
        )
    name = history.checkpoint_name(name)
    path = history.held_file(folder, name)
    if name == history.BEST and not path.exists():
        path = history.checkpoint_file(folder, history.LAST)
    if name.isdigit() and not path.exists():
        standing = history.standing_at(folder, int(name), checkpoint.load)
        if standing is not None:
            return history.held_file(folder, standing[0])
    if not path.exists():
        held = ", ".join(history.names(folder)) or "none"
        raise RunError(
            f"--from {folder} has no checkpoint {name!r}; it holds {held}. Type, say: --from-checkpoint last."
        )
    return path


def ancestor_sha256(folder: Path, name: str) -> str:
    """Hash of the file of that checkpoint: what a run begins with, whatever its folder is called.

    Raises:
        RunError: see `ancestor_file`; or its file cannot be read.
    """
    path = ancestor_file(folder, name)
    try:
        with open_plain(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (NotPlainError, OSError) as error:
        reason = error.reason if isinstance(error, NotPlainError) else error.strerror
        raise RunError(f"--from {folder}: its checkpoint {path} cannot be read ({reason}). Restore it.") from error
