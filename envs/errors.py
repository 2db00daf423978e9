"""EnvError and EnvFault, the exceptions about environments, and the nearest known name for one to suggest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class EnvError(ValueError):
    """A user's mistake about an environment, in one sentence: what was found, what is allowed, what to type.

    The command line prints the sentence without a traceback and exits with code 2; bugs keep their own exceptions.
    """


class EnvFault(RuntimeError):  # noqa: N818 - an error is the user's, a fault the environment's
    """An environment that broke while it was played, in one sentence: which one, in which step, and how.

    Raised for a reward that is no finite number, an observation that its own space does not hold, and a worker process
    that died or whose environment raised. The command line prints the sentence and exits with code 1.
    """


ALIKE = 0.7
"""How alike two names must be for one to be suggested for the other (`difflib`'s ratio): slips of the finger in short
names are above it, other words of similar letters below."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a mistyped one was meant to be, for "Did you mean ...?"; None where none is like it.

    People leave out the namespace before "/" and the version, and change the case, far more often than they misspell a
    name, so none of these counts; among versions of one name the most similar, then the latest, is taken.
    """
    scored = [
        (_ratio(_stem(name), _stem(one)), _ratio(_short(name), _short(one)), _short(one), -len(one), one)
        for one in known
    ]
    best = max(scored, default=None)
    return best[-1] if best is not None and best[0] >= ALIKE else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question whether 'X' was meant, with a space before it, or nothing where no known name is like it."""
    near = nearest(name, known)
    return "" if near is None else f" Did you mean {near!r}?"


def _short(name: str) -> str:
    return name.lower().rpartition("/")[2]


def _stem(name: str) -> str:
    return re.sub(r"-v\d+$", "", _short(name))


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
