"""Outcome: what one check found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stillsight.encoders.errors import as_typed, printable

State = Literal["ok", "note", "wrong"]


def remove(path: Path) -> str:
    """The command that removes a file, whatever its name does to a shell."""
    return f"rm -- {as_typed(path)}"


@dataclass(frozen=True)
class Outcome:
    """What one check found.

    Attributes:
        check: what was looked at.
        state: "ok"; "note" where something optional is missing; "wrong" where something that is needed does not work.
        found: what there is.
        advice: what to type or do; empty where nothing is to be done.
    """

    check: str
    state: State
    found: str
    advice: str = ""

    def __str__(self) -> str:
        mark = "WRONG" if self.state == "wrong" else self.state
        end = f" Type: {self.advice}" if self.advice else ""
        stop = "" if not end or self.found.endswith(".") else "."
        return printable(f"{mark:5}  {self.check}: {self.found}{stop}{end}")
