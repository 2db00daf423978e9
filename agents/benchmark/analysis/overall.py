"""The verdict over all environments: what no single one may be sure of, several together can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence

from stillsight.agents.benchmark.analysis.aggregate import Aggregate
from stillsight.agents.benchmark.analysis.claims import SEEDS, compare_all, withhold
from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.analysis.contrasts import (
    Contrast,
    Question,
    Uncontrolled,
    contrasts,
    told_apart,
    uncontrolled,
)
from stillsight.agents.benchmark.analysis.episode_error import Term
from stillsight.agents.benchmark.analysis.setting import Setting
from stillsight.agents.benchmark.analysis.stats import RESAMPLES, Array
from stillsight.agents.benchmark.analysis.verdict import Asked, Family, Verdict


def overall_verdict(grid: Grid, together: Aggregate, resamples: int = RESAMPLES) -> Verdict | None:
    """The verdict on the normalised scores; None if fewer than two environments, or no pair of arms, have them.

    Args:
        grid: whose arms are compared as in its settings.
        together: their normalised scores.
        resamples: of the bootstrap.
    """
    if len(together.tasks) < 2:  # two algorithms in one environment say nothing of others
        return None
    settings = [setting for setting in grid.settings if setting.title in together.settings]
    scores = together.scores
    # What is compared in one environment and not in another, where a control differs, is not compared in all of them.
    each = [{pair.labels: pair for pair in contrasts(setting.arms)} for setting in settings]
    compared = {
        labels: [pairs[labels] for pairs in each]
        for labels in each[0]
        if all(label in scores for label in labels) and all(labels in pairs for pairs in each)
    }
    if not compared:
        return None
    seeds = [min(len(task) for label in labels for task in scores[label].values()) for labels in compared]
    finals = sum(count >= SEEDS for count in seeds)
    failed: Counter[str] = Counter()
    for setting in settings:
        failed.update({label: count for label, count in setting.failed.items() if label in scores})
    comparisons = tuple(
        withhold(
            compare_all(
                one,
                other,
                scores[one],
                scores[other],
                claims=max(finals, 1),
                resamples=resamples,
                returns=_terms(settings, together.returns[one], together.returns[other]),
            ),
            failed,
        )
        for one, other in compared
    )
    return Verdict(
        family=Family(finals=finals),
        comparisons=comparisons,
        asked={labels: _asked(pairs) for labels, pairs in compared.items()},
        uncontrolled=_uncontrolled(settings, scores),
        episodes=min((count for setting in settings if (count := setting.episodes) is not None), default=None),
        failed=failed,
    )


def _terms(settings: Sequence[Setting], returns: Mapping[str, Array], against: Mapping[str, Array]) -> list[list[Term]]:
    """The parts of the mean of the settings' differences by game: whatever shows one plays the same episodes."""
    games: dict[str, list[Term]] = {}
    for setting in settings:
        terms = [Term(1 / len(settings), returns[setting.title]), Term(-1 / len(settings), against[setting.title])]
        games.setdefault(setting.game, []).extend(terms)
    return list(games.values())


def _asked(pairs: Sequence[Contrast]) -> Asked:
    """What a pair answers over all environments: the question that it answers in each, else that of all settings."""
    question, *others = {pair.question: None for pair in pairs}
    apart = {name: values for pair in reversed(pairs) for name, values in pair.apart.items()}
    return Asked("settings" if others else question, told_apart(apart))


def _uncontrolled(settings: Sequence[Setting], arms: Container[str]) -> dict[Question, tuple[Uncontrolled, ...]]:
    """The arms that lack a control in any environment, each once."""
    found: dict[Question, dict[str, Uncontrolled]] = {}
    for setting in settings:
        for question, alone in uncontrolled(setting.arms).items():
            found.setdefault(question, {}).update({one.arm: one for one in alone if one.arm in arms})
    return {question: tuple(alone.values()) for question, alone in found.items() if alone}
