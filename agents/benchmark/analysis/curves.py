"""Statistics of learning curves: bands over seeds, the area below one, and where it reaches a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stillsight.agents.benchmark.analysis.stats import CURVE_RESAMPLES, LEVEL, Array, Band, band, drawn, finite, middle
from stillsight.agents.errors import RunError

Curve = Sequence[Sequence[float]]
"""Evaluations of one seed in their order: [steps or epochs, mean return or accuracy, seconds of training so far]."""


@dataclass(frozen=True)
class Reach:
    """Where the curve of each seed first reached a threshold; None where it never did."""

    steps: tuple[float | None, ...]
    seconds: tuple[float | None, ...]

    @property
    def reached(self) -> int:
        """How many seeds did."""
        return sum(step is not None for step in self.steps)

    @property
    def median_steps(self) -> float | None:
        """Over all seeds, with "never" later than everything; None unless more than half of them reached it."""
        return _median(self.steps)

    @property
    def median_seconds(self) -> float | None:
        """As `median_steps`."""
        return _median(self.seconds)


def _median(values: Sequence[float | None]) -> float | None:
    median = float(np.median([np.inf if value is None else value for value in values]))
    return median if np.isfinite(median) else None


def reach(curves: Sequence[Curve], threshold: float) -> Reach:
    """Steps and seconds to `threshold`, the median taken over the seeds' curves.

    Raises:
        RunError: there is no curve, or it holds a number that is not finite.
    """
    if not curves:
        finite([], "curve")
    tables = [finite(curve, "evaluation") for curve in curves]
    steps, seconds = (tuple(first_at(table[:, on], table[:, 1], threshold) for table in tables) for on in (0, 2))
    return Reach(steps, seconds)


def first_at(along: npt.ArrayLike, returns: npt.ArrayLike, threshold: float) -> float | None:
    """Where `returns` first reach `threshold`, linear between evaluations; None if they never do.

    Args:
        along: steps or seconds of the evaluations, `[points]`, rising.
        returns: of the evaluations, `[points]`.
        threshold: a curve that starts there has reached it at its first evaluation.
    """
    where, values = _same(along, returns)
    hits = np.flatnonzero(values >= threshold)
    if not hits.size:
        return None
    hit = int(hits[0])
    if hit == 0:
        return float(where[0])
    share = (threshold - values[hit - 1]) / (values[hit] - values[hit - 1])
    return float(where[hit - 1] + share * (where[hit] - where[hit - 1]))


def area_under_curve(steps: npt.ArrayLike, returns: npt.ArrayLike) -> float:
    """Mean height of a curve between its first evaluation and its last (trapezoids), in the unit of the returns.

    Raises:
        RunError: fewer than two evaluations span nothing.
    """
    from scipy.integrate import trapezoid

    where, values = _same(steps, returns)
    if len(where) < 2 or not where[0] < where[-1]:
        raise RunError(f"A curve of {len(where)} evaluations at one step has no area: evaluate twice or more.")
    return float(trapezoid(values, where) / (where[-1] - where[0]))


def _same(along: npt.ArrayLike, returns: npt.ArrayLike) -> tuple[Array, Array]:
    where, values = finite(along, "step"), finite(returns, "evaluation")
    if where.shape != values.shape:
        raise RunError(f"{where.size} steps stand against {values.size} evaluations: give one of each.")
    return where, values


def common(curves: Sequence[Curve]) -> tuple[Array, Array]:
    """Steps at which every one of `curves` was evaluated, `[points]`, and its returns there, `[seeds, points]`."""
    rows = [{row[0]: row[1] for row in curve} for curve in curves]
    steps = sorted(set.intersection(*map(set, rows))) if rows else []
    return np.array(steps, np.float64), np.array([[row[step] for step in steps] for row in rows], np.float64)


def curve_interval(
    returns: npt.ArrayLike, *, level: float = LEVEL, resamples: int = CURVE_RESAMPLES, seed: int = 0
) -> Band:
    """IQM over the curves `[seeds, points]`, point by point; a draw takes whole curves."""
    curves = _sorted(returns)
    (index,) = drawn([curves], resamples, seed)
    return band(_middle(curves), _middle(curves[index]), level, [curves])


def curve_difference(
    one: npt.ArrayLike, other: npt.ArrayLike, *, level: float = LEVEL, resamples: int = CURVE_RESAMPLES, seed: int = 0
) -> Band:
    """IQM of `one` less that of `other`, both `[seeds, points]` at the same points; drawn independently."""
    ones, others = _sorted(one), _sorted(other)
    mine, theirs = drawn([ones, others], resamples, seed)
    draws = _middle(ones[mine]) - _middle(others[theirs])
    return band(_middle(ones) - _middle(others), draws, level, [ones, others])


def _sorted(returns: npt.ArrayLike) -> Array:
    """The curves in an order of their own, because that of the seeds must not move a band."""
    curves = finite(returns, "evaluation")
    return curves[np.lexsort(curves.T[::-1])]


def _middle(curves: Array) -> Array:
    """IQM over the seeds, the last axis but one."""
    return middle(np.moveaxis(curves, -2, -1))
