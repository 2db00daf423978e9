"""What may be claimed: differences at a level that is adjusted for the number of claims, and for few seeds."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from stillsight.agents.benchmark.analysis.bounds import t_bounds, task_bounds
from stillsight.agents.benchmark.analysis.curves import curve_difference
from stillsight.agents.benchmark.analysis.episode_error import Error, Term, episode_error
from stillsight.agents.benchmark.analysis.stats import (
    CURVE_RESAMPLES,
    RESAMPLES,
    Array,
    Interval,
    Scores,
    difference,
    finite,
    gap,
    losses,
    probability_of_improvement,
)

ERROR = 0.05
"""Chance of any false claim among those of one task and one kind (final scores, curves, shifts)."""

SEEDS = 5
"""Fewest on either side for a claim: with four, chance alone puts all of one arm above the other in 3 % of cases."""


@dataclass(frozen=True)
class Comparison:
    """Two arms at the end of training.

    Attributes:
        one, other: the arms.
        difference: IQM of `one` less IQM of `other`.
        low, high: 95 % bootstrap interval of the difference; NaN with one seed on a side.
        adjusted_low, adjusted_high: the interval that a claim must keep clear of 0; NaN with fewer than `SEEDS` seeds,
            and with fewer than two episodes.
        improvement: probability that a run of `one` beats a run of `other`.
        improvement_low, improvement_high: its 95 % interval.
        seeds: of the arm that has fewer.
        winner: the arm that is ahead, None where that cannot be claimed.
        withheld: the arm that would be the winner if all of its seeds had ended, see `withhold`.
    """

    one: str
    other: str
    difference: float
    low: float
    high: float
    adjusted_low: float
    adjusted_high: float
    improvement: float
    improvement_low: float
    improvement_high: float
    seeds: int
    winner: str | None
    withheld: str | None = None


def compare(
    one: str,
    other: str,
    scores: npt.ArrayLike,
    against: npt.ArrayLike,
    *,
    claims: int = 1,
    resamples: int = RESAMPLES,
    images: int | None = None,
    returns: tuple[Array, Array] | None = None,
) -> Comparison:
    """Compare two arms by their final scores.

    The adjusted interval has the level 1 - `ERROR` / `claims` (Bonferroni), and is the wider on either side of the
    bootstrap's and Student's, see `t_bounds`.

    Args:
        one, other: names of the arms.
        scores, against: their scores `[seeds]`; seeds are not paired.
        claims: how many comparisons are made beside each other.
        resamples: of the bootstrap.
        images: of the test set, where scores are accuracies, see `t_bounds`.
        returns: of either arm `[seeds, episodes]`, where scores are their means: the error of the episodes counts then,
            which all seeds play alike, see `episode_error`. With one episode nothing is claimed.
    """
    mine, theirs = finite(scores), finite(against)
    errors = _errors([] if returns is None else [[Term(1.0, returns[0]), Term(-1.0, returns[1])]])

    def student(level: float) -> tuple[float, float]:
        lower, upper = t_bounds(mine, theirs, level, images, errors or ())
        return float(lower), float(upper)

    seeds = min(len(mine), len(theirs))
    return _compared(one, other, mine, theirs, seeds, None if errors is None else student, claims, resamples)


def compare_all(
    one: str,
    other: str,
    scores: Mapping[str, Array],
    against: Mapping[str, Array],
    *,
    claims: int = 1,
    resamples: int = RESAMPLES,
    returns: Sequence[Sequence[Term]] = (),
) -> Comparison:
    """Compare two arms over several tasks, by scores on one scale.

    As in `compare`, with seeds drawn anew within each task, and Student's interval for the mean of the tasks'
    differences; see `task_bounds`. A claim needs `SEEDS` seeds in every task.

    Args:
        one, other: names of the arms.
        scores, against: task -> normalised scores `[seeds]`, of the same tasks.
        claims: how many comparisons are made beside each other.
        resamples: of the bootstrap.
        returns: the parts of the mean of the tasks' differences, those that share their episodes together: the error of
            the episodes counts then, see `episode_error`. With one episode anywhere nothing is claimed.
    """
    seeds = min(len(task) for arm in (scores, against) for task in arm.values())
    errors = _errors(returns)
    student = None if errors is None else partial(task_bounds, scores, against, episodes=errors)
    return _compared(one, other, scores, against, seeds, student, claims, resamples)


def _errors(returns: Sequence[Sequence[Term]]) -> list[Error] | None:
    """The error of the episodes of each of these sums; None where one does not know its own, and nothing is claimed."""
    found = [episode_error(terms) for terms in returns]
    known = [error for error in found if error is not None]
    return known if len(known) == len(found) else None


def _compared(
    one: str,
    other: str,
    scores: Scores,
    against: Scores,
    seeds: int,
    student: Callable[[float], tuple[float, float]] | None,
    claims: int,
    resamples: int,
) -> Comparison:
    """A comparison whose adjusted interval is the wider on either side of the bootstrap's and `student`'s, if any."""
    level, low, high = 1 - ERROR / claims, np.nan, np.nan
    if student is not None and seeds >= SEEDS:
        drawn, (lower, upper) = difference(scores, against, level=level, resamples=resamples), student(level)
        low, high = min(drawn.low, lower), max(drawn.high, upper)
    return Comparison(
        one,
        other,
        *difference(scores, against, resamples=resamples),
        low,
        high,
        *probability_of_improvement(scores, against, resamples=resamples),
        seeds,
        one if low > 0 else other if high < 0 else None,
    )


def withhold(pair: Comparison, failed: Container[str]) -> Comparison:
    """The same comparison, without a winner that is among the `failed`: arms of which some seeds have no score.

    Seeds mostly fail because they diverge. An arm that is judged by those that are left is judged by its best, so that
    it may not be called ahead; behind, it may.
    """
    return replace(pair, winner=None, withheld=pair.winner) if pair.winner in failed else pair


def ahead(
    curves: npt.ArrayLike, against: npt.ArrayLike, *, claims: int = 1, resamples: int = CURVE_RESAMPLES
) -> npt.NDArray[np.int64]:
    """Where along `curves` an arm may be called ahead (1) or behind (-1), or neither (0), `[points]`.

    Args:
        curves, against: of either arm at the same points, `[seeds, points]`.
        claims: how many points are compared in the whole task.
        resamples: of the bootstrap.
    """
    mine, theirs, level = finite(curves, "evaluation"), finite(against, "evaluation"), 1 - ERROR / claims
    if min(len(mine), len(theirs)) < SEEDS:
        return np.zeros(mine.shape[1], np.int64)
    _, low, high = curve_difference(mine, theirs, level=level, resamples=resamples)
    lower, upper = t_bounds(mine, theirs, level)
    return np.where(np.minimum(low, lower) > 0, 1, np.where(np.maximum(high, upper) < 0, -1, 0))


def lost(
    clean: npt.ArrayLike,
    shifted: npt.ArrayLike,
    *,
    claims: int = 1,
    resamples: int = RESAMPLES,
    returns: Array | None = None,
) -> tuple[Interval, bool]:
    """What an arm loses under a shift with its 95 % interval, and whether that may be claimed.

    Args:
        clean, shifted: scores `[seeds]` of the same seeds.
        claims: how many arms and shifts are looked at beside each other.
        resamples: of the bootstrap.
        returns: what each seed loses in each episode `[seeds, episodes]`, as in `compare`.
    """
    shown, level = gap(clean, shifted, resamples=resamples), 1 - ERROR / claims
    each = losses(clean, shifted)
    errors = _errors([] if returns is None else [[Term(1.0, returns)]])
    if len(each) < SEEDS or errors is None:
        return shown, False
    drawn = gap(clean, shifted, level=level, resamples=resamples)
    lower, upper = map(float, t_bounds(each, None, level, episodes=errors))
    return shown, min(drawn.low, lower) > 0 or max(drawn.high, upper) < 0


def cheapest(seconds: Mapping[str, Sequence[float | None]]) -> str | None:
    """The arm most of whose seeds get there first, if each other arm is later by a rank test (Mann and Whitney 1947).

    An arm that is not the cheapest is called so only if it beats the one that is; there are as many chances for that
    as other arms, so `ERROR` is divided by their number.

    Args:
        seconds: of each seed by arm; None where a seed never got there, which is later than everything.
    """
    from scipy.stats import mannwhitneyu

    times = {arm: [np.inf if value is None else value for value in values] for arm, values in seconds.items()}
    if len(times) < 2 or min(map(len, times.values())) < SEEDS:
        return None
    first = min(times, key=lambda arm: (float(np.median(times[arm])), float(np.mean(np.isinf(times[arm])))))
    if np.isinf(np.median(times[first])):
        return None
    others = [values for arm, values in times.items() if arm != first]
    tests = [mannwhitneyu(times[first], values, alternative="less").pvalue for values in others]
    return first if max(tests) <= ERROR / len(others) else None
