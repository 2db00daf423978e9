"""Lock: one writer in a folder for as long as it lives; the lock of a process that died is free."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stillsight.agents.errors import RunError
from stillsight.encoders.atomic import to_json
from stillsight.encoders.system.plain_file import below, open_plain, read_plain

LOCK_FILE = ".lock"
"""File in a folder that its writer holds locked, by flock, and that says who that is."""
LARGEST = 4096
"""Bytes of it that are read; ours has a hundred."""


class LockedError(RunError):
    """Another process writes in the folder."""


class Lock:
    """A folder's lock. The system lets go of it when its process ends, however it does; a file that is left is none.

    Readers need none: what is written there is there whole or not at all.

    Args:
        folder: that is to be written in.
        what: works there, for the sentence about it.
    """

    def __init__(self, folder: Path, what: str = "run") -> None:
        self.folder, self.what = folder, what
        self._lock = FileLock(folder / LOCK_FILE, timeout=0, thread_local=False)

    def take(self) -> None:
        """Take it, if it is not taken by this very object already.

        Raises:
            LockedError: another process has it, or another part of this one.
            NotPlainError: the file is a link, a pipe or a device.
            OSError: the folder cannot be written.
        """
        if self._lock.is_locked:
            return
        known = self._acquire()
        holder = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        if known or not (self.folder / LOCK_FILE).stat().st_size:  # else, where disks know no locks, filelock wrote it
            # A courtesy, which a full disk does without.
            with contextlib.suppress(OSError), open_plain(self.folder / LOCK_FILE, "r+b") as file:
                file.write(to_json(holder).encode())
                file.truncate()

    def give_back(self) -> None:
        """Let go of it and leave no file; nothing happens where it was not taken."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                (self.folder / LOCK_FILE).unlink(missing_ok=True)  # while it is ours: whoever waits makes a new one
            self._lock.release()

    def check(self) -> None:
        """Raise `LockedError` if somebody has it; nothing is left behind.

        Raises:
            NotPlainError: the file is a link, a pipe or a device.
        """
        if (self.folder / LOCK_FILE).exists() and not self._lock.is_locked:
            self._acquire()
            self._lock.release()

    def _acquire(self) -> dict[str, Any]:
        """Take it, and return who had it before."""
        place = below(self.folder, LOCK_FILE, what=f"{self.what} folder")
        known = _read(place)  # before: older versions of filelock empty the file that they ask for
        try:
            self._lock.acquire()
        except Timeout:
            raise self._locked(known) from None
        return known

    def _locked(self, known: dict[str, Any]) -> LockedError:
        place = self.folder / LOCK_FILE
        known = known or _read(place)
        who = "another process"
        stop = f"If there is none, because it was killed on another machine, remove {place}"
        if known:
            who = f"process {known['pid']} on {known['host']}, since {known['since']}"
            here = "" if known["host"] == platform.node() else " there"
            stop = f"Stop it with{here}: kill {known['pid']}"
        return LockedError(
            f"Another {self.what} works in {self.folder}: {who}. Wait for it, or choose another folder: --out FOLDER. "
            f"{stop}."
        )


def _read(path: Path) -> dict[str, Any]:
    """What a holder wrote; nothing where that cannot be read."""
    try:
        known = json.loads(read_plain(path, LARGEST))
    except (OSError, ValueError, RecursionError):  # ValueError: of JSON, and what is no plain file
        return {}
    return known if isinstance(known, dict) and {"pid", "host", "since"} <= set(known) else {}
