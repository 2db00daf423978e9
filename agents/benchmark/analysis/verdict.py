"""Verdicts: what the seeds of one task and algorithm allow to claim, and nothing beyond, as numbers.

Many comparisons are made in one task, and some look decided by chance. A claim (ahead, behind, loses, gains) is made
only if it holds at 5 % over all claims of its kind in the task, with all of its algorithms: final scores over all pairs
of arms, curves over all pairs and their evaluations, shifts over all arms and shifts (Bonferroni, see `claims`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby

import numpy as np

from stillsight.agents.benchmark.analysis.claims import SEEDS, Comparison, ahead, cheapest, compare, lost
from stillsight.agents.benchmark.analysis.curves import Reach, common
from stillsight.agents.benchmark.analysis.estimates import Estimates, Threshold
from stillsight.agents.benchmark.analysis.setting import Arm, Setting
from stillsight.agents.benchmark.analysis.stats import CURVE_RESAMPLES, RESAMPLES, Array, Interval, iqm
from stillsight.agents.benchmark.grid.cell import FINETUNED, Result


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
        reaches: arms with curves -> where their seeds reached it; the earliest median first.
        untimed: arms of which not every seed has a curve.
        comparable: whether all clocks ran on the same kind of machine.
        cheapest: the arm that may be called so, see `claims.cheapest`; None if none may.
    """

    threshold: Threshold
    reaches: Mapping[str, Reach]
    untimed: tuple[str, ...]
    comparable: bool
    cheapest: str | None


@dataclass(frozen=True)
class Verdict:
    """What may be claimed of some arms.

    Attributes:
        roles: of the arms by label.
        family: how many claims were judged together.
        comparisons: of pairs of arms by their final scores.
        courses: the same pairs along the way, those that have enough curves.
        robustness: of the arms that were evaluated under visual shifts.
        race: to the threshold; None without a threshold or without curves.
    """

    roles: Mapping[str, str]
    family: Family
    comparisons: tuple[Comparison, ...]
    courses: Mapping[tuple[str, str], Course] = field(default_factory=dict)
    robustness: tuple[Robustness, ...] = ()
    race: Race | None = None


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


def pairs(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Who is compared with whom.

    Frozen arms with scratch, with random weights (of the same tap where there are such), and with the other taps of
    their encoder; encoders that learn on, with the frozen arms of the same encoder.
    """
    frozen, scratch, random = ([arm for arm in arms if arm.role == role] for role in ("frozen", "scratch", "random"))
    compared = [(arm, other) for arm in frozen for other in scratch]
    for arm in frozen:
        same = [other for other in random if _network(other)[0] == _network(arm)[0]]
        compared += [(arm, other) for other in same if _network(other) == _network(arm)] or [(arm, one) for one in same]
    compared += [pair for pair in combinations(frozen, 2) if _network(pair[0])[0] == _network(pair[1])[0]]
    tuned = [arm for arm in arms if arm.role in FINETUNED]
    return compared + [(arm, other) for arm in tuned for other in frozen if _network(arm)[0] == _network(other)[0]]


def _network(arm: Arm) -> tuple[str, str]:
    """Encoder and tap: as the cells are pinned, else the first words of the label."""
    pins = arm.results[0].pins
    words = [*arm.label.split(), "", ""]
    return str(pins.get("encoder") or words[0]), str(pins.get("tap") or words[1])


def _family(setting: Setting) -> Family:
    """Counts only what has enough seeds to be claimed; that is known before any score is."""
    family = Family()
    for one, other in pairs(setting.arms):
        steps, mine, theirs = _evaluations(one, other)
        enough = min(len(one.cells), len(other.cells)) >= SEEDS
        family += Family(finals=int(enough), points=len(steps) if min(len(mine), len(theirs)) >= SEEDS else 0)
    shifts = [len(arm.pairs(shift)[0]) >= SEEDS for arm in setting.arms for shift in setting.shifts]
    return family + Family(shifts=sum(shifts))


def _evaluations(one: Arm, other: Arm) -> tuple[Array, Array, Array]:
    """Steps at which every seed of both was evaluated, `[points]`, and the returns of either, `[seeds, points]`."""
    steps, returns = common([*one.curves, *other.curves])
    return steps, returns[: len(one.curves)], returns[len(one.curves) :]


def _verdict(estimates: Estimates, family: Family, resamples: int) -> Verdict:
    setting = estimates.setting
    compared = pairs(setting.arms)
    courses = [_course(one, other, family, resamples) for one, other in compared]
    robust = [_robustness(arm, setting.shifts, family, resamples) for arm in setting.arms]
    return Verdict(
        roles={arm.label: arm.role for arm in setting.arms},
        family=family,
        comparisons=tuple(
            compare(
                one.label, other.label, one.scores(), other.scores(), claims=max(family.finals, 1), resamples=resamples
            )
            for one, other in compared
        ),
        courses={(course.one, course.other): course for course in courses if course is not None},
        robustness=tuple(one for one in robust if one is not None),
        race=_race(estimates),
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
    losses = {shift: lost(*both, claims=max(family.shifts, 1), resamples=resamples) for shift, both in scores.items()}
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
    comparable = len({_place(result) for arm in arms if arm.label in timed for result in arm.results}) == 1
    first = None
    if comparable and not untimed and any(reach.reached for reach in reaches.values()):
        first = cheapest({label: reach.seconds for label, reach in reaches.items()})
    return Race(estimates.threshold, reaches, untimed, comparable, first)


def _late(reach: Reach) -> tuple[float, int]:
    return np.inf if reach.median_seconds is None else reach.median_seconds, -reach.reached


def _place(result: Result) -> str:
    """What makes two clocks comparable."""
    return str([result.machine.get(name) for name in ("cpu", "cores", "threads", "gpus")])
