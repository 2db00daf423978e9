"""The error of encoders, weights and data sets, and the sentence about a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EncoderError(ValueError):
    """A user's mistake around encoders, weights or data sets, worded so that it can be printed as it stands."""


class DamagedFileError(EncoderError):
    """Why a file is damaged, incomplete or no file of its kind: words for whoever knows what it is to make a sentence
    of."""


def unknown(noun: str, found: str, known: Iterable[str], allowed: str, flag: str) -> str:
    """The sentence for a name that does not exist: what was found, the nearest match, what is allowed, what to type.

    Args:
        noun: what the name is of, say "encoder".
        found: the name that was given.
        known: the names that exist.
        allowed: what stands before the list of them.
        flag: what to type before the nearest one.
    """
    names = list(known)
    spelt = {name.lower(): name for name in names}  # PPO is ppo
    near = [spelt[name] for name in difflib.get_close_matches(found.lower(), spelt, n=1, cutoff=0.5)]
    guess = f" Did you mean {near[0]!r}? Type: {flag} {near[0]}." if near else ""
    return f"There is no {noun} named {found!r}.{guess} {allowed}: {', '.join(names)}."
