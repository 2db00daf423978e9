"""The text of `--help`: rows and examples at a width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from stillsight.agents.command_line.flag import is_flag

COLUMN = 24
"""Where help begins, in characters."""


def row(shown: str, told: str, width: int) -> Iterator[str]:
    """What is typed, and beside it what it does."""
    first, *more = textwrap.wrap(told, width - COLUMN, break_on_hyphens=False, break_long_words=False) or [""]
    if len(shown) + 4 > COLUMN:
        yield from textwrap.wrap(f"  {shown}", width, subsequent_indent=" " * 6, break_on_hyphens=False)
        more, first = [first, *more], ""
    else:
        yield f"  {shown:{COLUMN - 2}}{first}".rstrip()
    yield from (" " * COLUMN + line for line in more)


def pasted(text: str, width: int) -> list[str]:
    """A command line that can be pasted, over several lines where it is long; a flag stays beside its first value."""
    words: list[str] = []
    for word in text.split():
        if words and words[-1].startswith("--") and " " not in words[-1] and not is_flag(word):
            words[-1] += f" {word}"
        else:
            words.append(word)
    lines = ["  " + words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= width - 2:
            lines[-1] += f" {word}"
        else:
            lines.append("      " + word)
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]
