"""Statistics over few seeds: aggregates of scores and their intervals.

The formulas are those of Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice"
(arXiv 2108.13264). Higher scores are better throughout, and the order of the seeds moves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from stillsight.agents.errors import RunError

Array = npt.NDArray[np.float64]
Scores = npt.ArrayLike | Mapping[str, npt.ArrayLike]
"""`[seeds]` of one task, `[seeds, tasks]`, or the `[seeds]` of each task by its name, where their numbers differ."""
AggregateName = Literal["iqm", "mean", "median", "optimality gap"]

TRIM = 0.25
"""Share of the runs that the interquartile mean leaves out on either side."""

LEVEL = 0.95
"""Of an interval that is shown."""

RESAMPLES = 10_000
CURVE_RESAMPLES = 2_000


class Interval(NamedTuple):
    """A value and its bounds, NaN where a task has one seed: nothing can be said of its spread."""

    value: float
    low: float
    high: float


class Band(NamedTuple):
    """Values and their bounds `[points]`, each point for itself; NaN bounds as in `Interval`."""

    value: Array
    low: Array
    high: Array


def finite(values: npt.ArrayLike, what: str = "score") -> Array:
    """`values` as float64.

    Raises:
        RunError: there are none, or one is not a finite number.
    """
    array = np.asarray(values, np.float64)
    if not array.size:
        raise RunError(f"There is no {what}, and statistics need one from each seed: run the benchmark's cells first.")
    if not np.isfinite(array).all():
        bad = array[~np.isfinite(array)][0]
        raise RunError(f"A {what} is {bad}, and statistics need finite numbers: run its cell again, or leave it out.")
    return array


def _tasks(scores: Scores) -> dict[str, Array]:
    """The scores `[seeds]` of each task, sorted, because the order of the seeds must not move an interval."""
    if not isinstance(scores, Mapping):
        array = finite(scores)
        if array.ndim > 2:
            raise RunError(f"Scores have {array.ndim} axes, and [seeds] or [seeds, tasks] is known: average the rest.")
        scores = {str(number): task for number, task in enumerate(np.atleast_2d(array.T))}
    if not scores:
        finite([])
    return {name: np.sort(finite(task)) for name, task in scores.items()}


def middle(runs: Array) -> Array:
    """Interquartile mean over the last axis."""
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(runs, TRIM, axis=-1), np.float64)


def pooled_middle(tasks: Sequence[Array]) -> Array:
    """Interquartile mean of the runs of all tasks together, of which every task has the same share.

    Agarwal et al. 2021 pool a table of runs x tasks, in which every task has equally many runs (rliable's
    `aggregate_iqm`: scipy's `trim_mean` of the raveled table). Where seeds are missing, the task that has more of them
    would weigh more, and two arms that are equal in every task would differ. So each run counts as often as brings all
    tasks to one number of runs, their least common multiple; with equal numbers that is once.

    Args:
        tasks: runs of each, `[..., seeds]`.

    Returns:
        `[...]`.
    """
    counts = [task.shape[-1] for task in tasks]
    runs = np.concatenate(tasks, axis=-1)
    if len(set(counts)) == 1:
        return middle(runs)
    common = math.lcm(*counts)
    # Python's integers: the least common multiple of many numbers of seeds may not fit in 64 bits.
    exact = object if common * len(tasks) > np.iinfo(np.int64).max else np.int64
    copies = np.repeat(np.array([common // count for count in counts], exact), counts)
    order = np.argsort(runs, axis=-1, kind="stable")
    ordered, times = np.take_along_axis(runs, order, -1), copies[order]
    total, ends = common * len(tasks), np.cumsum(times, axis=-1)
    cut = int(TRIM * total)
    kept = np.maximum(np.minimum(ends, total - cut) - np.maximum(ends - times, cut), 0)
    return np.asarray((ordered * (kept / (total - 2 * cut)).astype(np.float64)).sum(-1), np.float64)


_AGGREGATES: dict[AggregateName, Callable[[Sequence[Array]], Array]] = {
    "iqm": pooled_middle,
    "mean": lambda tasks: np.mean([task.mean(-1) for task in tasks], axis=0),
    "median": lambda tasks: np.median([task.mean(-1) for task in tasks], axis=0),
    "optimality gap": lambda tasks: np.mean([np.maximum(1.0 - task, 0.0).mean(-1) for task in tasks], axis=0),
}


def aggregate(scores: Scores, name: AggregateName = "iqm") -> float:
    """One number for all runs; tasks weigh alike, however many seeds each has.

    Args:
        scores: of every seed; for the optimality gap normalised, with 1 as the goal.
        name: "iqm" is the mean of the middle half of all runs of all tasks, see `pooled_middle`; "mean" and "median"
            are those of the tasks' means; "optimality gap" is by how much a run falls short of 1 on average, more than
            1 counted as 1.
    """
    return float(_AGGREGATES[name](list(_tasks(scores).values())))


def iqm(scores: Scores) -> float:
    """Interquartile mean of all runs, see `pooled_middle`."""
    return aggregate(scores)


def interval(
    scores: Scores, name: AggregateName = "iqm", *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """An aggregate with its stratified bootstrap percentile interval: seeds are drawn anew within each task."""
    tasks = list(_tasks(scores).values())
    draws = [task[index] for task, index in zip(tasks, drawn(tasks, resamples, seed), strict=True)]
    return _interval(_AGGREGATES[name](tasks), _AGGREGATES[name](draws), level, tasks)


def difference(
    one: Scores, other: Scores, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """IQM of `one` less IQM of `other`, with a bootstrap interval for which either is drawn independently."""
    ones, others = list(_tasks(one).values()), list(_tasks(other).values())
    index = drawn([*ones, *others], resamples, seed)
    mine, theirs = ([task[next(index)] for task in tasks] for tasks in (ones, others))
    pooled = _AGGREGATES["iqm"]
    return _interval(pooled(ones) - pooled(others), pooled(mine) - pooled(theirs), level, [*ones, *others])


def gap(
    clean: npt.ArrayLike, shifted: npt.ArrayLike, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Generalisation gap: IQM of what each seed loses from `clean` to `shifted`, both `[seeds]` in the same order."""
    return interval(losses(clean, shifted), level=level, resamples=resamples, seed=seed)


def losses(clean: npt.ArrayLike, shifted: npt.ArrayLike) -> Array:
    """What each seed loses from `clean` to `shifted`, `[seeds]`."""
    before, after = finite(clean), finite(shifted)
    if before.shape != after.shape:
        raise RunError(f"{before.size} clean scores stand against {after.size} shifted ones: give both of every seed.")
    return before - after


def probability_of_improvement(
    one: Scores, other: Scores, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """How often a run of `one` beats a run of `other`, ties counted half (Mann-Whitney), averaged over the tasks."""
    ones, others = _tasks(one), _tasks(other)
    if ones.keys() != others.keys():
        raise RunError(f"Tasks {sorted(ones)} stand against {sorted(others)}: compare arms on the same tasks.")
    tasks = [task for name in ones for task in (ones[name], others[name])]
    index = drawn(tasks, resamples, seed)
    value, draws = np.zeros(()), np.zeros(resamples)
    for mine, theirs in zip(tasks[::2], tasks[1::2], strict=True):
        wins = (np.sign(mine[:, None] - theirs) + 1) / 2
        value = value + wins.mean() / len(ones)
        # A draw only weighs the pairs anew.
        weights, against = _weights(next(index)), _weights(next(index))
        draws += ((weights @ wins) * against).sum(-1) / len(ones)
    return _interval(value, draws, level, tasks)


def performance_profile(
    scores: Scores, thresholds: npt.ArrayLike, *, level: float = LEVEL, resamples: int = CURVE_RESAMPLES, seed: int = 0
) -> Band:
    """Share of runs that score more than each of the `thresholds` `[points]`, averaged over the tasks."""
    tasks, marks = list(_tasks(scores).values()), finite(thresholds, "threshold")
    value, draws = np.zeros(len(marks)), np.zeros((resamples, len(marks)))
    for task, index in zip(tasks, drawn(tasks, resamples, seed), strict=True):
        above = (task[:, None] > marks).astype(np.float64)
        value += above.mean(0) / len(tasks)
        draws += _weights(index) @ above / len(tasks)
    return band(value, draws, level, tasks)


def normalise(score: npt.ArrayLike, low: float, high: float) -> Array:
    """Scores on a scale where `low` (random play) is 0 and `high` (an oracle, a person) is 1.

    Raises:
        RunError: the scale has no length.
    """
    if not low < high:
        raise RunError(f"A scale from {low:g} to {high:g} orders nothing: give a higher score than {low:g} as its 1.")
    return (finite(score) - low) / (high - low)


def drawn(tasks: Sequence[Array], resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """For each task, which of its seeds (first axis) every draw takes, `[resamples, seeds]`."""
    # numpy keeps the stream of RandomState for ever (NEP 19), so what was published comes out again with any version.
    generator = np.random.RandomState(seed)
    for task in tasks:
        yield generator.randint(len(task), size=(resamples, len(task)))


def _weights(index: npt.NDArray[np.int64]) -> Array:
    """Share that each seed has of every draw, `[resamples, seeds]`."""
    return np.asarray((index[..., None] == np.arange(index.shape[1])).mean(1), np.float64)


def _interval(value: Array, draws: Array, level: float, tasks: Sequence[Array]) -> Interval:
    bounds = band(value[None], draws[:, None], level, tasks)
    return Interval(float(value), float(bounds.low[0]), float(bounds.high[0]))


def band(value: Array, draws: Array, level: float, tasks: Sequence[Array]) -> Band:
    """Percentile bounds of `draws` `[resamples, points]`, or NaN where one of `tasks` has a single seed."""
    if min(map(len, tasks)) < 2:
        nothing = np.full(value.shape, np.nan)
        return Band(value, nothing, nothing)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Band(value, low, high)
