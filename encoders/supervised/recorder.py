"""Recorder: what a run folder must offer to a run of this track, and a recorder that writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Recorder(Protocol):
    """A run folder, as `stillsight.agents.runs.folder.Run` is one."""

    folder: Path

    def place(self, *parts: str) -> Path:
        """Where in the folder something is to be written."""
        ...

    def card(self, title: str, rows: dict[str, str]) -> None:
        """Show what will happen."""

    def rewind(self, last: int, counted: str) -> None:
        """Cut the rows of what comes after number `last` of `counted` (epochs), which a resumed run does again."""

    def log(self, stream: str, row: dict[str, Any]) -> None:
        """Append a row to a stream of records."""

    def progress(self, what: str, done: int, total: int, **facts: object) -> None:
        """Show that `done` of `total` is finished."""

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file."""

    def save(self, name: str, tree: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
        """Save a checkpoint: nested dicts and lists of tensors and plain values."""

    def load(self, name: str, device: torch.device) -> dict[str, Any] | None:
        """A checkpoint that was saved before, or None."""


class NullRecorder:
    """A recorder for all processes but the main one, and for measurements: it writes and shows nothing, and reads
    nothing.

    Args:
        folder: of the run; nothing is written there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, *parts: str) -> Path:
        """A path at which nothing is written."""
        return self.folder.joinpath(*parts)

    def card(self, title: str, rows: dict[str, str]) -> None:
        """Show nothing."""

    def rewind(self, last: int, counted: str) -> None:
        """Cut nothing."""

    def log(self, stream: str, row: dict[str, Any]) -> None:
        """Write nothing."""

    def progress(self, what: str, done: int, total: int, **facts: object) -> None:
        """Show nothing."""

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write nothing."""

    def save(self, name: str, tree: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
        """Write nothing."""

    def load(self, name: str, device: torch.device) -> dict[str, Any] | None:  # noqa: ARG002 - Recorder's signature
        """Nothing; what the main process read comes through `World.broadcast`."""
        return None
