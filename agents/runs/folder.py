"""The run folder: a plain folder, enough to play, continue and cite. Written atomically, read without executing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from stillsight.agents.errors import RunError
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.reader import checkpoint_path
from stillsight.agents.runs.records import append_line, plain
from stillsight.encoders.atomic import to_json, write_atomically

if TYPE_CHECKING:
    import torch


class Sink(Protocol):
    """Where a run's rows go besides its folder, say a tracker."""

    def log(self, stream: str, row: Mapping[str, Any]) -> None:
        """Take a row of a stream (metrics, episodes, eval), with plain values as JSON knows them."""

    def close(self) -> None:
        """Write what is left; no row comes after it."""


class Run:
    """One run folder. Nothing is written before `card`, so a mistake that is found earlier leaves nothing behind.

    config.json     what was asked for, every field      machine.json   command, commit, versions, hardware
    metrics.jsonl   episodes.jsonl   eval.jsonl          one JSON object a line
    checkpoints/    safetensors                          summary.json   the result;   done   written last, empty

    Args:
        folder: the run's.
        command: "rl" or "cifar".
        config: the run's configuration.
        resumed: continue what lies in the folder.
        sinks: each row that is logged goes to these too; they are closed with the run.

    Raises:
        RunError: `folder` exists and is not to be resumed.
    """

    def __init__(
        self, folder: Path, command: str, config: Any, *, resumed: bool = False, sinks: Sequence[Sink] = ()
    ) -> None:
        if folder.exists() and not resumed:
            state = "holds a finished run" if (folder / "done").exists() else "already exists"
            advice = "" if (folder / "done").exists() else f"Continue it with --resume {folder}, or "
            raise RunError(f"{folder} {state}. {advice}choose another folder with --out FOLDER.")
        self.folder, self.command, self.config, self.resumed = folder, command, config, resumed
        self.sinks = tuple(sinks)
        self.display = ProgressDisplay()
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.display.close()
        for sink in self.sinks:
            sink.close()
        if kind is None and self._begun:
            (self.folder / "done").touch()

    def _begin(self) -> None:
        """Create the folder and say in it what runs here."""
        if self._begun:
            return
        self._begun = True
        try:
            (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"The run folder {self.folder} cannot be made ({error}). Choose another: --out.") from error
        if not self.resumed:
            self.write_json("config.json", {"command": self.command, **plain(self.config)})
        # A resumed run may go on elsewhere: the file keeps every machine that it has run on.
        before = json.loads((self.folder / "machine.json").read_text())["sessions"] if self.resumed else []
        self.write_json("machine.json", {"sessions": [*before, machine()]})

    def card(self, title: str, rows: Mapping[str, str]) -> None:
        """Print what will happen, and open the folder."""
        self._begin()
        self.display.card(f"stillsight {title}", {**rows, "folder": str(self.folder)})

    def progress(self, what: str, done: int, total: int, **facts: object) -> None:
        """Show progress, see `ProgressDisplay.update`."""
        self.display.update(what, done, total, **facts)

    def log(self, stream: str, row: Mapping[str, Any]) -> None:
        """Append `row` to `<stream>.jsonl`, flushed, so that a killed run keeps it, and hand it to every sink."""
        self._begin()
        append_line(self.folder / f"{stream}.jsonl", row)
        for sink in self.sinks:
            sink.log(stream, plain(row))

    def rewind(self, last: int, counted: str = "step") -> None:
        """Cut the records of what comes after `last`, which a resumed run does again.

        Args:
            last: the number that the checkpoint stands at, of env steps or epochs.
            counted: the name of that number in the records; those that have none are cut.
        """
        for stream in ("metrics", "episodes", "eval"):
            path = self.folder / f"{stream}.jsonl"
            if path.exists():
                lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
                kept = [line for line in lines if json.loads(line).get(counted, math.inf) <= last]
                write_atomically(path, "".join(kept))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file at once or not at all."""
        self._begin()
        write_atomically(self.folder / name, to_json(plain(content), indent=2) + "\n")

    def checkpoint(self, name: str) -> Path:
        """Path of the checkpoint called `name`."""
        return checkpoint_path(self.folder, name)

    def save(self, name: str, tree: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
        """Save a checkpoint, see `checkpoint.save`."""
        self._begin()
        checkpoint.save(self.checkpoint(name), tree, metadata)

    def load(self, name: str, device: torch.device) -> dict[str, Any] | None:
        """Load a checkpoint of this folder, or None if it was never written."""
        return checkpoint.load(self.checkpoint(name), device) if self.checkpoint(name).exists() else None
