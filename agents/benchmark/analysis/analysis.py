"""The analysis of a benchmark: everything that a report says, computed once, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillsight.agents.benchmark.analysis.aggregate import Aggregate, aggregate
from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.analysis.estimates import Estimates, estimate
from stillsight.agents.benchmark.analysis.overall import overall_verdict
from stillsight.agents.benchmark.analysis.stats import RESAMPLES
from stillsight.agents.benchmark.analysis.verdict import Verdict, verdicts
from stillsight.agents.benchmark.grid.cell import CLEAN, Cell


@dataclass(frozen=True)
class TriedRate:
    """What the cells scored that tried a learning rate of an arm's encoder.

    Attributes:
        task, algo, arm: names.
        rate: a multiple of the head's.
        seeds: how many cells.
        mean: over them of their mean clean return, or accuracy.
    """

    task: str
    algo: str
    arm: str
    rate: float
    seeds: int
    mean: float


@dataclass(frozen=True)
class Analysis:
    """What a benchmark's cells say.

    Attributes:
        grid: the cells that count, and those that do not.
        settings: of each of the grid's settings, in its order, the estimates and the verdict.
        together: the normalised scores of all environments.
        overall: the verdict on them; None if there is none.
        rates: that were tried, by task, algorithm, arm and rate.
    """

    grid: Grid
    settings: tuple[tuple[Estimates, Verdict], ...]
    together: Aggregate
    overall: Verdict | None
    rates: tuple[TriedRate, ...]


def analyse(grid: Grid, resamples: int = RESAMPLES) -> Analysis:
    """Every statistic of a benchmark.

    Args:
        grid: what its folder holds.
        resamples: of the bootstrap.
    """
    estimates = [estimate(setting, resamples) for setting in grid.settings]
    together = aggregate(grid, resamples)
    return Analysis(
        grid=grid,
        settings=tuple(zip(estimates, verdicts(estimates, resamples), strict=True)),
        together=together,
        overall=overall_verdict(grid, together, resamples),
        rates=_tried(grid.tuning),
    )


def _tried(cells: Sequence[Cell]) -> tuple[TriedRate, ...]:
    means: dict[tuple[str, str, str, float], list[float]] = {}
    for cell in cells:
        if cell.result is not None and cell.tuned is not None:
            place = (cell.task, cell.algo, cell.arm, float(cell.tuned))
            means.setdefault(place, []).append(float(np.mean(cell.result.scores[CLEAN])))
    return tuple(TriedRate(*place, len(each), float(np.mean(each))) for place, each in sorted(means.items()))
