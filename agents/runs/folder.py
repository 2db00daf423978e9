"""The run folder: a plain folder, enough to play, continue and cite. Written atomically, read without executing."""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from stillsight.agents.errors import RunError
from stillsight.agents.runs import checkpoint, history
from stillsight.agents.runs.lock import Lock, LockedError
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.place import STREAMS, check_places, place
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.reader import checkpoint_path, is_unbegun, read_config, read_sessions
from stillsight.agents.runs.records import append_line, plain, read_lines
from stillsight.agents.runs.trust import USERS, flags, incidental
from stillsight.encoders.atomic import sweep, sync, to_json, write_atomically, writing
from stillsight.encoders.errors import DiskFault, as_typed
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
        changed: flags of a resumed run that are others now -> (before, now). config.json says what holds now, and the
            session in machine.json what held before.

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
        changed: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> None:
        self.changed = dict(changed or {})
        self.also: dict[str, str] = {}  # on the card, beside those that it is given
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
            if isinstance(error, DiskFault) and self._begun:
                error.advice = self.advice()
            for sink in self.sinks:
                with contextlib.suppress(OSError) if kind is not None else writing(self.folder):
                    sink.close()
            if kind is None and self._begun:
                write_atomically(self.place("done"), "")
            if isinstance(error, Stop):
                error.sentence = error.sentence or f"Stopped by {error.name}. {self.advice()}"
        finally:
            self._lock.give_back()

    def advice(self) -> str:
        """What is kept of a run that stopped, and how to go on, in a sentence."""
        if not (self._begun or self.resumed):
            return "Nothing was written yet."
        again = f"stillsight {self.command} --resume {as_typed(self.folder)}{flags(self.config)}"
        last = self.checkpoint("last")
        if not last.exists():
            return f"No checkpoint was saved yet: begin again with: {again}"
        return f"Its last checkpoint, {last}, is kept: go on with: {again}"

    def _begin(self) -> None:
        """Create the folder and say in it what runs here."""
        if self._begun:
            return
        self._begun = True
        try:
            self._claim()
            self.place("checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"The run folder {self.folder} cannot be made ({error}). Choose another: --out.") from error
        try:
            self._introduce()
        except DiskFault as fault:
            self._begun = False
            if not self.resumed:  # nothing has been done in it yet, so the same command can be typed again
                shutil.rmtree(self.folder, ignore_errors=True)
                fault.advice = "No run was begun."
            raise

    def _introduce(self) -> None:
        """Write what runs here, and on what."""
        if callable(self._given):
            self.sinks = tuple(self._given(self.folder))
        if self.resumed:
            self.place("done").unlink(missing_ok=True)  # first: a folder never says that more is done than is
            self.place("summary.json").unlink(missing_ok=True)  # of what the run was, and no reader takes it by now
        if not self.resumed or self.changed:
            asked = {name: value for name, value in plain(self.config).items() if name not in USERS}  # no file's to say
            self.write_json("config.json", {"command": self.command, **asked})
        # A resumed run may go on elsewhere: the file keeps every machine that it has run on.
        before = read_sessions(self.folder) if self.resumed else []
        session = machine()
        if self.changed:
            session["changed"] = {name: {"before": old, "now": new} for name, (old, new) in self.changed.items()}
        self.write_json("machine.json", {"sessions": [*before, session]})

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
            RunError: there is another, the folder cannot be written, or something is in the way of what is written.
        """
        try:
            self._lock.take()
        except OSError as error:
            raise RunError(
                f"The run folder {self.folder} cannot be written ({error}). Make it yours, or copy it."
            ) from error
        check_places(self.folder)
        for inside in (self.folder, self.place("checkpoints")):
            sweep(inside, alone=True)

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
        differing = [name for name in asked if there.get(name) != asked[name] and name not in incidental(self.command)]
        if not differing:
            return RunError(
                f"{self.folder} already exists. Continue it with --resume {as_typed(self.folder)}, or c{elsewhere}"
            )
        flags = ", ".join(f"{name} {there.get(name)!r} and not {asked[name]!r}" for name in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        return RunError(f"{self.folder} already exists, and holds another experiment ({flags}{more}). C{elsewhere}")

    def card(self, title: str, rows: Mapping[str, str]) -> None:
        """Print what will happen, and open the folder."""
        self._begin()
        self.display.card(f"stillsight {title}", {**rows, **self.also, "folder": str(self.folder)})

    def progress(self, what: str, done: int, total: int, **facts: object) -> None:
        """Show progress, see `ProgressDisplay.update`."""
        self.display.update(what, done, total, **facts)

    def log(self, stream: str, row: Mapping[str, Any]) -> None:
        """Append `row` to `<stream>.jsonl`, flushed, so that a killed run keeps it, and hand it to every sink."""
        self._begin()
        append_line(self.place(f"{stream}.jsonl"), row)
        for sink in self.sinks:
            with writing(self.folder):
                sink.log(stream, plain(row))

    def rewind(self, last: int, counted: str = "step") -> None:
        """Cut the records of what comes after `last`, which a resumed run does again.

        Args:
            last: the number that the checkpoint stands at, of env steps or epochs.
            counted: the name of that number in the records; those that have none are cut.
        """
        self._begin()  # sinks are made there
        borderline = []
        for stream in STREAMS:
            path = self.place(f"{stream}.jsonl")
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
        path = self.place(f"{stream}.jsonl")
        return read_lines(path) if path.exists() else []

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file at once or not at all."""
        self._begin()
        write_atomically(self.place(name), to_json(plain(content), indent=2) + "\n")

    def checkpoint(self, name: str) -> Path:
        """Path of the checkpoint called `name`."""
        return checkpoint_path(self.folder, name)

    def save(self, name: str, tree: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
        """Save a checkpoint, see `checkpoint.save`.

        The rows before it are brought to the disk first, so that no power cut leaves a checkpoint that stands on rows
        which are lost.
        """
        self._begin()
        path = self.place("checkpoints", f"{name}.safetensors")
        for stream in STREAMS:  # whatever else is called .jsonl is not ours, and may be a pipe
            with contextlib.suppress(FileNotFoundError):
                sync(self.place(f"{stream}.jsonl"))
        checkpoint.save(path, tree, metadata)

    def place(self, *parts: str) -> Path:
        """Where in the folder something is to be written, see `place.place`."""
        return place(self.folder, *parts)

    def load(self, name: str, device: torch.device) -> dict[str, Any] | None:
        """Load a checkpoint of this folder, or None if it was never written.

        Raises:
            CheckpointError: it is damaged, and nothing else can take its place.
        """
        if not self.checkpoint(name).exists():
            return None
        return history.newest_good(self.folder, [name], lambda path: checkpoint.load(path, device))[1]
