"""The sentences of a verdict: one for each thing that was found."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from stillsight.agents.benchmark.analysis.claims import ERROR, SEEDS, Comparison
from stillsight.agents.benchmark.analysis.contrasts import Apart, Question, Uncontrolled
from stillsight.agents.benchmark.analysis.estimates import Threshold
from stillsight.agents.benchmark.analysis.stats import Interval
from stillsight.agents.benchmark.analysis.verdict import Course, Family, Race, Robustness, Stretch, Verdict
from stillsight.agents.benchmark.report.numbers import Numbers, with_bounds

HASH = re.compile("[0-9a-fA-F]{64}")
"""A sha256, of which `SHOWN` characters are told."""
SHOWN = 12
"""Characters of a hash that tell two apart."""

INTERVALS = (
    "Intervals in brackets are the bootstrap's, nominally of 95% each; those of few seeds are too narrow, and no claim "
    "rests on them alone."
)
"""How narrow, is measured: results/published/benchmark/coverage.json."""

ALONE = " They are over the seeds alone."

CONTROLS: dict[Question, tuple[str, str]] = {
    "scratch": ("training from scratch", "scratch"),
    "pretraining": ("random weights", "random"),
    "training": ("the same encoder frozen", "frozen"),
}
"""Question -> what an arm is compared with, and the role of that."""


def of_setting(verdict: Verdict, show: Numbers) -> tuple[str, ...]:
    """Final scores and course of each pair of arms, losses under shifts, and how often all of it may be wrong."""
    told = []
    for comparison in verdict.comparisons:
        told.append(final(comparison, show))
        if course := verdict.courses.get((comparison.one, comparison.other)):
            told.append(on_the_way(course, show.unit))
    told += not_compared(verdict)
    told += without_a_result(verdict)
    told += [under_shifts(arm, show) for arm in verdict.robustness]
    return (*told, method(verdict.family, verdict.images, verdict.episodes)) if told else ()


def of_all(verdict: Verdict, environments: int, algorithms: int = 1) -> tuple[str, ...]:
    """The same of normalised scores over several environments."""
    told = tuple(final(comparison, "{:.2f}".format) for comparison in verdict.comparisons)
    told += (*not_compared(verdict), *without_a_result(verdict))
    if not verdict.family.finals:
        return told
    return (*told, method_of_all(environments, verdict.family.finals, algorithms, verdict.episodes))


def final(pair: Comparison, show: Callable[[float], str]) -> str:
    """How two arms stand at the end of training."""
    if pair.seeds < SEEDS:
        return f"{pair.one} and {pair.other}: only {_seeds(pair.seeds)}, no verdict."
    if pair.winner == pair.other:
        pair = _turned(pair)
    apart = with_bounds(Interval(pair.difference, pair.low, pair.high), show)
    wins = (
        f"better in {pair.improvement:.0%} ({pair.improvement_low:.0%} to {pair.improvement_high:.0%}) "
        "of all pairs of seeds"
    )
    if pair.winner:
        return f"{pair.one} is ahead of {pair.other} in the end by {apart}, {wins} ({_seeds(pair.seeds)})."
    if pair.withheld:
        if pair.withheld == pair.other:
            pair, apart = _turned(pair), with_bounds(Interval(-pair.difference, -pair.high, -pair.low), show)
        return (
            f"{pair.one} is not called ahead of {pair.other}, although those of its seeds that ended are by {apart} "
            f"({_seeds(pair.seeds)}): others failed."
        )
    alone = pair.low > 0 or pair.high < 0
    return (
        f"{pair.one} and {pair.other} are not separable at {_seeds(pair.seeds)} in the end: the first less the "
        f"second is {apart}{', clear of 0 only by itself' if alone else ''}, {wins}."
    )


def not_compared(verdict: Verdict) -> list[str]:
    """A sentence for each arm that lacks a control."""
    return [
        f"Not compared with {CONTROLS[question][0]}: {no_control(one, question)}."
        for question, alone in verdict.uncontrolled.items()
        for one in alone
    ]


def without_a_result(verdict: Verdict) -> list[str]:
    """A sentence for each arm of which seeds failed."""
    return [
        f"{_seeds(count)} of {arm} failed and {'is' if count == 1 else 'are'} in no number: nothing is claimed in its "
        "favour."
        for arm, count in verdict.failed.items()
    ]


def no_control(arm: Uncontrolled, question: Question) -> str:
    """The arm, and why no arm is a control for it."""
    _, role = CONTROLS[question]
    if arm.nearest is None:
        return f"{arm.arm} (there is no {role} arm of its encoder)"
    return f"{arm.arm} (no {role} arm is made like it: {arm.nearest} has {differences(arm.differs)})"


def differences(apart: Apart, *, turned: bool = False) -> str:
    """What sets two arms apart: the value of the first, not that of the second; `turned` the other way round."""
    pairs = ((name, *(reversed(values) if turned else values)) for name, values in apart.items())
    return "; ".join(f"{name} {_value(mine)}, not {_value(theirs)}" for name, mine, theirs in pairs)


def _value(setting: object) -> str:
    if setting is None:
        return "unset"
    if isinstance(setting, list | tuple):
        return ", ".join(map(str, setting)) or "none"
    text = str(setting)
    return f"{text[:SHOWN]}…" if HASH.fullmatch(text) else text


def _turned(pair: Comparison) -> Comparison:
    """The same comparison, seen from the other arm."""
    return replace(
        pair,
        one=pair.other,
        other=pair.one,
        difference=-pair.difference,
        low=-pair.high,
        high=-pair.low,
        adjusted_low=-pair.adjusted_high,
        adjusted_high=-pair.adjusted_low,
        improvement=1 - pair.improvement,
        improvement_low=1 - pair.improvement_high,
        improvement_high=1 - pair.improvement_low,
    )


def on_the_way(course: Course, unit: str) -> str:
    """How two arms stand along the way."""
    claims = stretches(course, unit)
    if claims is None:
        told = f"are not separable at any of {course.points} evaluations"
        return f"On the way {course.one} and {course.other} {told} ({_seeds(course.seeds)})."
    return f"Against {course.other}, {course.one} is {claims} ({_seeds(course.seeds)})."


def stretches(course: Course, unit: str) -> str | None:
    """Where the first of two arms is ahead or behind, in words.

    Args:
        course: of the two.
        unit: of the steps.

    Returns:
        Say, "ahead until 200,000 steps and behind from 300,000 steps"; None if nothing is claimed anywhere.
    """
    claims = [
        f"{'ahead' if stretch.sign > 0 else 'behind'} {_where(stretch, course, unit)}"
        for stretch in course.stretches
        if stretch.sign
    ]
    if not claims:
        return None
    listed = " and ".join(part for part in (", ".join(claims[:-1]), claims[-1]) if part)
    return listed + ("; not separable at the other evaluations" if len(claims) < len(course.stretches) else "")


def _where(stretch: Stretch, course: Course, unit: str) -> str:
    begins, ends = stretch == course.stretches[0], stretch == course.stretches[-1]
    if course.points == 1:
        return f"at the only evaluation in common, at {stretch.first:,.0f} {unit}"
    if begins and ends:
        return f"at every evaluation from {stretch.first:,.0f} to {stretch.last:,.0f} {unit}"
    if begins:
        return f"until {stretch.last:,.0f} {unit}"
    if ends:
        return f"from {stretch.first:,.0f} {unit}"
    if stretch.first == stretch.last:
        return f"at {stretch.first:,.0f} {unit}"
    return f"from {stretch.first:,.0f} to {stretch.last:,.0f} {unit}"


def under_shifts(arm: Robustness, show: Numbers) -> str:
    """What an arm loses or gains under each shift."""
    claimed, open_ = [], []
    for one in arm.losses:
        loss = one.loss
        word = "loses" if loss.value > 0 else "gains"
        turned = loss if loss.value > 0 else Interval(-loss.value, -loss.high, -loss.low)
        if one.claimed:
            claimed.append(f"{word} {with_bounds(turned, show)} under {one.shift}")
        else:
            open_.append(f"{one.shift} {with_bounds(loss, show)}")
    told = [f"of its {show(arm.clean)} {arm.arm} {', '.join(claimed)}"] if claimed else []
    if open_:
        told.append(f"no loss of {arm.arm} may be claimed at {_seeds(arm.seeds)} under {', '.join(open_)}")
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}."


def of_race(race: Race | None, show: Numbers) -> tuple[str, ...]:
    """Seconds of training to the threshold, and which arm is the cheapest, if one may be called so."""
    if race is None:
        return ()
    goal = f"{show(race.threshold.score)}, {source(race.threshold)}"
    if not any(reach.reached for reach in race.reaches.values()):
        return (f"No seed reached {goal}.",)
    listed = "; ".join(
        f"{label} {'-' if reach.median_seconds is None else f'{reach.median_seconds:,.0f} s'} "
        f"({reach.reached} of {_seeds(len(reach.seconds))})"
        for label, reach in race.reaches.items()
    )
    told = f"Median {race.seconds} of training to {goal}: {listed}."
    if race.untimed:
        missing = ", ".join(race.untimed)
        return told, f"None is called the cheapest, because not every seed of {missing} has a curve."
    if not race.comparable:
        return told, "None is called the cheapest, because they were timed on different machines."
    if race.unlike:
        return told, f"None is called the cheapest, because they differ in {', '.join(race.unlike)}."
    if len(race.reaches) < 2:
        return (told,)
    return told, f"{race.cheapest} is the cheapest." if race.cheapest else "None is separably the cheapest."


def source(threshold: Threshold) -> str:
    """Where a threshold comes from."""
    if threshold.baseline is None:
        return "the threshold of SPEC.toml"
    where = " on its validation images" if threshold.validation else ""
    return f"what {threshold.baseline} scores{where} in the end (IQM)"


def method(family: Family, images: int | None = None, episodes: int | None = None) -> str:
    """How often what is claimed may be wrong; of a data set with so many test images, or after so many episodes."""
    counts = ((family.finals, "in the end"), (family.points, "on the way"), (family.shifts, "under shifts"))
    kinds = [f"{count:,} {name}" for count, name in counts if count]
    if not kinds:
        return f"Nothing is claimed with fewer than {SEEDS} seeds."
    known = "" if images is None else f" Those in the end count the error of {images:,} test images too."
    if episodes is not None and (family.finals or family.shifts):
        known = of_episodes(episodes)
    if episodes is not None and family.points:
        known += " Those on the way hold for the episodes of those evaluations."
    return (
        f"Claims of each kind have a chance of about {ERROR:.0%} to hold a false one, adjusted (Bonferroni) for the "
        f"number of comparisons in this task: {', '.join(kinds)}.{known} {INTERVALS}"
        f"{'' if images is None and episodes is None else ALONE}"
    )


def of_episodes(episodes: int) -> str:
    """How the episodes of the last evaluation count in what is claimed."""
    if episodes < 2:
        return " None is made of the last evaluation: its one episode does not say how much others would differ."
    return f" Those of the last evaluation count the error of its {episodes} episodes too, the same for all agents."


def method_of_all(environments: int, finals: int, algorithms: int = 1, episodes: int | None = None) -> str:
    """The same of claims over several environments together, each with so many algorithms."""
    each = "" if algorithms == 1 else f" with {algorithms} algorithms each"
    return (
        f"Over {environments} environments{each}, with so many seeds in each. Claims have a chance of about "
        f"{ERROR:.0%} to hold a false one, adjusted (Bonferroni) for the number of comparisons: {finals}."
        f"{'' if episodes is None else of_episodes(episodes)} {INTERVALS}{'' if episodes is None else ALONE}"
    )


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"
