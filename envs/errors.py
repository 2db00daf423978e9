"""EnvError, the exception that tells a user what to type, and the nearest known name for it to suggest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EnvError(ValueError):
    """A user's mistake about an environment, in one sentence: what was found, what is allowed, what to type.

    The command line prints the sentence without a traceback and exits with code 2; bugs keep their own exceptions.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is closest to a mistyped one, for "Did you mean ...?".

    People leave out the namespace before "/" and change the case far more often than they misspell a name, so neither
    counts. `known` holds at least one name; there is always an answer.
    """
    full = list(known)[::-1]
    short = {each.lower(): each for each in full} | {each.rpartition("/")[2].lower(): each for each in full}
    close = difflib.get_close_matches(name.lower(), short, n=1, cutoff=0.5)
    close = close or difflib.get_close_matches(name.rpartition("/")[2].lower(), short, n=1, cutoff=0.0)
    return short[close[0]]
