"""The short answers: what people ask a benchmark, and for each question what may be claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stillsight.agents.benchmark.analysis.claims import SEEDS, Comparison
from stillsight.agents.benchmark.analysis.verdict import Verdict
from stillsight.agents.benchmark.grid.cell import FINETUNED
from stillsight.agents.benchmark.report.sentences import no_control, stretches


class Answer(NamedTuple):
    """A question, and what the scores in the end and on the way allow to say."""

    question: str
    told: str


PRETRAINING = "Is it the pretraining, and not the network alone?"
ENCODER = "Does it matter which encoder is frozen?"
TAP = "Does it matter where the encoder is tapped?"
SETTINGS = "Do a frozen encoder's other settings matter?"
QUESTIONS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Do frozen pretrained features beat training from scratch?", ("frozen",), "scratch"),
    (PRETRAINING, ("frozen",), "random"),
    (ENCODER, ("frozen",), "frozen"),
    (TAP, ("frozen",), "frozen"),
    (SETTINGS, ("frozen",), "frozen"),
    ("Is training the encoder on worth it?", FINETUNED, "frozen"),
)
"""A question, and the roles of the two arms whose comparison answers it: yes, if the first is ahead. `ENCODER` is
answered by arms of two encoders, `TAP` by arms that differ in nothing but their tap."""

SHIFTS = "Do visual shifts that it never saw cost an agent anything?"
OPEN = "Not separable in the end"
FEW = f"No verdict with fewer than {SEEDS} seeds"


def answers(verdict: Verdict, unit: str = "steps") -> tuple[Answer, ...]:
    """The questions that the arms of a verdict were compared for, answered.

    Args:
        verdict: on the arms of a setting, or of all together.
        unit: of what learning curves go along.
    """
    ways = {pair: claims for pair, course in verdict.courses.items() if (claims := stretches(course, unit))}
    given = []
    for question, ones, other in QUESTIONS:
        asked = [
            pair
            for pair in verdict.comparisons
            if verdict.roles[pair.one] in ones
            and verdict.roles[pair.other] == other
            and (other not in ones or question == _asked_by((pair.one, pair.other), verdict))
        ]
        told = [_told(asked, ways, symmetric=other in ones)] if asked else []
        if question == PRETRAINING:
            told += [f"No answer for {no_control(one)}." for one in verdict.uncontrolled]
        if told:
            given.append(Answer(question, " ".join(told)))
    if verdict.robustness:
        claimed = []
        for arm in verdict.robustness:
            shifts = [one.shift for one in arm.losses if one.claimed and one.loss.value > 0]
            claimed += [f"{arm.arm} under {', '.join(shifts)}"] if shifts else []
        given.append(Answer(SHIFTS, f"Yes: {'; '.join(claimed)}." if claimed else "No loss may be claimed."))
    return tuple(given)


def _asked_by(pair: tuple[str, str], verdict: Verdict) -> str:
    """The question that two frozen arms answer."""
    if pair in verdict.encoders:
        return ENCODER
    return TAP if pair in verdict.taps else SETTINGS


def _told(asked: Sequence[Comparison], ways: Mapping[tuple[str, str], str], *, symmetric: bool) -> str:
    said: dict[str, list[str]] = {word: [] for word in ("Yes", "No, behind", OPEN, FEW)}
    for pair in asked:
        turned = symmetric and pair.winner == pair.other
        one, other = (pair.other, pair.one) if turned else (pair.one, pair.other)
        said[_word(pair, one)].append(f"{one} against {other}")
    told = [f"{word}: {'; '.join(named)}." for word, named in said.items() if named]
    for pair in asked:
        if way := ways.get((pair.one, pair.other)):
            told.append(f"On the way {pair.one} against {pair.other} is {way}.")
    return " ".join(told)


def _word(pair: Comparison, one: str) -> str:
    if pair.winner is None:
        return FEW if pair.seeds < SEEDS else OPEN
    return "Yes" if pair.winner == one else "No, behind"
