"""Kill commands at a file operation or at any moment, as a power cut would, and look at what they left.

    with Killer(tmp_path) as killer:
        whole = killer.run(words, [folder])                  # not killed: how many operations are there?
        ended = killer.run(words, [folder], at=whole.operations // 2)
        ended = killer.run(words, [folder], after=1.5, number=signal.SIGTERM)
        assert not complaints(folder) and not killer.orphans()

One process imports what commands need and forks a child for each, so a command costs its work and not its imports. The
operations are counted in that child alone: opening for writing, each write (which is cut in half), replacing, removing,
making a folder and flushing to the disk, of paths below the given folders.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TOKEN = "STILLSIGHT_KILLING"
"""Environment variable by which processes that a command started are found."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code, or minus the signal that killed it.
        operations: on files below the folders, until it ended.
        output: what it printed, on both streams.
    """

    code: int
    operations: int
    output: str


class Killer:
    """Runs commands of `stillsight` in children that can be killed.

    Args:
        scratch: an empty folder for their output.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch, self._number, self.token = scratch, 0, f"{os.getpid()}-{time.monotonic_ns()}"

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {TOKEN: f"{self.token}-server", "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy"},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def run(
        self,
        words: Sequence[str],
        folders: Sequence[Path],
        *,
        at: int | None = None,
        after: float | None = None,
        number: int = signal.SIGKILL,
        when: Path | None = None,
        seconds: float = 300.0,
    ) -> Ended:
        """Run a command to its end, or to ours.

        Args:
            words: what is typed after `stillsight`.
            folders: whose files count.
            at: SIGKILL before the file operation of this number, from 1; a write is made by half.
            after: send the signal `number` after so many seconds.
            when: count them from the moment at which this file is there.
            seconds: after which a command that hangs is killed.
        """
        self._number += 1
        log = self.scratch / f"{self._number}.log"
        log.touch()
        request = {
            "words": [str(word) for word in words],
            "folders": [str(folder.absolute()) for folder in folders],
            "at": at,
            "after": after,
            "number": int(number),
            "when": None if when is None else str(when.absolute()),
            "seconds": seconds,
            "log": str(log),
            "cwd": os.getcwd(),
            "token": self.token,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code, operations = json.loads(self._server.stdout.readline())
        return Ended(code, operations, log.read_text(errors="replace"))

    def orphans(self, patience: float = 5.0) -> list[str]:
        """Command lines of processes that commands started and that live on, after they had time to end."""
        until = time.monotonic() + patience
        while (found := self._living()) and time.monotonic() < until:
            time.sleep(0.05)
        return found

    def _living(self) -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if f"{TOKEN}={self.token}\0".encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found


def complaints(folder: Path, environments: int = 2) -> list[str]:
    """What is wrong in a finished run folder: rows that stand twice, out of order or torn, files that were left.

    Args:
        folder: of a run of `rl` or `cifar`.
        environments: that may end an episode at the same step.
    """
    wrong = [f"left: {path}" for path in folder.rglob(".*")]
    wrong += [f"missing: {name}" for name in ("done", "summary.json", "machine.json") if not (folder / name).exists()]
    for path in folder.glob("*.jsonl"):
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            wrong.append(f"{path.name}: its last row is torn")
        places = []
        for line in content.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                wrong.append(f"{path.name}: no JSON: {line!r}")
                continue
            places.append(row.get("step", row.get("epoch", 0)))
        most = environments if path.name == "episodes.jsonl" else 1
        wrong += [
            f"{path.name}: {place} stands {times} times" for place, times in Counter(places).items() if times > most
        ]
        if places != sorted(places):
            wrong.append(f"{path.name}: out of order: {places}")
    final = [line for line in _lines(folder / "eval.jsonl") if json.loads(line).get("final")]
    if (folder / "eval.jsonl").exists() and len(final) != 1:
        wrong.append(f"eval.jsonl: {len(final)} final rows")
    return wrong


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# The rest runs in the server and its children.


class Operations:
    """Counts the file operations of this process below some folders, and ends it at one of them."""

    def __init__(self, folders: Sequence[str], at: int | None) -> None:
        self.folders, self.at, self.count = folders, at, 0

    def below(self, place: Any) -> bool:
        try:
            path = os.path.abspath(os.fspath(place))
        except TypeError:
            return False
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        return any(path == folder or path.startswith(f"{folder}/") for folder in self.folders)

    def due(self, place: Any) -> bool:
        """Count an operation; whether it is the one."""
        if not self.below(place):
            return False
        self.count += 1
        return self.count == self.at

    def watch(self) -> None:
        """Count from now on."""
        for name in ("replace", "rename", "unlink", "remove", "mkdir", "rmdir"):
            setattr(os, name, self._counted(getattr(os, name)))
        flush, low, high = os.fsync, os.open, io.open

        def fsync(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            if self.due(os.readlink(f"/proc/self/fd/{number}")):
                die()
            flush(file)

        def open_low(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and self.due(path):
                die()
            return low(path, flags, *rest, **more)

        def open_high(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: Any = None,
            errors: Any = None,
            newline: Any = None,
            *rest: Any,
            **more: Any,
        ) -> Any:
            if not set(mode) & set("wax+") or not self.below(file):
                return high(file, mode, buffering, encoding, errors, newline, *rest, **more)
            if self.due(file):
                die()
            raw = Torn(self, file, mode.replace("b", "").replace("t", ""))
            if "b" in mode and buffering == 0:
                return raw
            buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

        os.fsync, os.open = fsync, open_low
        io.open = builtins.open = open_high  # type: ignore[assignment]

    def _counted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **more: Any) -> Any:
            if self.due(given[0]):
                die()
            return original(*given, **more)

        return counted


class Torn(io.FileIO):
    """A file whose writes are counted, and cut in half where they are the last thing that the process does."""

    def __init__(self, operations: Operations, path: Any, mode: str) -> None:
        super().__init__(path, mode)
        self.operations, self.path = operations, path

    def write(self, content: Any) -> int:
        if self.operations.due(self.path):
            super().write(memoryview(content)[: len(content) // 2])
            die()
        return super().write(content)


def die() -> None:
    """End this process as nothing can prevent."""
    os.kill(os.getpid(), signal.SIGKILL)


def live(asked: dict[str, Any], report: int) -> None:
    """The life of a child: a command."""
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(asked["cwd"])
    os.environ[TOKEN] = asked["token"]
    os.setsid()
    operations = Operations(asked["folders"], asked["at"])
    threading.Thread(target=_count, args=(operations, report), daemon=True).start()
    operations.watch()
    from stillsight.agents.cli import main

    code = 99
    try:
        code = main(asked["words"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(report, json.dumps(operations.count).encode() + b"\n")
        from multiprocessing import util

        util._exit_function()  # type: ignore[attr-defined]
        os._exit(code)


def _count(operations: Operations, report: int) -> None:
    """Tell now and then how many operations there were, for whoever kills us."""
    while True:
        time.sleep(0.05)
        os.write(report, json.dumps(operations.count).encode() + b"\n")


def serve() -> None:
    """Fork a child for each request on stdin, and say how it ended on stdout."""
    import torch  # noqa: F401

    import stillsight.agents.playing.play
    import stillsight.agents.playing.video
    import stillsight.agents.training.cifar
    import stillsight.agents.training.learn  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            live(asked, writing)
        os.close(writing)
        ender = threading.Thread(target=_end, args=(child, asked), daemon=True)
        ender.start()
        with os.fdopen(reading, "rb") as told:
            last = [b"0", *told][-1]
        _, status = os.waitpid(child, 0)
        _gone.add(child)
        print(json.dumps([os.waitstatus_to_exitcode(status), asked["at"] or json.loads(last)]), flush=True)


_gone: set[int] = set()


def _end(child: int, asked: dict[str, Any]) -> None:
    """Send a child its signal, when it is time."""
    began, sent, there = time.monotonic(), asked["after"] is None, asked["when"] is None
    since = began
    while child not in _gone:
        now = time.monotonic()
        if not there and os.path.exists(asked["when"]):
            there, since = True, now
        if not sent and there and now - since >= asked["after"]:
            sent = True
            os.kill(child, asked["number"])
        if now - began > asked["seconds"]:
            os.kill(child, signal.SIGKILL)
            return
        time.sleep(0.005)


if __name__ == "__main__":
    serve()
