"""Aggregates over all tasks: scores between random play (0) and the goal (1), where both are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.analysis.stats import (
    CURVE_RESAMPLES,
    RESAMPLES,
    Array,
    Band,
    Interval,
    interval,
    normalise,
    performance_profile,
)

POINTS = 101
"""Of a performance profile."""


@dataclass(frozen=True)
class ArmAggregate:
    """The normalised scores of one arm over all tasks.

    Attributes:
        runs: seeds, over all tasks.
        iqm, mean, median, optimality_gap: with their 95 % intervals, see `stats.aggregate`.
        profile: share of its runs that score more than each of `Aggregate.marks`, `[POINTS]`.
    """

    runs: int
    iqm: Interval
    mean: Interval
    median: Interval
    optimality_gap: Interval
    profile: Band


@dataclass(frozen=True)
class Aggregate:
    """Normalised scores of the arms that were tried in every environment whose bounds are known.

    Attributes:
        settings: titles of those environments and algorithms.
        tasks, algos: names of the environments, and of the algorithms that each of them has.
        left_out: titles of the environments whose bounds are not known.
        uneven: titles of those with an algorithm that not every environment has: it would weigh more than the others.
        scores: arm -> setting -> normalised score of each seed; seeds are drawn anew within each.
        returns: arm -> setting -> normalised return of each seed in each episode, `[seeds, episodes]`.
        marks: normalised scores at which performance profiles are told, `[POINTS]`, from 0 to the highest.
        arms: arm -> what its scores come to.
    """

    settings: tuple[str, ...]
    tasks: tuple[str, ...]
    algos: tuple[str, ...]
    left_out: tuple[str, ...]
    uneven: tuple[str, ...]
    scores: Mapping[str, Mapping[str, Array]]
    returns: Mapping[str, Mapping[str, Array]]
    marks: Array
    arms: Mapping[str, ArmAggregate]


def aggregate(grid: Grid, resamples: int = RESAMPLES) -> Aggregate:
    """The scores of all agents, normalised. Accuracies are no returns and stay apart."""
    agents = [setting for setting in grid.settings if setting.track == "rl"]
    known = [setting for setting in agents if setting.bounds]
    tasks_of = {setting.algo: {other.task for other in known if other.algo == setting.algo} for setting in known}
    shared = [algo for algo, tasks in tasks_of.items() if tasks == {setting.task for setting in known}]
    bounded = [(setting, setting.bounds) for setting in known if setting.algo in shared]
    scores: dict[str, dict[str, Array]] = {}
    returns: dict[str, dict[str, Array]] = {}
    for label in grid.arm_order("rl"):
        arms = {
            setting.title: (arm, bounds)
            for setting, bounds in bounded
            if bounds
            for arm in setting.arms
            if arm.label == label
        }
        if arms and len(arms) == len(bounded):
            scores[label] = {title: normalise(arm.scores(), *bounds) for title, (arm, bounds) in arms.items()}
            returns[label] = {title: normalise(arm.returns(), *bounds) for title, (arm, bounds) in arms.items()}
    highest = max([1.0, *(float(task.max()) for tasks in scores.values() for task in tasks.values())])
    marks = np.linspace(0.0, highest, POINTS)
    return Aggregate(
        settings=tuple(setting.title for setting, _ in bounded),
        tasks=tuple(dict.fromkeys(setting.task for setting, _ in bounded)),
        algos=tuple(sorted(shared)),
        left_out=tuple(setting.title for setting in agents if not setting.bounds),
        uneven=tuple(setting.title for setting in known if setting.algo not in shared),
        scores=scores,
        returns=returns,
        marks=marks,
        arms={label: _of_arm(tasks, marks, resamples) for label, tasks in scores.items()},
    )


def _of_arm(scores: Mapping[str, Array], marks: Array, resamples: int) -> ArmAggregate:
    return ArmAggregate(
        runs=sum(map(len, scores.values())),
        iqm=interval(scores, resamples=resamples),
        mean=interval(scores, "mean", resamples=resamples),
        median=interval(scores, "median", resamples=resamples),
        optimality_gap=interval(scores, "optimality gap", resamples=resamples),
        profile=performance_profile(scores, marks, resamples=min(resamples, CURVE_RESAMPLES)),
    )
