"""The short answers: what people ask a benchmark, and for each question what may be claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stillsight.agents.benchmark.analysis.claims import SEEDS, Comparison
from stillsight.agents.benchmark.analysis.contrasts import Question
from stillsight.agents.benchmark.analysis.verdict import Asked, Verdict
from stillsight.agents.benchmark.report.sentences import differences, no_control, stretches


class Answer(NamedTuple):
    """A question, and what the scores in the end and on the way allow to say."""

    question: str
    told: str


QUESTIONS: dict[Question, str] = {
    "scratch": "Do frozen pretrained features beat training from scratch?",
    "pretraining": "Is it the pretraining, and not the network alone?",
    "encoder": "Does it matter which encoder is frozen?",
    "tap": "Does it matter where the encoder is tapped?",
    "settings": "Do a frozen encoder's other settings matter?",
    "training": "Is training the encoder on worth it?",
}
"""The questions in words, in the order in which they are told; see `contrasts` for who answers which."""

SYMMETRIC: tuple[Question, ...] = ("encoder", "tap", "settings")
"""Questions that ask whether two arms differ; the others ask whether the first is ahead."""

SHIFTS = "Do visual shifts that it never saw cost an agent anything?"
OPEN = "Not separable in the end"
WITHHELD = "Ahead by the seeds that ended, and not claimed, because others failed"
FEW = f"No verdict with fewer than {SEEDS} seeds"


def answers(verdict: Verdict, unit: str = "steps") -> tuple[Answer, ...]:
    """The questions that the arms of a verdict were compared for, answered.

    Args:
        verdict: on the arms of a setting, or of all together.
        unit: of what learning curves go along.
    """
    ways = {pair: claims for pair, course in verdict.courses.items() if (claims := stretches(course, unit))}
    given = []
    for question, words in QUESTIONS.items():
        asked = [pair for pair in verdict.comparisons if verdict.asked[pair.one, pair.other].question == question]
        named = verdict.asked if question == "settings" else {}
        told = [_told(asked, ways, named, symmetric=question in SYMMETRIC)] if asked else []
        told += [f"No answer for {no_control(one, question)}." for one in verdict.uncontrolled.get(question, ())]
        if told:
            given.append(Answer(words, " ".join(told)))
    if verdict.robustness:
        claimed = []
        for arm in verdict.robustness:
            shifts = [one.shift for one in arm.losses if one.claimed and one.loss.value > 0]
            claimed += [f"{arm.arm} under {', '.join(shifts)}"] if shifts else []
        given.append(Answer(SHIFTS, f"Yes: {'; '.join(claimed)}." if claimed else "No loss may be claimed."))
    return tuple(given)


def _told(
    asked: Sequence[Comparison],
    ways: Mapping[tuple[str, str], str],
    named: Mapping[tuple[str, str], Asked],
    *,
    symmetric: bool,
) -> str:
    """The pairs by what may be said of them; where one is ahead, with what sets the two apart, if they are `named`."""
    said: dict[str, list[str]] = {word: [] for word in ("Yes", "No, behind", WITHHELD, OPEN, FEW)}
    for pair in asked:
        turned = pair.withheld == pair.other or (symmetric and pair.winner == pair.other)
        one, other = (pair.other, pair.one) if turned else (pair.one, pair.other)
        told = f"{one} against {other}"
        if pair.winner is not None and (known := named.get((pair.one, pair.other))) and known.apart:
            told += f" ({differences(known.apart, turned=turned)})"
        said[_word(pair, one)].append(told)
    told_words = [f"{word}: {'; '.join(pairs)}." for word, pairs in said.items() if pairs]
    for pair in asked:
        if way := ways.get((pair.one, pair.other)):
            told_words.append(f"On the way {pair.one} against {pair.other} is {way}.")
    return " ".join(told_words)


def _word(pair: Comparison, one: str) -> str:
    if pair.withheld is not None:
        return WITHHELD
    if pair.winner is None:
        return FEW if pair.seeds < SEEDS else OPEN
    return "Yes" if pair.winner == one else "No, behind"
