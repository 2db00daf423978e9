"""The short answers: what people ask a benchmark, and for each question what may be claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stillsight.agents.benchmark.analysis.claims import SEEDS, Comparison
from stillsight.agents.benchmark.analysis.setting import TUNED


class Answer(NamedTuple):
    """A question, and what the scores in the end and on the way allow to say."""

    question: str
    told: str


QUESTIONS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Do frozen pretrained features beat training from scratch?", ("frozen",), "scratch"),
    ("Is it the pretraining, and not the network alone?", ("frozen",), "random"),
    ("Does it matter where the encoder is tapped?", ("frozen",), "frozen"),
    ("Is training the encoder on worth it?", TUNED, "frozen"),
)
"""A question, and the roles of the two arms whose comparison answers it: yes, if the first is ahead."""

SHIFTS = "Do visual shifts that it never saw cost an agent anything?"
OPEN = "Not separable in the end"
FEW = f"No verdict with fewer than {SEEDS} seeds"


def answers(
    comparisons: Sequence[Comparison],
    roles: Mapping[str, str],
    ways: Mapping[tuple[str, str], str],
    lose: Mapping[str, Sequence[str]],
) -> tuple[Answer, ...]:
    """The questions that the arms of a setting were compared for, answered.

    Args:
        comparisons: of the setting's arms, in the end; see `verdict.pairs`.
        roles: of the arms by label.
        ways: of two arms, what may be claimed of the first against the second on the way; see `sentences.stretches`.
        lose: of each arm that played under visual shifts, those under which a loss may be claimed.
    """
    found = []
    for question, ones, other in QUESTIONS:
        asked = [pair for pair in comparisons if roles[pair.one] in ones and roles[pair.other] == other]
        if asked:
            found.append(Answer(question, _told(asked, ways, symmetric=other in ones)))
    if lose:
        claimed = [f"{arm} under {', '.join(shifts)}" for arm, shifts in lose.items() if shifts]
        found.append(Answer(SHIFTS, f"Yes: {'; '.join(claimed)}." if claimed else "No loss may be claimed."))
    return tuple(found)


def _told(asked: Sequence[Comparison], ways: Mapping[tuple[str, str], str], *, symmetric: bool) -> str:
    # Where every pair has the same other arm, it goes without saying.
    several = symmetric or len({pair.other for pair in asked}) > 1
    said: dict[str, list[str]] = {word: [] for word in ("Yes", "No, behind", OPEN, FEW)}
    for pair in asked:
        turned = symmetric and pair.winner == pair.other
        one, other = (pair.other, pair.one) if turned else (pair.one, pair.other)
        said[_word(pair, one)].append(f"{one} against {other}" if several else one)
    told = [f"{word}: {'; '.join(named)}." for word, named in said.items() if named]
    for pair in asked:
        if way := ways.get((pair.one, pair.other)):
            told.append(f"On the way {f'{pair.one} against {pair.other}' if several else pair.one} is {way}.")
    return " ".join(told)


def _word(pair: Comparison, one: str) -> str:
    if pair.winner is None:
        return FEW if pair.seeds < SEEDS else OPEN
    return "Yes" if pair.winner == one else "No, behind"
