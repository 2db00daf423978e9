"""Record: a row of JSON for each trial, so that a harness that was stopped goes on where it was."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


class Record:
    """The trials of one part.

    Args:
        path: a JSON-lines file; what it holds counts as done.
        commit: of the code that new trials are made with.
    """

    def __init__(self, path: Path, commit: str = "") -> None:
        self.path, self.commit = path, commit
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            if whole != lines:  # the harness was killed in the middle of a row
                path.write_text("".join(whole))
            for line in whole:
                row = json.loads(line)
                self.rows[row["trial"]] = row
        self._began, self._done = time.monotonic(), 0

    def has(self, trial: str) -> bool:
        """Whether a trial was done."""
        return trial in self.rows

    def add(self, trial: str, row: dict[str, Any]) -> None:
        """Keep what came of a trial."""
        row = {"trial": trial, "commit": self.commit, **row}
        self.rows[trial] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._done += 1
        faults = "; ".join(row.get("faults", []))
        rate = self._done / (time.monotonic() - self._began)
        print(f"{self.path.stem} {trial}: {faults or 'good'}  ({60 * rate:.0f} a minute)", file=sys.stderr, flush=True)
