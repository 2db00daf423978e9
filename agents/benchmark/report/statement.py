"""A statement: one verdict in words, short answers and sentences, under its title."""

from __future__ import annotations

from dataclasses import dataclass

from stillsight.agents.benchmark.analysis.analysis import Analysis
from stillsight.agents.benchmark.analysis.setting import Setting
from stillsight.agents.benchmark.analysis.verdict import Verdict
from stillsight.agents.benchmark.report import sentences
from stillsight.agents.benchmark.report.answers import Answer, answers
from stillsight.agents.benchmark.report.numbers import Numbers

ALL = "All environments, normalised"
"""Title of what is said of them together."""


@dataclass(frozen=True)
class Statement:
    """What may be said.

    Attributes:
        title: of the setting, or of all together.
        answers: in short, question by question.
        sentences: the same with its numbers.
        cost: sentences about what a clock measured; apart, because they change when a cell is run again.
    """

    title: str
    answers: tuple[Answer, ...]
    sentences: tuple[str, ...]
    cost: tuple[str, ...] = ()


def state(setting: Setting, verdict: Verdict) -> Statement:
    """The verdict on a setting in words."""
    show = Numbers(setting)
    return Statement(
        title=setting.title,
        answers=answers(verdict, show.unit),
        sentences=sentences.of_setting(verdict, show),
        cost=sentences.of_race(verdict.race, show),
    )


def state_all(analysis: Analysis) -> tuple[Statement | None, tuple[Statement, ...]]:
    """What may be said of all environments together, if anything, and of each setting, in the grid's order."""
    each = tuple(state(estimates.setting, verdict) for estimates, verdict in analysis.settings)
    if analysis.overall is None:
        return None, each
    told = sentences.of_all(analysis.overall, len(analysis.together.tasks), len(analysis.together.algos))
    return Statement(ALL, answers(analysis.overall), told), each
