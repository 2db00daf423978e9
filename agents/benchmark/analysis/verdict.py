"""Verdicts: what the seeds of one task and algorithm allow to claim, and nothing beyond, as numbers.

Many comparisons are made in one task, and some look decided by chance. A claim (ahead, behind, loses, gains) is made
only if it holds at 5 % over all claims of its kind in the task, with all of its algorithms: final scores over all pairs
of arms, curves over all pairs and their evaluations, shifts over all arms and shifts (Bonferroni, see `claims`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby
from typing import NamedTuple

import numpy as np

from stillsight.agents.benchmark.analysis.claims import SEEDS, Comparison, ahead, cheapest, compare, lost, withhold
from stillsight.agents.benchmark.analysis.contrasts import (
    SCRATCH,
    SEEN,
    Apart,
    Question,
    Uncontrolled,
    apart,
    contrasts,
    told_apart,
    uncontrolled,
)
from stillsight.agents.benchmark.analysis.curves import Reach, common
from stillsight.agents.benchmark.analysis.estimates import Estimates, Threshold
from stillsight.agents.benchmark.analysis.setting import Arm, Setting
from stillsight.agents.benchmark.analysis.stats import CURVE_RESAMPLES, RESAMPLES, Array, Interval, iqm
from stillsight.agents.benchmark.grid.cell import Result


@dataclass(frozen=True)
class Family:
    """How many claims of each kind are judged together (a family of comparisons): those with enough seeds for one.

    Attributes:
        finals: pairs of arms, by their final scores.
        points: evaluations on the way, over all pairs.
        shifts: arms and shifts.
    """

    finals: int = 0
    points: int = 0
    shifts: int = 0

    def __add__(self, other: Family) -> Family:
        return Family(self.finals + other.finals, self.points + other.points, self.shifts + other.shifts)


@dataclass(frozen=True)
class Stretch:
    """Consecutive evaluations at which the same is claimed.

    Attributes:
        sign: 1 where the first arm is ahead, -1 where it is behind, 0 where neither may be claimed.
        first, last: steps or epochs of the outermost evaluations, which may be the same one.
    """

    sign: int
    first: float
    last: float


@dataclass(frozen=True)
class Course:
    """How one arm stands against another along the way.

    Attributes:
        one, other: the arms.
        stretches: in their order, from the first common evaluation to the last.
        points: number of those evaluations.
        seeds: of the arm that has fewer curves.
    """

    one: str
    other: str
    stretches: tuple[Stretch, ...]
    points: int
    seeds: int

    @property
    def claimed(self) -> bool:
        """Whether anything is claimed anywhere."""
        return any(stretch.sign for stretch in self.stretches)


@dataclass(frozen=True)
class ShiftLoss:
    """What an arm loses under a visual shift: IQM of clean less shifted score of each seed; less than 0 is a gain.

    Attributes:
        shift: its name.
        loss: with its 95 % interval.
        claimed: whether the loss, or the gain, may be claimed.
    """

    shift: str
    loss: Interval
    claimed: bool


@dataclass(frozen=True)
class Robustness:
    """What an arm loses under all visual shifts that it was evaluated under.

    Attributes:
        arm: its label.
        clean: IQM of its scores without a shift.
        seeds: fewest that were evaluated under a shift.
        losses: shift by shift.
    """

    arm: str
    clean: float
    seeds: int
    losses: tuple[ShiftLoss, ...]


@dataclass(frozen=True)
class Race:
    """Who reached a threshold first, by the clock; apart from scores, since a cell that is run again takes other times.

    Attributes:
        threshold: the score.
        seconds: what is counted, see `setting.timed`.
        reaches: arms with curves -> where their seeds reached it; the earliest median first.
        untimed: arms of which not every seed has a curve.
        comparable: whether all clocks ran on the same kind of machine.
        unlike: pins by which these arms play something else, or began with what another run had learned. What they see
            may differ: how soon an agent with a state gets there is what such a grid asks.
        cheapest: the arm that may be called so, see `claims.cheapest`; None if none may.
    """

    threshold: Threshold
    seconds: str
    reaches: Mapping[str, Reach]
    untimed: tuple[str, ...]
    comparable: bool
    unlike: tuple[str, ...]
    cheapest: str | None


class Asked(NamedTuple):
    """What a comparison answers.

    Attributes:
        question: see `contrasts.Question`.
        apart: what the two arms differ in, see `contrasts.told_apart`.
    """

    question: Question
    apart: Apart


@dataclass(frozen=True)
class Verdict:
    """What may be claimed of some arms.

    Attributes:
        family: how many claims were judged together.
        comparisons: of pairs of arms by their final scores.
        asked: what each of them answers, by the labels of its arms.
        uncontrolled: question -> arms for which it has no answer, because their control is missing.
        courses: the same pairs along the way, those that have enough curves.
        robustness: of the arms that were evaluated under visual shifts.
        race: to the threshold; None without a threshold or without curves.
        images: of the test set, whose error final scores have; None of environments.
        episodes: that all agents played in the end, whose error final scores and losses have; None of data sets.
        failed: arms of which seeds failed -> how many; nothing is claimed in their favour.
    """

    family: Family
    comparisons: tuple[Comparison, ...]
    asked: Mapping[tuple[str, str], Asked] = field(default_factory=dict)
    uncontrolled: Mapping[Question, tuple[Uncontrolled, ...]] = field(default_factory=dict)
    courses: Mapping[tuple[str, str], Course] = field(default_factory=dict)
    robustness: tuple[Robustness, ...] = ()
    race: Race | None = None
    images: int | None = None
    episodes: int | None = None
    failed: Mapping[str, int] = field(default_factory=dict)


def verdicts(estimates: Sequence[Estimates], resamples: int = RESAMPLES) -> list[Verdict]:
    """The verdict of each setting, in their order.

    Args:
        estimates: of a whole benchmark, because all algorithms of a task are judged together.
        resamples: of the bootstrap.
    """
    families: dict[tuple[str, str], Family] = {}
    for one in estimates:
        place = (one.setting.track, one.setting.task)
        families[place] = families.get(place, Family()) + _family(one.setting)
    return [_verdict(one, families[one.setting.track, one.setting.task], resamples) for one in estimates]


def _family(setting: Setting) -> Family:
    """Counts only what has enough seeds to be claimed; that is known before any score is."""
    family = Family()
    for one, other, *_ in contrasts(setting.arms):
        steps, mine, theirs = _evaluations(one, other)
        enough = min(len(one.cells), len(other.cells)) >= SEEDS
        family += Family(finals=int(enough), points=len(steps) if min(len(mine), len(theirs)) >= SEEDS else 0)
    shifts = [len(arm.pairs(shift)[0]) >= SEEDS for arm in setting.arms for shift in setting.shifts]
    return family + Family(shifts=sum(shifts))


def _evaluations(one: Arm, other: Arm) -> tuple[Array, Array, Array]:
    """Steps at which every seed of both was evaluated, `[points]`, and the returns of either, `[seeds, points]`.

    None where a seed of either failed: the way of those that are left is that of the best.
    """
    if one.failed or other.failed:
        return np.empty(0), np.empty((0, 0)), np.empty((0, 0))
    steps, returns = common([*one.curves, *other.curves])
    return steps, returns[: len(one.curves)], returns[len(one.curves) :]


def _verdict(estimates: Estimates, family: Family, resamples: int) -> Verdict:
    setting = estimates.setting
    compared = contrasts(setting.arms)
    courses = [_course(one, other, family, resamples) for one, other, *_ in compared]
    robust = [_robustness(arm, setting.shifts, family, resamples) for arm in setting.arms]
    return Verdict(
        family=family,
        comparisons=tuple(
            withhold(
                compare(
                    one.label,
                    other.label,
                    one.scores(),
                    other.scores(),
                    claims=max(family.finals, 1),
                    resamples=resamples,
                    images=setting.test_images,
                    returns=None if setting.episodes is None else (one.returns(), other.returns()),
                ),
                setting.failed,
            )
            for one, other, *_ in compared
        ),
        asked={pair.labels: Asked(pair.question, told_apart(pair.apart)) for pair in compared},
        uncontrolled=uncontrolled(setting.arms),
        courses={(course.one, course.other): course for course in courses if course is not None},
        robustness=tuple(one for one in robust if one is not None),
        race=_race(estimates),
        images=setting.test_images,
        episodes=setting.episodes,
        failed=setting.failed,
    )


def _course(one: Arm, other: Arm, family: Family, resamples: int) -> Course | None:
    """None where there are too few curves, or no common evaluation, to say anything of the way."""
    steps, mine, theirs = _evaluations(one, other)
    seeds = min(len(mine), len(theirs))
    if not len(steps) or seeds < SEEDS:
        return None
    signs = ahead(mine, theirs, claims=family.points, resamples=min(resamples, CURVE_RESAMPLES))
    stretches = []
    for sign, points in groupby(range(len(steps)), lambda point: int(signs[point])):
        reached = list(points)
        stretches.append(Stretch(sign, float(steps[reached[0]]), float(steps[reached[-1]])))
    return Course(one.label, other.label, tuple(stretches), len(steps), seeds)


def _robustness(arm: Arm, shifts: Sequence[str], family: Family, resamples: int) -> Robustness | None:
    """None for an arm that was evaluated under no shift."""
    scores = {shift: both for shift in shifts if len((both := arm.pairs(shift))[0])}
    if not scores:
        return None
    losses = {
        shift: lost(*both, claims=max(family.shifts, 1), resamples=resamples, returns=arm.lost(shift))
        for shift, both in scores.items()
    }
    return Robustness(
        arm=arm.label,
        clean=iqm(arm.scores()),
        seeds=min(len(clean) for clean, _ in scores.values()),
        losses=tuple(ShiftLoss(shift, loss, claimed) for shift, (loss, claimed) in losses.items()),
    )


def _race(estimates: Estimates) -> Race | None:
    timed = {one.arm.label: one.reach for one in estimates.arms if one.reach is not None}
    if estimates.threshold is None or not timed:
        return None
    reaches = dict(sorted(timed.items(), key=lambda arm: (*_late(arm[1]), arm[0])))
    arms = [one.arm for one in estimates.arms]
    untimed = tuple(arm.label for arm in arms if len(arm.curves) < len(arm.cells))
    racing = [arm for arm in arms if arm.label in timed]
    comparable = len({_place(result) for arm in racing for result in arm.results}) == 1
    pairs = (SCRATCH.excess(apart(*pair)) for pair in combinations(racing, 2))
    unlike = tuple(dict.fromkeys(name for excess in pairs for name in excess if name not in SEEN))
    first = None
    if comparable and not untimed and not unlike and any(reach.reached for reach in reaches.values()):
        first = cheapest({label: reach.seconds for label, reach in reaches.items()})
    return Race(estimates.threshold, estimates.setting.seconds, reaches, untimed, comparable, unlike, first)


def _late(reach: Reach) -> tuple[float, int]:
    return np.inf if reach.median_seconds is None else reach.median_seconds, -reach.reached


def _place(result: Result) -> str:
    """What makes two clocks comparable."""
    return str([result.machine.get(name) for name in ("cpu", "cores", "threads", "gpus")])
