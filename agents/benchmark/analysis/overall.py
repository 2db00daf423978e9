"""The verdict over all environments: what no single one may be sure of, several together can be."""

from __future__ import annotations

from stillsight.agents.benchmark.analysis.aggregate import TITLE, Aggregate
from stillsight.agents.benchmark.analysis.claims import SEEDS, compare_all
from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.analysis.stats import RESAMPLES
from stillsight.agents.benchmark.analysis.verdict import Verdict, pairs
from stillsight.agents.benchmark.report import sentences
from stillsight.agents.benchmark.report.answers import answers


def overall(grid: Grid, together: Aggregate, resamples: int = RESAMPLES) -> Verdict | None:
    """The verdict on the normalised scores; None if fewer than two environments have them.

    Args:
        grid: whose arms are compared as in its settings.
        together: their normalised scores.
        resamples: of the bootstrap.
    """
    if len(together.settings) < 2:
        return None
    arms = next(setting.arms for setting in grid.settings if setting.title in together.settings)
    scores = together.scores
    compared = [pair for pair in pairs(arms) if all(arm.label in scores for arm in pair)]
    seeds = [min(len(task) for arm in pair for task in scores[arm.label].values()) for pair in compared]
    claims = sum(count >= SEEDS for count in seeds)
    found = [
        compare_all(
            one.label,
            other.label,
            scores[one.label],
            scores[other.label],
            claims=max(claims, 1),
            resamples=resamples,
        )
        for one, other in compared
    ]
    told = [sentences.final(comparison, "{:.2f}".format) for comparison in found]
    if claims:
        told.append(sentences.method_of_all(len(together.settings), claims))
    short = answers(found, {arm.label: arm.role for arm in arms}, {}, {})
    return Verdict(TITLE, "", tuple(told), tuple(found), short) if found else None
