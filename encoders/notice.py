"""Notices on the standard error: what somebody who waits, or waits again the next time, wants to know."""

from __future__ import annotations

import functools
import sys


@functools.cache
def say_once(sentence: str) -> None:
    """Print a sentence on the standard error, the first time in this process."""
    print(f"stillsight: {sentence}", file=sys.stderr, flush=True)
