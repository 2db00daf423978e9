"""A table for people in a terminal of any width: cells fold between words, and what has no room is left out by name."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillsight.encoders.errors import printable

GAP = 2
"""Characters between two columns."""


class Columns:
    """Rows of cells under names.

    Args:
        names: of the columns; the first one stands at the left of each row and is never left out.
        right: those whose cells end at the right.
        spare: those that are left out where the others have no room, the first one first.
        whole: those whose cells do not fold.
    """

    def __init__(
        self, *names: str, right: Collection[str] = (), spare: Sequence[str] = (), whole: Collection[str] = ()
    ) -> None:
        self.names, self.right, self.spare, self.whole = names, right, spare, whole
        self.rows: list[tuple[str, ...]] = []

    def add(self, *cells: str) -> None:
        """Add a row, with a cell for each column."""
        assert len(cells) == len(self.names), cells
        self.rows.append(tuple(map(printable, cells)))  # a run folder's words are no markup, and obey nobody

    def left_out(self, width: int) -> list[str]:
        """Names of the columns for which `width` characters have no room, words whole."""
        least = {name: longest_word for name, (longest_word, _) in self._spans().items()}
        gone: list[str] = []
        for name in (name for name in self.spare if name in least):
            if sum(least.values()) + GAP * (len(least) - 1) <= width:
                break
            del least[name]
            gone.append(name)
        return gone

    def widths(self, width: int) -> dict[str, int]:
        """Characters of each column that is shown: as many as its longest word has, and then, as long as there is room,
        as many as let most cells stand on one line for each further character."""
        gone = self.left_out(width)
        spans = {name: span for name, span in self._spans().items() if name not in gone}
        given = {name: least for name, (least, _) in spans.items()}
        while True:
            room = width - GAP * (len(given) - 1) - sum(given.values())
            steps = [
                (sum(given[name] < other <= length for other in lengths) / (length - given[name]), length, name)
                for name, (_, lengths) in spans.items()
                for length in set(lengths)
                if given[name] < length <= given[name] + room
            ]
            if not steps:
                return given
            _, length, name = max(steps)
            given[name] = length

    def show(self, console: Console) -> None:
        """Print the table, and below it what was left out."""
        widths = self.widths(console.width)
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        for name, width in widths.items():
            table.add_column(Text(name), justify="right" if name in self.right else "left", width=width)
        shown = [at for at, name in enumerate(self.names) if name in widths]
        for row in self.rows:
            table.add_row(*(Text(row[at]) for at in shown))
        before = console.width
        # A word that is wider than the terminal, say a path, is the terminal's to break: it can be copied whole.
        console.width = max(before, sum(widths.values()) + GAP * len(widths))
        console.print(table)
        console.width = before
        if gone := self.left_out(before):
            console.print(f"Without room here: {', '.join(gone)}. A wider terminal shows more.", markup=False)

    def _spans(self) -> dict[str, tuple[int, list[int]]]:
        """Characters that each column needs at least, and those of each of its cells, its name included."""
        spans = {}
        for at, name in enumerate(self.names):
            cells = [name, *(row[at] for row in self.rows)]
            words = cells if name in self.whole else [word for cell in cells for word in cell.split()]
            spans[name] = max(map(cell_len, words), default=1), [cell_len(cell) for cell in cells]
        return spans


def console(piped: int, *, stderr: bool = False) -> Console:
    """Where tables are printed: as wide as the terminal, as COLUMNS says, or else `piped` characters, since a pipe has
    no width."""
    found = Console(highlight=False, stderr=stderr)
    if found.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return found
    return Console(highlight=False, stderr=stderr, width=piped)
