"""Processor time is counted of every process that works for this one, while it lives and when it has ended."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillsight.encoders.system.processor_time import PROC, alone, processor_seconds

BURN = """
import sys, time
while time.process_time() < 0.3:
    pass
print(time.process_time(), flush=True)
sys.stdin.read()
"""
TRUNCATED = 0.02
"""Seconds that Linux may cut off: it counts whole hundredths, in the program and in the kernel."""

ONLY_HERE = pytest.mark.skipif(not (PROC / "self" / "stat").exists(), reason="the system says nothing of others")


@contextmanager
def burning(*, below: bool) -> Iterator[float]:
    """A process that says what it has burned and then waits; a child, or the child of one that only waits for it."""
    program = [sys.executable, "-c", BURN]
    if below:
        program = ["sh", "-c", '"$@"; true', "sh", *program]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        yield float(child.stdout.readline())


@ONLY_HERE
@pytest.mark.parametrize("below", [False, True], ids=["a child", "a child's child"])
def test_what_lives_is_counted_and_what_has_ended_stays_counted(*, below: bool) -> None:
    """The failure it prevents: an engine that is a process of its own burns more than the agent, and is left out."""
    before = processor_seconds()
    assert before is not None
    with burning(below=below) as burned:
        assert not alone()
        living = processor_seconds()
        assert living is not None
        assert living - before >= burned - TRUNCATED
        assert burned >= 0.3
    ended = processor_seconds()
    assert ended is not None
    assert ended >= living, "what was counted of the living stays counted"


def test_it_never_runs_back_while_processes_come_and_go() -> None:
    seen = [processor_seconds()]
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
            seen.append(processor_seconds())
            child.wait()
        seen.append(processor_seconds())
    known = [one for one in seen if one is not None]
    assert len(known) == len(seen)
    assert known == sorted(known)


@pytest.mark.skipif(shutil.which("pgrep") is None, reason="nobody says which processes there are")
def test_where_the_system_says_nothing_of_others_their_time_is_unknown(tmp_path: Path) -> None:
    """In a process of its own: this one may have helpers of other tests."""
    program = f"""
import subprocess, sys
from multiprocessing import resource_tracker
from pathlib import Path
from stillsight.encoders.system.processor_time import alone, processor_seconds

nowhere = Path({str(tmp_path)!r})
print(alone(), processor_seconds(nowhere) is None)
resource_tracker.ensure_running()
print(alone(), processor_seconds(nowhere) is None)
with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE):
    print(alone(), processor_seconds(nowhere) is None)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [
        "True False",
        "False False",  # multiprocessing's tracker of resources works for nobody
        "False True",
    ]


def test_without_anything_that_lists_processes_it_is_unknown_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with burning(below=False):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert processor_seconds(tmp_path) is None
