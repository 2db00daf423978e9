"""Standard output under --json: a program reads it, so it holds the command's JSON and nothing else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

_kept: TextIO | None = None
"""Where JSON goes while standard output is kept for it."""


def print_json(text: str) -> None:
    """Print a line of JSON on the standard output, and flush it, so that a reader has it at once.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    print(text, file=_kept, flush=True)


@contextlib.contextmanager
def only_json() -> Iterator[None]:
    """Keep the standard output for `print_json`: whatever else is printed goes to the standard error.

    Environments print as they please (MiniWorld that it cannot smooth edges, games in C what they load), and so do the
    processes that they are played in. So it is the file descriptor that is turned, which libraries in C and child
    processes write to as well; where Python's own stream has none, as in a test, the stream alone.
    """
    global _kept
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        _kept = sys.stdout
        if _descriptor(sys.stdout) == 1:
            _kept = stack.enter_context(_turned())
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            yield
        finally:
            _kept = None


@contextlib.contextmanager
def _turned() -> Iterator[TextIO]:
    """Let descriptor 1 be that of the standard error; gives a stream to where it led before."""
    before = os.dup(1)
    try:
        with open(before, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False) as stream:
            os.dup2(2, 1)
            yield stream
    finally:
        os.dup2(before, 1)
        os.close(before)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):  # a buffer in memory, or a stream that was closed
        return None
