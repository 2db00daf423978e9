"""The verdict over all environments: what no single one may be sure of, several together can be."""

from __future__ import annotations

from stillsight.agents.benchmark.analysis.aggregate import Aggregate
from stillsight.agents.benchmark.analysis.claims import SEEDS, compare_all
from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.analysis.stats import RESAMPLES
from stillsight.agents.benchmark.analysis.verdict import (
    Family,
    Verdict,
    apart_in_tap,
    of_two_encoders,
    pairs,
    uncontrolled,
)


def overall_verdict(grid: Grid, together: Aggregate, resamples: int = RESAMPLES) -> Verdict | None:
    """The verdict on the normalised scores; None if fewer than two environments, or no pair of arms, have them.

    Args:
        grid: whose arms are compared as in its settings.
        together: their normalised scores.
        resamples: of the bootstrap.
    """
    if len(together.settings) < 2:
        return None
    settings = [setting for setting in grid.settings if setting.title in together.settings]
    scores = together.scores
    # What is compared in one environment and not in another, where a control differs, is not compared in all of them.
    each = [[(one.label, other.label) for one, other in pairs(setting.arms)] for setting in settings]
    arms = settings[0].arms
    compared = [
        pair
        for pair in pairs(arms)
        if all(arm.label in scores for arm in pair) and all((pair[0].label, pair[1].label) in known for known in each)
    ]
    if not compared:
        return None
    alone = {one.arm: one for setting in settings for one in uncontrolled(setting.arms) if one.arm in scores}
    seeds = [min(len(task) for arm in pair for task in scores[arm.label].values()) for pair in compared]
    finals = sum(count >= SEEDS for count in seeds)
    comparisons = tuple(
        compare_all(
            one.label,
            other.label,
            scores[one.label],
            scores[other.label],
            claims=max(finals, 1),
            resamples=resamples,
        )
        for one, other in compared
    )
    return Verdict(
        roles={arm.label: arm.role for arm in arms},
        family=Family(finals=finals),
        comparisons=comparisons,
        taps=apart_in_tap(compared),
        encoders=of_two_encoders(compared),
        uncontrolled=tuple(alone.values()),
    )
