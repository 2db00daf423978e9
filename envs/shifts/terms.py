"""How a shift is asked for: `NAME`, `NAME:STRENGTH`, `NAME@PATH`, and several joined by `+`.

Reading costs no import beyond the standard library, and opens no path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from stillsight.envs.errors import EnvError
from stillsight.envs.shifts.rows import SHIFTS, SUITE_SHIFTS, find


class Term(NamedTuple):
    """One shift of those that are asked for together.

    Attributes:
        name: of a row.
        strength: 0..1.
        path: of a user's own pictures; "" for none.
    """

    name: str
    strength: float
    path: str = ""

    @property
    def label(self) -> str:
        """How it is typed without its strength: "noise", "overlay@photos"."""
        return f"{self.name}@{self.path}" if self.path else self.name

    def __str__(self) -> str:
        """How it is typed, the path left to the end: "overlay:0.5@photos"."""
        text = f"{self.name}:{number(self.strength)}"
        return f"{text}@{self.path}" if self.path else text


def terms(shift: str, strength: float | None = None) -> tuple[Term, ...]:
    """What a text asks for, in the order in which it is seen through: "camera:0.2+colours:0.2+background@films".
    What an environment draws itself comes first, see `check_order`.

    A path reaches to the end of the text, so that it may hold any character.

    Args:
        shift: the text.
        strength: of those that have none of their own; a row's own where it is None.

    Raises:
        EnvError: no such shift, a strength out of range, a path where nothing is shown of it, or a shift twice.
    """
    heads, at, path = shift.partition("@")
    if at and not path:
        raise EnvError(f"--shift {shift} names no path. Type a file or a folder after the @, say: --shift {shift}films")
    asked: list[Term] = []
    own = []
    for head in heads.split("+"):
        name, colon, text = head.partition(":")
        if name in ("", "none"):
            raise EnvError(
                f"--shift {shift!r} names {'no shift' if heads == name else 'a shift and none'}. Name one or several, "
                "joined by +, or drop it."
            )
        row = find(name)
        own.append(bool(colon))
        chosen = _number(shift, text) if colon else row.strength if strength is None else strength
        if not 0.0 <= chosen <= 1.0:
            raise EnvError(
                f"A shift strength of {chosen:g} was asked for; it is 0 (nothing changes) to 1. Try {row.strength:g}."
            )
        asked.append(Term(name, chosen))
    if strength is not None and all(own):
        raise EnvError(
            f"The shift {shift} says its strength, and another, {strength:g}, was given beside it. Give one of them."
        )
    names = [term.name for term in asked]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise EnvError(f"--shift {shift} names {twice} twice. Name each shift once.")
    if path:
        if not find(names[-1]).pictures:
            taken = ", ".join(name for name, row in (SHIFTS | SUITE_SHIFTS).items() if row.pictures)
            raise EnvError(f"The shift {names[-1]} shows no pictures of yours; these do: {taken}. Drop @{path}.")
        asked[-1] = asked[-1]._replace(path=path)
    return tuple(asked)


def check_order(asked: Sequence[Term], drawn: Collection[str]) -> None:
    """Raise `EnvError` where a shift that an environment draws itself comes after one of the picture: it is drawn
    before there is a picture, and shifts are seen through in the order in which they are typed.

    Args:
        asked: shifts, in that order.
        drawn: names of those that the environment draws itself.
    """
    acting = [term for term in asked if term.strength]
    looks = [term for term in acting if term.name not in drawn]
    late = [term for term in acting[acting.index(looks[0]) :] if term.name in drawn] if looks else []
    if not late:
        return
    mend = f"Nothing can be typed after the path of {late[-1].label}, which reaches to the end: drop one of the two."
    if not late[-1].path:
        mended = "+".join(map(str, [*(term for term in asked if term not in looks), *looks]))
        mend = f"Type it first: {mended}"
    raise EnvError(
        f"The shift {late[0].name} was asked for after {looks[0].name}, and it is drawn with the scene, before any "
        f"picture is seen through {looks[0].name}. {mend}"
    )


def written(asked: Iterable[Term]) -> tuple[str, float | None]:
    """The one way in which a record says what is asked for: a text, and the strength where it is one shift alone."""
    several = tuple(asked)
    if len(several) == 1:
        return several[0].label, several[0].strength
    return "+".join(map(str, several)), None


def spelled_out(shift: str) -> str:
    """The same text with every strength in it, so that it means the same where a row's changes later; "none" stays."""
    return shift if shift == "none" else "+".join(map(str, terms(shift)))


def check_path(path: str | Path) -> None:
    """Raise `EnvError` where there is nothing at the path of a user's pictures; nothing of them is read."""
    if not Path(path).exists():
        raise EnvError(f"There is no {path}. Type an image, a film, or a folder of them after the @.")


def number(strength: float) -> str:
    """A strength as it is typed, exact."""
    short = f"{strength:g}"
    return short if float(short) == strength else repr(strength)


def _number(shift: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise EnvError(
            f"--shift {shift} has the strength {text!r}, which is no number. Write it as NAME:STRENGTH, say: noise:0.5"
        ) from None
