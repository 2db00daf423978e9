"""Taps and poolings by name: which stages are read, and how each becomes a vector; known without torch."""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from stillsight.encoders.errors import EncoderError

FIXED = ("global", "flatten", "softmax", "cls", "cls+global")
"""Poolings that learn nothing, beside `grid<k>`."""
NUMBERED = {"grid": 32, "attention": 64, "conv": 1_024}
"""Poolings with a number behind their name -> the largest one."""
LEARNED = ("attention", "conv")
"""Those of them that have parameters."""
_NUMBERS = {
    "grid": "(a k x k grid of averages)",
    "attention": "(learned queries)",
    "conv": "(a learned 3 x 3 convolution)",
}
_CLASS = ("cls", "cls+global")
_EXPLAINED = {"softmax": "softmax (spatial softmax)", "cls": "cls (class token)"}


def poolings(*, class_token: bool = True) -> str:
    """What `--pooling` may be, in words.

    Args:
        class_token: of an encoder that has one.
    """
    grid, *learned = (f"{kind}1 .. {kind}{most} {_NUMBERS[kind]}" for kind, most in NUMBERED.items())
    fixed = [_EXPLAINED.get(name, name) for name in FIXED if class_token or name not in _CLASS]
    return ", ".join([fixed[0], grid, *fixed[1:], *learned])


class Tap(NamedTuple):
    """A stage that is read, and how it is pooled."""

    stage: str
    pooling: str

    @property
    def learns(self) -> bool:
        """Whether its pooling has parameters."""
        return learns(self.pooling)

    @property
    def places(self) -> int:
        """How many places its features keep apart, channels first: k * k on a grid, the queries of attention, 1 for a
        vector, 0 where they are not channels at places (flatten) or were compressed there already (conv)."""
        kind, number = _parts(self.pooling)
        if kind == "grid":
            return number**2
        return number if kind == "attention" else 0 if kind in ("flatten", "conv") else 1


def _parts(pooling: str) -> tuple[str, int]:
    """`grid4` -> ("grid", 4), `global` -> ("global", 0)."""
    numbered = re.fullmatch(r"([a-z]+)(\d{1,5})", pooling)
    return (numbered[1], int(numbered[2])) if numbered else (pooling, 0)


def number(pooling: str) -> int:
    """The number behind a pooling's name, 0 if there is none."""
    return _parts(pooling)[1]


def learns(pooling: str) -> bool:
    """Whether a pooling has parameters, which belong to the policy; of a list, whether one of them has."""
    return any(_parts(one.strip())[0] in LEARNED for one in pooling.split(","))


def check_pooling(name: str) -> str:
    """Return `name` if it is a pooling; raise `EncoderError` with the nearest one otherwise."""
    kind, count = _parts(name)
    if name in FIXED or (kind in NUMBERED and 1 <= count <= NUMBERED[kind]):
        return name
    known = [*FIXED, "grid4", "attention4", "conv32"]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    guess = f", or, if you meant that, --pooling {near[0]}" if near and near[0] != "grid4" else ""
    raise EncoderError(
        f"There is no pooling named {name!r}. Allowed: {poolings()}; cls and cls+global where there is a class token. "
        f"Type, say: --pooling grid4{guess}."
    )


def rows_and_columns(count: int, image: tuple[int, int]) -> tuple[int, int] | None:
    """How so many patches lie in an image of this height and width; None where they form no grid in its proportions."""
    if count < 1:
        return None
    height, width = image
    rows = max(1, round((count * height / width) ** 0.5))
    columns = count // rows
    return (rows, columns) if rows * columns == count and abs(columns - rows * width / height) < 1 else None


def stages_of(tap: str) -> tuple[str, ...]:
    """The stages that `--tap` names, as they stand there."""
    return tuple(stage.strip() for stage in tap.split(","))


def check_poolings(pooling: str) -> tuple[str, ...]:
    """The poolings that `--pooling` names; raise `EncoderError` for a name that is none."""
    return tuple(check_pooling(name.strip()) for name in pooling.split(","))


def taps(tap: str, pooling: str) -> tuple[Tap, ...]:
    """What `--tap` and `--pooling` say together: one pooling serves every tap, or each has its own.

    Raises:
        EncoderError: no such pooling, a stage named twice, or lists of different lengths.
    """
    stages, poolings = stages_of(tap), check_poolings(pooling)
    twice = next((stage for stage in stages if stages.count(stage) > 1), None)
    if twice is not None:
        raise EncoderError(f"--tap {tap} names {twice} twice, and a stage is read once. Type: --tap {_once(stages)}.")
    if len(poolings) not in (1, len(stages)):
        raise EncoderError(
            f"--pooling {pooling} names {len(poolings)} poolings, and --tap {tap} {len(stages)} "
            f"stage{'s' if len(stages) > 1 else ''}. Type one pooling for all, say --pooling {poolings[0]}, or one for "
            "each."
        )
    if len(poolings) == 1:
        poolings *= len(stages)
    return tuple(map(Tap, stages, poolings))


def _once(stages: tuple[str, ...]) -> str:
    return ",".join(dict.fromkeys(stages))


def check_order(tap: str, stages: tuple[str, ...]) -> None:
    """Raise `EncoderError` unless the stages that `tap` names, which exist, stand there in the order of execution.

    Args:
        tap: as it was typed.
        stages: of the network, in order of execution.
    """
    named = stages_of(tap)
    ordered = sorted(named, key=stages.index)
    if list(named) != ordered:
        raise EncoderError(
            f"--tap {tap} names stages in another order than that in which they run, which is that of their features. "
            f"Type: --tap {','.join(ordered)}."
        )
