"""Processor time of this process and of all that work for it: workers, and engines that are processes of their own."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from multiprocessing import resource_tracker
from pathlib import Path

PROC = Path("/proc")
"""Where Linux says of every process who began it, and what it has taken."""


def processor_seconds(proc: Path = PROC) -> float | None:
    """Seconds of this process, of those that it began, of those that they began, and so on, until now.

    Those that have ended count as their parent took note of it; of one whose parent ended before it nobody knows any
    more whose it was, so the sum can become smaller.

    Args:
        proc: see `PROC`.

    Returns:
        None where other processes work for this one, and the system does not say what they have taken.
    """
    # Asked before those that live: what ends meanwhile is counted the next time, and never twice.
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    known = time.process_time() + ended.ru_utime + ended.ru_stime
    if alone():
        return known
    if (proc / "self" / "stat").exists():
        return known + _living(proc)
    return None if _helped() else known


def alone() -> bool:
    """Whether this process has no other one that it began. Takes a microsecond; False where the system can't say."""
    if not hasattr(os, "waitid"):
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _living(proc: Path) -> float:
    """Seconds of the processes below this one that have not been waited for, with what those waited for that they had
    begun."""
    below: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for name in os.listdir(proc):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it ended
                # The name of the program stands in brackets and may hold anything; after it come state and parent.
                fields = (proc / name / "stat").read_bytes().rpartition(b")")[2].split()
                below.setdefault(int(fields[1]), []).append(int(name))
                ticks[int(name)] = sum(map(int, fields[11:15]))
    found, waiting = 0, [os.getpid()]
    while waiting:
        children = below.get(waiting.pop(), [])
        found += sum(ticks[child] for child in children)
        waiting += children
    return found / os.sysconf("SC_CLK_TCK")


def _helped() -> bool:
    """Whether another process works for this one; multiprocessing's tracker of resources, which waits, is none."""
    try:
        listed = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True, check=False)
    except OSError:
        return True
    tracker = getattr(resource_tracker._resource_tracker, "_pid", None)
    return bool({int(process) for process in listed.stdout.split()} - {tracker})
