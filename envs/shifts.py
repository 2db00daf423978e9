"""Visual shifts: one environment, seen otherwise than in training, to measure what an agent's eyes can bear.

They follow the benchmarks that ask this question: colours and things that move over the scene are the distractions of
DMControl-GB (Hansen & Wang 2021) and the Distracting Control Suite (Stone et al. 2021); noise, blur and brightness are
corruptions of ImageNet-C (Hendrycks & Dietterich 2019); the box is Cutout (DeVries & Taylor 2017). Everything is drawn
in looks.py; no data set is needed.

Reading the rows costs no import beyond the standard library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from stillsight.envs.errors import EnvError, did_you_mean

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Shift:
    """A way to see otherwise."""

    summary: str
    """One line for lists."""
    entry_point: str
    """`module:function` that draws it, loaded when it is first shown; see `begin`."""

    def begin(self, random: np.random.Generator, strength: float) -> Callable[[Any, int], Any]:
        """The look of an episode (`looks.Look`), from its draws and the strength, 0..1.

        The draws do not depend on the strength, so that one seed puts the same box in the same corner at every
        strength; at strength 0 the look is the identity.
        """
        look: Callable[[Any, int], Any] = resolve_name(self.entry_point)(random, strength)
        return look


_LOOKS = "stillsight.envs.wrappers.looks"

SHIFTS: dict[str, Shift] = {
    "hue": Shift("all colours turned and brighter or darker, drawn for each episode", f"{_LOOKS}:hue"),
    "noise": Shift("Gaussian noise, new in every step", f"{_LOOKS}:noise"),
    "blur": Shift("Gaussian blur", f"{_LOOKS}:blur"),
    "occluder": Shift(
        "a box of one colour over part of the picture, placed anew in each episode",
        f"{_LOOKS}:occluder",
    ),
    "overlay": Shift("coloured waves that move over the picture, half transparent", f"{_LOOKS}:overlay"),
}
"""The shifts by name. A new one is a row here and a function in looks.py. Half strength shows clearly and leaves the
game playable."""


def find(name: str) -> Shift:
    """The shift of that name. Raises `EnvError`, with the nearest one, where there is none."""
    if name not in SHIFTS:
        raise EnvError(f"No shift is called {name!r}.{did_you_mean(name, SHIFTS)} Shifts: {', '.join(SHIFTS)}.")
    return SHIFTS[name]
