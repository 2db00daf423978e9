"""Children: commands of stillsight as processes that can be killed, refused files, limited, and counted."""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KILL = 1000
"""In the place of an errno: the process is killed."""
MARK = "STILLSIGHT_FAULTS_CHILD"
"""Environment variable by which a child's own children are known."""


class Plan(ctypes.Structure):
    """`struct plan` of refuse.c."""

    _fields_ = (
        ("count", ctypes.c_uint64),
        ("at", ctypes.c_uint64),
        ("how", ctypes.c_int32),
        ("lasting", ctypes.c_int32),
        ("under", (ctypes.c_char * 512) * 4),
        ("log", ctypes.c_char * 512),
    )


@dataclass(frozen=True)
class Refusal:
    """Which file operation is refused, and how.

    Attributes:
        at: the operation, counted from 1 over all processes of the child.
        how: an errno, or `KILL`.
        lasting: refuse all that follow, too, as a disk does that is full.
    """

    at: int
    how: int
    lasting: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
        code: its exit code, minus the signal that ended it.
        out, error: what it printed.
        seconds: that it took.
        cpu: seconds of processor time.
        operations: what it did to files below the watched folders, as (what, path), where that was asked for.
        count: of these operations.
        orphans: command lines of processes that it left behind, which were killed.
        hung: it was killed because it took too long.
    """

    code: int
    out: str
    error: str
    seconds: float
    cpu: float = 0.0
    count: int = 0
    operations: tuple[tuple[str, str], ...] = ()
    orphans: tuple[str, ...] = ()
    hung: bool = False

    @property
    def traceback(self) -> bool:
        """Whether a traceback was shown."""
        return "Traceback (most recent call last)" in self.error + self.out

    @property
    def sentence(self) -> str:
        """The last line on the standard error."""
        lines = [line for line in self.error.splitlines() if line.strip()]
        return lines[-1] if lines else ""


def library(place: Path) -> Path:
    """refuse.c, compiled into `place`.

    Raises:
        SystemExit: there is no C compiler.
    """
    built = place / "librefuse.so"
    source = HERE / "refuse.c"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
        if compiler is None:
            sys.exit("faults: there is no C compiler, by which files are refused. Type: apt install gcc")
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(built), str(source), "-ldl"], check=True)
    return built


@dataclass
class Server:
    """server.py, and the way to ask it for children.

    Args:
        place: for its files; made.
        refusing: load refuse.c, so that operations can be counted and refused.
        environment: further variables.
    """

    place: Path
    refusing: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.place.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "XDG_CACHE_HOME": str(self.place / "cache"),
            "SDL_VIDEODRIVER": "dummy",
            **self.environment,
        }
        self._plan: Any = None
        if self.refusing:
            plan = self.place / "plan"
            plan.write_bytes(bytes(ctypes.sizeof(Plan)))
            with plan.open("r+b") as file:
                self._plan = Plan.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Plan)))
            environment |= {"STILLSIGHT_REFUSE": str(plan), "LD_PRELOAD": str(library(self.place.parent))}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._answer(300.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """The server's next line; None if it does not come in time."""
        assert self._process.stdout is not None
        line = b""
        until = time.monotonic() + seconds
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            byte = os.read(self._process.stdout.fileno(), 1)
            if not byte:
                raise RuntimeError(f"the server of children ended with code {self._process.wait()}")
            line += byte
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(
        self,
        words: Sequence[str],
        *,
        folder: Path,
        under: Sequence[Path] = (),
        refusal: Refusal | None = None,
        noted: bool = False,
        kill_after: float | None = None,
        timeout: float = 600.0,
        variables: Mapping[str, str] | None = None,
        **limits: Any,
    ) -> Outcome:
        """Run `stillsight WORDS` and wait for it.

        Args:
            words: of the command.
            folder: to run in.
            under: folders below which operations count.
            refusal: what is refused.
            noted: note each operation.
            kill_after: seconds after which it is killed.
            timeout: seconds after which it counts as hung.
            variables: further ones, of its environment.
            limits: `memory` in bytes beyond what it begins with, `seconds` of processor time; `hasty` ends it without
                Python's own tidying up.
        """
        mark = uuid.uuid4().hex
        out, error, log = (self.place / name for name in ("out", "error", "log"))
        if self._plan is not None:
            log.unlink(missing_ok=True)
            fresh = Plan(at=refusal.at if refusal else 0, how=refusal.how if refusal else 0)
            fresh.lasting = bool(refusal and refusal.lasting)
            for number, path in enumerate(under):
                fresh.under[number].value = str(path).encode()
            fresh.log = str(log).encode() if noted else b""
            ctypes.memmove(ctypes.addressof(self._plan), ctypes.addressof(fresh), ctypes.sizeof(Plan))
        request = {
            "words": list(words),
            "folder": str(folder),
            "out": str(out),
            "error": str(error),
            "environment": {MARK: mark, **(variables or {})},
            **limits,
        }
        assert self._process.stdin is not None
        began = time.monotonic()
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        started = self._answer(60.0)
        assert started is not None
        process = int(started["process"])
        hung = False
        ended = self._answer(timeout if kill_after is None else kill_after)
        if ended is None:
            hung = kill_after is None
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            ended = self._answer(60.0)
            assert ended is not None
        seconds = time.monotonic() - began
        left = orphans(mark, process)
        return Outcome(
            code=int(ended["code"]),
            out=_text(out),
            error=_text(error),
            seconds=seconds,
            cpu=float(ended["cpu"]),
            count=int(self._plan.count) if self._plan is not None else 0,
            operations=tuple(_operations(log)) if noted else (),
            orphans=tuple(left),
            hung=hung,
        )


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _operations(log: Path) -> Iterator[tuple[str, str]]:
    for line in _text(log).splitlines():
        _, what, path = line.split(" ", 2)
        yield what, path


def orphans(mark: str, session: int, patience: float = 30.0) -> list[str]:
    """The processes that a child left behind and that did not end within `patience` seconds; they are killed."""
    until = time.monotonic() + patience
    while (left := _marked(mark, session)) and time.monotonic() < until:
        time.sleep(0.05)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return list(left.values())


def _marked(mark: str, session: int) -> dict[int, str]:
    """Id and command line of every live process that a child started, or that one of those started.

    What was forked is in the child's session; what a program was started for has `mark` in its environment.
    """
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = (place / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z" and (int(its_session) == session or wanted in (place / "environ").read_bytes()):
                found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found
