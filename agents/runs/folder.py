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
from stillsight.agents.runs.lock import Lock, LockedError
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.reader import checkpoint_path, is_unbegun, read_config
from stillsight.agents.runs.records import append_line, plain, read_lines
from stillsight.encoders.atomic import sweep, to_json, write_atomically
from stillsight.encoders.system.stopping import Stop

if TYPE_CHECKING:
    import torch


class Sink(Protocol):
    """Where a run's rows go besides its folder, say a tracker."""

    def log(self, stream: str, row: Mapping[str, Any]) -> None:
        """Take a row of a stream (metrics, episodes, eval), with plain values as JSON knows them."""

    def rewind(self, last: int) -> None:
        """Forget the rows from step or epoch `last` on: those of `last` follow, the others are made again."""

    def close(self) -> None:
        """Write what is left; no row comes after it."""


class Run:
    """One run folder. Nothing is written before `card`, so a mistake that is found earlier leaves nothing behind.

    config.json     what was asked for, every field      machine.json   command, commit, versions, hardware
    metrics.jsonl   episodes.jsonl   eval.jsonl          one JSON object a line
    checkpoints/    safetensors                          summary.json   the result;   done   written last, empty

    As long as it lives it is the only one that writes there: a resumed run from `with` on, a new one from `card` on.

    Args:
        folder: the run's; with `counted` the first of "<folder>", "<folder>-2", "<folder>-3" ... that is not there yet
            when the run begins, so that two runs never share one, even where they begin at once. One in which a run was
            stopped before it had written its config.json is begun anew.
        command: "rl" or "cifar".
        config: the run's configuration.
        resumed: continue what lies in the folder.
        counted: see `folder`.
        sinks: each row that is logged goes to these too; they are closed with the run. A function makes them from the
            run's folder, when it begins.

    Raises:
        RunError: `folder` exists and is neither to be resumed nor counted, or another run works in it.
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
    ) -> None:
        self.folder, self.command, self.config, self.resumed = folder, command, config, resumed
        self.counted = counted and not resumed
        self._lock = Lock(folder)
        if folder.exists() and not resumed and not counted and not is_unbegun(folder):
            raise self._taken()
        self._given = sinks
        self.sinks: tuple[Sink, ...] = () if callable(sinks) else tuple(sinks)
        self.display = ProgressDisplay()
        self._begun = False

    def __enter__(self) -> Self:
        if self.resumed:
            self._own()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.display.close()
            for sink in self.sinks:
                sink.close()
            if kind is None and self._begun:
                (self.folder / "done").touch()
            if isinstance(error, Stop):
                error.sentence = error.sentence or f"Stopped by {error.name}. {self.advice()}"
        finally:
            self._lock.give_back()

    def advice(self) -> str:
        """How to go on with a run that was stopped, in a sentence."""
        if not (self._begun or self.resumed):
            return "Nothing was written yet."
        go_on = f"stillsight {self.command} --resume {self.folder}"
        last = self.checkpoint("last")
        return (
            f"Go on from {last} with: {go_on}" if last.exists() else f"Nothing was saved yet; begin again with: {go_on}"
        )

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
        if not self.resumed:
            self.write_json("config.json", {"command": self.command, **plain(self.config)})
        # A resumed run may go on elsewhere: the file keeps every machine that it has run on.
        self.write_json("machine.json", {"sessions": [*self._sessions(), machine()]})

    def _sessions(self) -> list[Any]:
        """What machine.json says of the sessions before; nothing where the first was stopped before it wrote that."""
        try:
            sessions = json.loads((self.folder / "machine.json").read_text())["sessions"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return sessions if isinstance(sessions, list) else []

    def _claim(self) -> None:
        """Make the folder, which nobody else has made: `mkdir` is atomic. Then own it."""
        if self.resumed:
            self._own()
            return
        first = self.folder
        first.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            self.folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
            try:
                self.folder.mkdir()
            except FileExistsError:
                if self.counted:
                    continue
                if not is_unbegun(self.folder):
                    raise self._taken() from None
            self._lock = Lock(self.folder)
            try:
                self._own()
            except LockedError:
                if not self.counted:
                    raise
                continue
            if is_unbegun(self.folder):
                return
            self._lock.give_back()  # somebody was here between our two looks
            if not self.counted:
                raise self._taken()

    def _own(self) -> None:
        """Keep every other writer out, and remove what a killed one left half written.

        Raises:
            RunError: there is another, or the folder cannot be written.
        """
        try:
            self._lock.take()
        except OSError as error:
            raise RunError(
                f"The run folder {self.folder} cannot be written ({error}). Make it yours, or copy it."
            ) from error
        for place in (self.folder, self.folder / "checkpoints"):
            sweep(place, alone=True)

    def _taken(self) -> RunError:
        """What to say of a folder that is there: only the same experiment is to be gone on with."""
        try:
            self._lock.check()
        except LockedError as error:
            return error
        except OSError:
            pass  # another's, or read-only: nobody writes there whom we could meet
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
        self._begin()  # sinks are made there
        borderline = []
        for stream in ("metrics", "episodes", "eval"):
            path = self.folder / f"{stream}.jsonl"
            if path.exists():
                rows = [row for row in read_lines(path) if row.get(counted, math.inf) <= last]
                write_atomically(path, "".join(to_json(row) + "\n" for row in rows))
                borderline += [(stream, row) for row in rows if row[counted] == last]
        for sink in self.sinks:
            sink.rewind(last)
            for stream, row in borderline:  # a row goes into the file first: the last one may have gone nowhere else
                sink.log(stream, row)

    def rows(self, stream: str) -> list[dict[str, Any]]:
        """The rows of a stream until now."""
        path = self.folder / f"{stream}.jsonl"
        return read_lines(path) if path.exists() else []

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
