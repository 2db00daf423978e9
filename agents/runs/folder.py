"""The run folder: a plain folder, enough to play, continue and cite. Written atomically, read without executing."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from stillsight.agents.errors import RunError
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.reader import checkpoint_path, read_config
from stillsight.agents.runs.records import append_line, plain
from stillsight.encoders.atomic import to_json, write_atomically

if TYPE_CHECKING:
    import torch


class Sink(Protocol):
    """Where a run's rows go besides its folder, say a tracker."""

    def log(self, stream: str, row: Mapping[str, Any]) -> None:
        """Take a row of a stream (metrics, episodes, eval), with plain values as JSON knows them."""

    def rewind(self, last: int) -> None:
        """Forget the rows of what comes after step or epoch `last`, which a resumed run does again."""

    def close(self) -> None:
        """Write what is left; no row comes after it."""


class Run:
    """One run folder. Nothing is written before `card`, so a mistake that is found earlier leaves nothing behind.

    config.json     what was asked for, every field      machine.json   command, commit, versions, hardware
    metrics.jsonl   episodes.jsonl   eval.jsonl          one JSON object a line
    checkpoints/    safetensors                          summary.json   the result;   done   written last, empty

    Args:
        folder: the run's; with `counted` the first of "<folder>", "<folder>-2", "<folder>-3" ... that is not there yet
            when the run begins, so that two runs never share one, even where they begin at once.
        command: "rl" or "cifar".
        config: the run's configuration.
        resumed: continue what lies in the folder.
        counted: see `folder`.
        sinks: each row that is logged goes to these too; they are closed with the run. A function makes them from the
            run's folder, when it begins.
        changed: flags of a resumed run that are others now -> (before, now). config.json says what holds now, and the
            session in machine.json what held before.

    Raises:
        RunError: `folder` exists and is neither to be resumed nor counted.
    """

    def __init__(
        self,
        folder: Path,
        command: str,
        config: Any,
        *,
        resumed: bool = False,
        counted: bool = False,
        sinks: Sequence[Sink] | Callable[[Path], Sequence[Sink]] = (),
        changed: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> None:
        self.changed = dict(changed or {})
        self.rows: dict[str, str] = {}  # on the card, beside those that it is given
        self.folder, self.command, self.config, self.resumed = folder, command, config, resumed
        self.counted = counted and not resumed
        if folder.exists() and not resumed and not counted:
            raise self._taken()
        self._given = sinks
        self.sinks: tuple[Sink, ...] = () if callable(sinks) else tuple(sinks)
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
            self._claim()
            (self.folder / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"The run folder {self.folder} cannot be made ({error}). Choose another: --out.") from error
        if callable(self._given):
            self.sinks = tuple(self._given(self.folder))
        if self.resumed:
            (self.folder / "done").unlink(missing_ok=True)  # first: a folder never says that more is done than is
        if not self.resumed or self.changed:
            self.write_json("config.json", {"command": self.command, **plain(self.config)})
        # A resumed run may go on elsewhere: the file keeps every machine that it has run on.
        before = json.loads((self.folder / "machine.json").read_text())["sessions"] if self.resumed else []
        session = machine()
        if self.changed:
            session["changed"] = {name: {"before": old, "now": new} for name, (old, new) in self.changed.items()}
        self.write_json("machine.json", {"sessions": [*before, session]})

    def _claim(self) -> None:
        """Make the folder, which nobody else has made: `mkdir` is atomic."""
        if self.resumed:
            return
        first = self.folder
        first.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            self.folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
            try:
                self.folder.mkdir()
            except FileExistsError:
                if not self.counted:
                    raise self._taken() from None
            else:
                return

    def _taken(self) -> RunError:
        """What to say of a folder that is there: only the same experiment is to be gone on with."""
        elsewhere = "hoose another folder with --out FOLDER."
        if (self.folder / "done").exists():
            return RunError(f"{self.folder} holds a finished run. C{elsewhere}")
        try:
            there = read_config(self.folder)
        except RunError:
            return RunError(f"{self.folder} already exists, and holds no run. C{elsewhere}")
        asked = {"command": self.command, **plain(self.config)}
        differing = [
            name
            for name in asked
            if there.get(name) != asked[name] and name not in ("out", "resume", "device", "threads")
        ]
        if not differing:
            return RunError(f"{self.folder} already exists. Continue it with --resume {self.folder}, or c{elsewhere}")
        flags = ", ".join(f"{name} {there.get(name)!r} and not {asked[name]!r}" for name in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        return RunError(f"{self.folder} already exists, and holds another experiment ({flags}{more}). C{elsewhere}")

    def card(self, title: str, rows: Mapping[str, str]) -> None:
        """Print what will happen, and open the folder."""
        self._begin()
        self.display.card(f"stillsight {title}", {**rows, **self.rows, "folder": str(self.folder)})

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
        for sink in self.sinks:
            sink.rewind(last)

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
