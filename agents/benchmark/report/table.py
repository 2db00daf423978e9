"""A table of a report: rows that Markdown and the page show alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """One cell of a table: what is shown, and the number that it is sorted by, if it is one."""

    text: str
    number: float | None = None


@dataclass(frozen=True)
class Table:
    """A table with its heading and the sentences below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def numeric(self) -> tuple[bool, ...]:
        """For each column whether numbers stand in it."""
        return tuple(any(row[at].number is not None for row in self.rows) for at in range(len(self.columns)))


def markdown(table: Table, level: int = 3) -> str:
    """A table as Markdown under a heading; whatever comes from data is escaped."""
    lines = [f"{'#' * level} {escaped(table.title)}", ""]
    if table.rows:
        lines += [_row(table.columns), "|" + "".join("---:|" if right else "---|" for right in table.numeric)]
        lines += [_row([value.text for value in row]) for row in table.rows]
        lines.append("")
    for note in table.notes:
        lines += [escaped(note), ""]
    return "\n".join(lines)


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(escaped, texts)) + " |"


def escaped(text: str) -> str:
    """Text that Markdown shows as it stands: on one line, without tags and columns of its own."""
    for character, code in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`"), ("*", "\\*"), ("_", "\\_")):
        text = text.replace(character, code)
    return " ".join(text.split())
