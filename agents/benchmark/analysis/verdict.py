"""The verdict: what the seeds of one task and algorithm allow to say, in plain sentences, and nothing beyond.

Many comparisons are made in one task, and some look decided by chance. A claim (ahead, behind, loses, gains) is made
only if it holds at 5 % over all claims of its kind in the task, with all of its algorithms: final scores over all pairs
of arms, curves over all pairs and their evaluations, shifts over all arms and shifts (Bonferroni, see `claims`).
Intervals in brackets are of 95 % each, as in the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from stillsight.agents.benchmark.analysis.claims import SEEDS, Comparison, ahead, compare, lost
from stillsight.agents.benchmark.analysis.curves import common, reach
from stillsight.agents.benchmark.analysis.setting import TUNED, Arm, Setting
from stillsight.agents.benchmark.analysis.stats import CURVE_RESAMPLES, RESAMPLES, Array
from stillsight.agents.benchmark.report import sentences
from stillsight.agents.benchmark.report.answers import Answer, answers
from stillsight.agents.benchmark.report.tables import Numbers


@dataclass(frozen=True)
class Verdict:
    """What may be said of one task and algorithm.

    Attributes:
        task, algo: names.
        sentences: final scores and curves of each pair, losses under shifts, and how often all of it may be wrong.
        comparisons: the numbers behind them, in the same order.
        answers: the same in short, question by question.
        cost: sentences about what a clock measured; apart, because they change when a cell is run again.
    """

    task: str
    algo: str
    sentences: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    answers: tuple[Answer, ...] = ()
    cost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """How many claims of each kind are judged together."""

    finals: int = 0
    points: int = 0
    shifts: int = 0

    def __add__(self, other: Family) -> Family:
        return Family(self.finals + other.finals, self.points + other.points, self.shifts + other.shifts)


def verdicts(settings: Sequence[Setting], resamples: int = RESAMPLES) -> list[Verdict]:
    """The verdict of each setting, in their order.

    Args:
        settings: of a whole benchmark, because all algorithms of a task are judged together.
        resamples: of the bootstrap.
    """
    families: dict[tuple[str, str], Family] = {}
    for setting in settings:
        name = (setting.track, setting.task)
        families[name] = families.get(name, Family()) + _family(setting)
    return [_verdict(setting, families[setting.track, setting.task], resamples) for setting in settings]


def pairs(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Who is compared with whom.

    Frozen arms with scratch, with random weights (of the same tap where there are such), and with the other taps of
    their encoder; encoders that learn on, with the frozen arms of the same encoder.
    """
    frozen, scratch, random = ([arm for arm in arms if arm.role == role] for role in ("frozen", "scratch", "random"))
    found = [(arm, other) for arm in frozen for other in scratch]
    for arm in frozen:
        same = [other for other in random if _network(other)[0] == _network(arm)[0]]
        found += [(arm, other) for other in same if _network(other) == _network(arm)] or [(arm, each) for each in same]
    found += [pair for pair in combinations(frozen, 2) if _network(pair[0])[0] == _network(pair[1])[0]]
    tuned = [arm for arm in arms if arm.role in TUNED]
    return found + [(arm, other) for arm in tuned for other in frozen if _network(arm)[0] == _network(other)[0]]


def _network(arm: Arm) -> tuple[str, str]:
    """Encoder and tap: as the cells are pinned, else the first words of the label."""
    pins: Mapping[str, object] = arm.cells[0].get("pins", {})
    words = [*arm.label.split(), "", ""]
    return str(pins.get("encoder") or words[0]), str(pins.get("tap") or words[1])


def _family(setting: Setting) -> Family:
    """Counts only what has enough seeds to be claimed; that is known before any score is."""
    found = Family()
    for one, other in pairs(setting.arms):
        steps, mine, theirs = _evaluations(one, other)
        enough = min(len(one.cells), len(other.cells)) >= SEEDS
        found += Family(finals=int(enough), points=len(steps) if min(len(mine), len(theirs)) >= SEEDS else 0)
    shifts = [len(arm.pairs(shift)[0]) >= SEEDS for arm in setting.arms for shift in setting.shifts]
    return found + Family(shifts=sum(shifts))


def _evaluations(one: Arm, other: Arm) -> tuple[Array, Array, Array]:
    """Steps at which every seed of both was evaluated, `[points]`, and the returns of either, `[seeds, points]`."""
    steps, returns = common([*one.curves, *other.curves])
    return steps, returns[: len(one.curves)], returns[len(one.curves) :]


def _verdict(setting: Setting, family: Family, resamples: int) -> Verdict:
    show, told, comparisons = Numbers(setting), [], []
    ways: dict[tuple[str, str], str] = {}
    lose: dict[str, list[str]] = {}
    for one, other in pairs(setting.arms):
        found = compare(
            one.label, other.label, one.scores(), other.scores(), claims=max(family.finals, 1), resamples=resamples
        )
        comparisons.append(found)
        told.append(sentences.final(found, show))
        steps, mine, theirs = _evaluations(one, other)
        if len(steps) and min(len(mine), len(theirs)) >= SEEDS:
            signs = ahead(mine, theirs, claims=family.points, resamples=min(resamples, CURVE_RESAMPLES))
            way = sentences.stretches(steps, signs, show.unit)
            told.append(sentences.course(found, way, len(steps), min(len(mine), len(theirs))))
            if way is not None:
                ways[one.label, other.label] = way
    for arm in setting.arms:
        shifted = {shift: arm.pairs(shift) for shift in setting.shifts if len(arm.pairs(shift)[0])}
        if shifted:
            losses = {
                shift: lost(*pair, claims=max(family.shifts, 1), resamples=resamples) for shift, pair in shifted.items()
            }
            seeds = min(len(clean) for clean, _ in shifted.values())
            told.append(sentences.shifts(arm.label, arm.scores(), losses, seeds, show))
            lose[arm.label] = [shift for shift, (loss, sure) in losses.items() if sure and loss.value > 0]
    if told:
        told.append(sentences.method(family.finals, family.points, family.shifts))
    short = answers(comparisons, {arm.label: arm.role for arm in setting.arms}, ways, lose)
    return Verdict(setting.task, setting.algo, tuple(told), tuple(comparisons), short, tuple(_cost(setting, show)))


def _cost(setting: Setting, show: Numbers) -> list[str]:
    """Seconds to the threshold, and which arm is the cheapest, if one may be called so."""
    if setting.threshold is None:
        return []
    timed = [arm for arm in setting.arms if arm.curves]
    return sentences.cost(
        {arm.label: reach(arm.curves, setting.threshold[0]) for arm in timed},
        [arm.label for arm in setting.arms if len(arm.curves) < len(arm.cells)],
        setting.threshold,
        show,
        len({_place(cell) for arm in timed for cell in arm.cells}) == 1,
    )


def _place(cell: Mapping[str, Any]) -> str:
    """What makes two clocks comparable."""
    machine = cell.get("machine", {})
    return str([machine.get(name) for name in ("cpu", "cores", "threads", "gpus")])
