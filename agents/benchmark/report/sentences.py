"""The words of a verdict: one sentence for each thing that was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from stillsight.agents.benchmark.analysis.claims import ERROR, SEEDS, Comparison, cheapest
from stillsight.agents.benchmark.analysis.curves import Reach
from stillsight.agents.benchmark.analysis.stats import Array, Interval, iqm
from stillsight.agents.benchmark.report.tables import Numbers


def final(found: Comparison, show: Callable[[float], str]) -> str:
    """How two arms stand at the end of training."""
    if found.seeds < SEEDS:
        return f"{found.one} and {found.other}: only {_seeds(found.seeds)}, no verdict."
    if found.winner == found.other:
        found = _turned(found)
    apart = _span(Interval(found.difference, found.low, found.high), show)
    wins = (
        f"better in {found.improvement:.0%} ({found.improvement_low:.0%} to {found.improvement_high:.0%}) "
        "of all pairs of seeds"
    )
    if found.winner:
        return f"{found.one} is ahead of {found.other} in the end by {apart}, {wins} ({_seeds(found.seeds)})."
    alone = found.low > 0 or found.high < 0
    return (
        f"{found.one} and {found.other} are not separable at {_seeds(found.seeds)} in the end: the first less the "
        f"second is {apart}{', clear of 0 only by itself' if alone else ''}, {wins}."
    )


def _turned(found: Comparison) -> Comparison:
    """The same comparison, seen from the other arm."""
    return replace(
        found,
        one=found.other,
        other=found.one,
        difference=-found.difference,
        low=-found.high,
        high=-found.low,
        adjusted_low=-found.adjusted_high,
        adjusted_high=-found.adjusted_low,
        improvement=1 - found.improvement,
        improvement_low=1 - found.improvement_high,
        improvement_high=1 - found.improvement_low,
    )


def course(found: Comparison, way: str | None, points: int, seeds: int) -> str:
    """How two arms stand along the way.

    Args:
        found: names the arms.
        way: what is claimed of them, see `stretches`.
        points: how many evaluations they were compared at.
        seeds: of the arm that has fewer.
    """
    if way is None:
        told = f"are not separable at any of {points} evaluations"
        return f"On the way {found.one} and {found.other} {told} ({_seeds(seeds)})."
    return f"Against {found.other}, {found.one} is {way} ({_seeds(seeds)})."


def stretches(steps: Array, signs: npt.NDArray[np.int64], unit: str) -> str | None:
    """Where the first of two arms is ahead or behind: each stretch is one of evaluations at which the same is claimed.

    Args:
        steps: of the evaluations, `[points]`.
        signs: what is claimed at each, see `claims.ahead`.
        unit: of the steps.

    Returns:
        Say, "ahead until 200,000 steps and behind from 300,000 steps"; None if nothing is claimed anywhere.
    """
    found = [(sign, list(points)) for sign, points in groupby(range(len(steps)), lambda point: int(signs[point]))]
    claimed = [f"{'ahead' if sign > 0 else 'behind'} {_where(points, steps, unit)}" for sign, points in found if sign]
    if not claimed:
        return None
    listed = " and ".join(part for part in (", ".join(claimed[:-1]), claimed[-1]) if part)
    return listed + ("; not separable at the other evaluations" if len(claimed) < len(found) else "")


def _where(points: list[int], steps: Array, unit: str) -> str:
    first, last = points[0], points[-1]
    if last - first + 1 == len(steps):
        return f"at every evaluation from {steps[first]:,.0f} to {steps[last]:,.0f} {unit}"
    if first == 0:
        return f"until {steps[last]:,.0f} {unit}"
    if last == len(steps) - 1:
        return f"from {steps[first]:,.0f} {unit}"
    if first == last:
        return f"at {steps[first]:,.0f} {unit}"
    return f"from {steps[first]:,.0f} to {steps[last]:,.0f} {unit}"


def shifts(label: str, clean: Array, losses: Mapping[str, tuple[Interval, bool]], seeds: int, show: Numbers) -> str:
    """What an arm loses or gains under each shift.

    Args:
        label: of the arm.
        clean: its scores without a shift, `[seeds]`.
        losses: by shift, with whether it may be claimed, see `claims.lost`.
        seeds: fewest that were evaluated under a shift.
        show: writes numbers.
    """
    claimed, open_ = [], []
    for shift, (found, sure) in losses.items():
        word = "loses" if found.value > 0 else "gains"
        turned = found if found.value > 0 else Interval(-found.value, -found.high, -found.low)
        if sure:
            claimed.append(f"{word} {_span(turned, show)} under {shift}")
        else:
            open_.append(f"{shift} {_span(found, show)}")
    told = [f"of its {show(iqm(clean))} {label} {', '.join(claimed)}"] if claimed else []
    if open_:
        told.append(f"no loss of {label} may be claimed at {_seeds(seeds)} under {', '.join(open_)}")
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}."


def cost(
    timed: Mapping[str, Reach], untimed: Sequence[str], threshold: tuple[float, str], show: Numbers, comparable: bool
) -> list[str]:
    """Seconds of training to a threshold.

    Args:
        timed: where the seeds of each arm reached the threshold.
        untimed: arms of which not every seed has a curve.
        threshold: the score, and where it comes from.
        show: writes numbers.
        comparable: whether all clocks ran on the same kind of machine.
    """
    goal = f"{show(threshold[0])}, {threshold[1]}"
    if not any(found.reached for found in timed.values()):
        return [f"No seed reached {goal}."] if timed else []
    ordered = sorted(timed.items(), key=lambda arm: (*_late(arm[1]), arm[0]))
    listed = "; ".join(
        f"{label} {'-' if found.median_seconds is None else f'{found.median_seconds:,.0f} s'} "
        f"({found.reached} of {_seeds(len(found.seconds))})"
        for label, found in ordered
    )
    told = [f"Median seconds of training to {goal}: {listed}."]
    if untimed:
        return [*told, f"None is called the cheapest, because not every seed of {', '.join(untimed)} has a curve."]
    if not comparable:
        return [*told, "None is called the cheapest, because they were timed on different machines."]
    first = cheapest({label: found.seconds for label, found in ordered})
    if len(ordered) > 1:
        told.append(f"{first} is the cheapest." if first else "None is separably the cheapest.")
    return told


def _late(found: Reach) -> tuple[float, int]:
    return np.inf if found.median_seconds is None else found.median_seconds, -found.reached


def method(finals: int, points: int, losses: int) -> str:
    """How often what is claimed may be wrong."""
    kinds = [
        f"{count:,} {name}"
        for count, name in ((finals, "in the end"), (points, "on the way"), (losses, "under shifts"))
        if count
    ]
    if not kinds:
        return f"Nothing is claimed with fewer than {SEEDS} seeds."
    return (
        f"Claims of each kind have a chance of about {ERROR:.0%} to hold a false one, adjusted (Bonferroni) for the "
        f"number of comparisons in this task: {', '.join(kinds)}. Intervals in brackets are of 95% each."
    )


def method_of_all(environments: int, finals: int) -> str:
    """The same of claims over several environments together."""
    return (
        f"Over {environments} environments, with so many seeds in each. Claims have a chance of about {ERROR:.0%} to "
        f"hold a false one, adjusted (Bonferroni) for the number of comparisons: {finals}. Intervals in brackets are "
        "of 95% each."
    )


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def _span(found: Interval, show: Callable[[float], str]) -> str:
    bounds = "one seed" if np.isnan(found.low) else f"{show(found.low)} to {show(found.high)}"
    return f"{show(found.value)} ({bounds})"
