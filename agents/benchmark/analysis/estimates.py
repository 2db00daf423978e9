"""Estimates: every number of one task and algorithm that a report shows of its arms, each computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stillsight.agents.benchmark.analysis.contrasts import SCRATCH, apart
from stillsight.agents.benchmark.analysis.curves import Curve, Reach, area_under_curve, common, curve_interval, reach
from stillsight.agents.benchmark.analysis.setting import Arm, Setting
from stillsight.agents.benchmark.analysis.stats import (
    CURVE_RESAMPLES,
    RESAMPLES,
    Array,
    Band,
    Interval,
    interval,
    iqm,
    probability_of_improvement,
)
from stillsight.agents.benchmark.grid.cell import CLEAN


@dataclass(frozen=True)
class LearningCurve:
    """A learning curve at its common evaluations, all `[points]`.

    Attributes:
        steps: environment steps or epochs.
        seconds: of training until there, median over the seeds.
        returns: IQM over the seeds with its interval.
    """

    steps: Array
    seconds: Array
    returns: Band


@dataclass(frozen=True)
class Threshold:
    """The score to whose first reach steps and seconds are counted.

    Attributes:
        score: in the unit of the scores.
        baseline: the arm that scores this in the end (IQM); None where SPEC.toml gives it.
        validation: whether it is a score on validation images, as the curves of a data set are.
    """

    score: float
    baseline: str | None
    validation: bool = False


@dataclass(frozen=True)
class ArmEstimates:
    """The numbers of one arm over its seeds.

    Attributes:
        arm: its cells.
        intervals: "clean" and each shift that it was evaluated under -> IQM with its interval.
        mean, std: of the clean scores; std (of the sample) is NaN with one seed.
        improvement: probability that one of its seeds beats one of the baseline's; None for the baseline itself, and
            for an arm that is no contrast to it: one that sees or plays something else, or longer.
        area: mean height of the learning curves, averaged over the seeds; None without curves of two evaluations.
        learning: the learning curve; None where no step is common to the seeds that have one.
        reach: where each seed reached the threshold; None without a threshold or without curves.
        costs: name -> median over the seeds for which it is known.
    """

    arm: Arm
    intervals: Mapping[str, Interval]
    mean: float
    std: float
    improvement: Interval | None
    area: float | None
    learning: LearningCurve | None
    reach: Reach | None
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Estimates:
    """The numbers of one setting.

    Attributes:
        setting: whose they are.
        baseline: the arm trained from scratch; of several the best, which flatters no other arm. None without one that
            begins with nothing.
        threshold: the spec's, or what the baseline scores in the end; None without either.
        arms: in the order of the setting's.
    """

    setting: Setting
    baseline: Arm | None
    threshold: Threshold | None
    arms: tuple[ArmEstimates, ...]


def estimate(setting: Setting, resamples: int = RESAMPLES) -> Estimates:
    """The numbers of a setting.

    Args:
        setting: its arms and their cells.
        resamples: of the bootstrap; curves take `stats.CURVE_RESAMPLES` at most.
    """
    scratch = [arm for arm in setting.arms if arm.role == "scratch" and arm.results[0].pins.get("from_sha256") is None]
    baseline = max(scratch, key=lambda arm: iqm(arm.scores()), default=None)
    threshold = _threshold(setting, baseline)
    arms = tuple(_of_arm(arm, setting, baseline, threshold, resamples) for arm in setting.arms)
    return Estimates(setting, baseline, threshold, arms)


def _threshold(setting: Setting, baseline: Arm | None) -> Threshold | None:
    if setting.asked and setting.asked.threshold is not None:
        return Threshold(setting.asked.threshold, None)
    if baseline is not None and setting.track == "cifar":
        ends = [curve[-1][1] for curve in baseline.curves]
        return Threshold(iqm(ends), baseline.label, validation=True) if ends else None
    return None if baseline is None else Threshold(iqm(baseline.scores()), baseline.label)


def _of_arm(
    arm: Arm, setting: Setting, baseline: Arm | None, threshold: Threshold | None, resamples: int
) -> ArmEstimates:
    scores = {name: arm.scores(name) for name in (CLEAN, *setting.shifts)}
    clean = scores[CLEAN]
    improvement = None
    if baseline is not None and arm is not baseline and not SCRATCH.excess(apart(arm, baseline)):
        improvement = probability_of_improvement(clean, baseline.scores(), resamples=resamples)
    areas = [_area(curve) for curve in arm.curves if curve[0][0] < curve[-1][0]]
    costs = {name: arm.cost(name) for name in dict.fromkeys(name for one in arm.results for name in one.cost)}
    return ArmEstimates(
        arm=arm,
        intervals={name: interval(each, resamples=resamples) for name, each in scores.items() if len(each)},
        mean=float(clean.mean()),
        std=float(clean.std(ddof=1)) if len(clean) > 1 else float("nan"),
        improvement=improvement,
        area=sum(areas) / len(areas) if areas else None,
        learning=_learning(arm, resamples),
        reach=_reach(arm, threshold) if threshold is not None and arm.curves else None,
        costs={name: float(np.median(values)) for name, values in costs.items() if values},
    )


def _reach(arm: Arm, threshold: Threshold) -> Reach:
    """Where the seeds reached it; those that failed never did."""
    reached, never = reach(arm.curves, threshold.score), (None,) * arm.failed
    return Reach((*reached.steps, *never), (*reached.seconds, *never))


def _learning(arm: Arm, resamples: int) -> LearningCurve | None:
    steps, returns = common(arm.curves)
    if not len(steps):
        return None
    _, seconds = common([[(row[0], row[2]) for row in curve] for curve in arm.curves])
    band = curve_interval(returns, resamples=min(resamples, CURVE_RESAMPLES))
    return LearningCurve(steps, np.asarray(np.median(seconds, axis=0), float), band)


def _area(curve: Curve) -> float:
    steps, returns, _ = zip(*curve, strict=True)
    return area_under_curve(steps, returns)
