"""The tables of a report.

What a clock measured stands in the tables of cost alone: scores come out the same when cells are run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stillsight.agents.benchmark.analysis.aggregate import Aggregate
from stillsight.agents.benchmark.analysis.analysis import TriedRate
from stillsight.agents.benchmark.analysis.collect import Grid, Kind
from stillsight.agents.benchmark.analysis.estimates import ArmEstimates, Estimates
from stillsight.agents.benchmark.analysis.stats import Interval
from stillsight.agents.benchmark.analysis.verdict import Verdict
from stillsight.agents.benchmark.grid.cell import CLEAN
from stillsight.agents.benchmark.report.numbers import NOTHING, Numbers, with_bounds
from stillsight.agents.benchmark.report.sentences import source
from stillsight.agents.benchmark.report.statement import ALL
from stillsight.agents.benchmark.report.table import Table, Value

UNKNOWN = Value(NOTHING)

RETRY = "stillsight benchmark SPEC.toml --retry"
ADVICE: dict[Kind, str] = {
    "failed": f"Run failed cells again: {RETRY}",
    "damaged": f"Remove damaged files from cells/, then type: {RETRY}",
    "mismatched": f"Cells are pooled only if they were made alike. Remove those that differ from cells/, then: {RETRY}",
    "at another rate": "Another rate of the encoder is the best by now. Run these cells anew at theirs: "
    "stillsight benchmark SPEC.toml",
    "missing": "Run what is missing: stillsight benchmark SPEC.toml",
    "not asked for": "SPEC.toml was changed after these cells were run, or they belong to another benchmark.",
}
KINDS = tuple(ADVICE)


def problems(grid: Grid) -> Table | None:
    """The cells that do not count, with what to type; None if every cell counts."""
    rows = [
        (Value(problem.kind), Value(problem.key), Value(problem.reason[:300]))
        for problem in sorted(grid.problems, key=lambda problem: (KINDS.index(problem.kind), problem.key))
    ]
    kinds = [kind for kind in KINDS if grid.problems_of(kind)]
    counted = ", ".join(f"{len(grid.problems_of(kind))} {kind}" for kind in kinds)
    notes = (f"{counted}. None of them is in any number of this report.", *(ADVICE[kind] for kind in kinds))
    return Table("Cells that do not count", ("what", "cell", "why"), tuple(rows), notes) if rows else None


def scores(estimates: Estimates) -> Table:
    """Final scores and learning of each arm."""
    setting, base, goal = estimates.setting, estimates.baseline, estimates.threshold
    show = Numbers(setting)
    columns = ["arm", "role", "seeds", "IQM (95 % interval)", "mean ± std"]
    told = any(one.arm.success(CLEAN) for one in estimates.arms)
    columns += ["successful"] if told else []
    columns += [f"P(better than {base.label})"] if base else []
    columns += ["area under curve", *([f"{show.unit} to {show(goal.score)}", "reached"] if goal else [])]
    rows = [_scores(one, estimates, show, told=told) for one in estimates.arms]
    for name, reference in sorted(setting.references.items()):
        row = [Value(name), Value("reference"), UNKNOWN, UNKNOWN]
        row.append(Value(f"{show(reference['mean'])} ± {show(reference.get('std', float('nan')))}", reference["mean"]))
        row += [_share(reference["success_rate"])] if told and "success_rate" in reference else []
        rows.append((*row, *(UNKNOWN for _ in columns[len(row) :])))
    notes = [
        "IQM: mean of the middle half of the seeds, with a bootstrap interval. "
        "Area under curve: mean height of the learning curve, averaged over the seeds."
    ]
    if told:
        notes.append("Successful: share of the last episodes that reached their goal, averaged over the seeds.")
    if base:
        notes.append(f"P: how often a seed beats one of {base.label}, ties counted half, with a 95 % interval.")
    if goal:
        notes.append(
            f"{show(goal.score)} is {source(goal)}; {show.unit} are the median over the seeds, if most reach it."
        )
    notes += [
        f"What was shown hardly mattered to {one.arm.warned} of the {len(one.arm.cells)} agents of {one.arm.label}: "
        "they took one action throughout, next to no unit of their heads changed, or many features lay beyond the "
        "clip. Their scores say little of the encoder."
        for one in estimates.arms
        if one.arm.warned
    ]
    return Table(f"{setting.title}: scores", tuple(columns), tuple(rows), tuple(notes))


def _scores(one: ArmEstimates, estimates: Estimates, show: Numbers, *, told: bool) -> tuple[Value, ...]:
    seeds, reach = len(one.arm.cells), one.reach
    counted = Value(f"{seeds}, {one.arm.failed} failed" if one.arm.failed else str(seeds), seeds)
    row = [Value(one.arm.label), Value(one.arm.role), counted, _value(one.intervals[CLEAN], show)]
    row.append(Value(f"{show(one.mean)} ± {show(one.std)}", one.mean))
    if told:
        shares = one.arm.success(CLEAN)
        row.append(_share(sum(shares) / len(shares)) if shares else UNKNOWN)
    if estimates.baseline:
        row.append(UNKNOWN if one.improvement is None else _value(one.improvement, "{:.2f}".format))
    row.append(UNKNOWN if one.area is None else Value(show(one.area), one.area))
    if estimates.threshold:
        steps = reach.median_steps if reach else None
        row.append(UNKNOWN if steps is None else Value(f"{steps:,.0f}", steps))
        row.append(Value(f"{reach.reached} of {len(reach.steps)}", reach.reached) if reach else UNKNOWN)
    return tuple(row)


def shifts(estimates: Estimates, verdict: Verdict) -> Table | None:
    """Scores under each visual shift and what is lost to it; None if nothing was evaluated under any."""
    show, names = Numbers(estimates.setting), estimates.setting.shifts
    losses = {(arm.arm, one.shift): one.loss for arm in verdict.robustness for one in arm.losses}
    rows = []
    for one in estimates.arms:
        row = [Value(one.arm.label), _value(one.intervals[CLEAN], show)]
        for name in names:
            loss = losses.get((one.arm.label, name))
            if loss is None:
                row += [UNKNOWN, UNKNOWN]
                continue
            shifted = one.intervals[name].value
            row += [Value(show(shifted), shifted), _value(loss, show)]
        rows.append(tuple(row))
    columns = ("arm", "clean", *(column for name in names for column in (name, f"lost to {name}")))
    notes = ("IQM over the seeds. Lost: clean less shifted score of each seed, its IQM and 95 % interval.",)
    return Table(f"{estimates.setting.title}: visual shifts", columns, tuple(rows), notes) if names else None


def together(aggregate: Aggregate) -> Table:
    """Aggregates over all tasks; without any, a sentence that says what is missing."""
    notes = []
    rows = []
    for label, arm in aggregate.arms.items():
        estimates = (arm.iqm, arm.mean, arm.median, arm.optimality_gap)
        values = (_value(estimate, "{:.2f}".format) for estimate in estimates)
        rows.append((Value(label), Value(str(arm.runs), arm.runs), *values))
    if rows:
        notes.append(
            f"Over {len(aggregate.settings)}: {'; '.join(aggregate.settings)}. 0 is random play and 1 an oracle, or "
            "what SPEC.toml says; intervals are 95 %. Optimality gap: what a run lacks to 1 on average: less is better."
        )
    if aggregate.left_out:
        notes.append(
            f"Not in it, because random play or a goal is not known: {'; '.join(aggregate.left_out)}. "
            "Give the [[task]] a low = and a high =."
        )
    if aggregate.uneven:
        notes.append(
            f"Not in it, because not every environment has the algorithm, and each weighs alike: "
            f"{'; '.join(aggregate.uneven)}."
        )
    if aggregate.settings and not rows:
        notes.append(f"No arm was tried in all of them: {'; '.join(aggregate.settings)}.")
    columns = ("arm", "runs", "IQM", "mean", "median", "optimality gap")
    return Table(ALL, columns, tuple(rows), tuple(notes))


def rates(tried: Sequence[TriedRate]) -> Table | None:
    """What the cells that choose an encoder's rate scored; None if no rate was chosen."""
    rows = tuple(
        (
            Value(one.arm),
            Value(f"{one.task}, {one.algo}"),
            Value(f"{one.rate:g}", one.rate),
            Value(str(one.seeds), one.seeds),
            Value(f"{one.mean:.4g}", one.mean),
        )
        for one in tried
    )
    notes = ("Seeds of their own chose the rate that each arm learns with; none of them is in any number above.",)
    columns = ("arm", "task", "encoder rate", "seeds", "mean")
    return Table("Rates that were tried", columns, rows, notes) if rows else None


COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "wall_seconds": ("seconds of training", "{:,.0f}".format),
    "cpu_seconds": ("CPU seconds, evaluations included", "{:,.0f}".format),
    "env_steps_per_s": ("env steps/s", "{:,.0f}".format),
    "images_per_step": ("images encoded per step", "{:.2f}".format),
    "trainable_parameters": ("parameters that learn", "{:,.0f}".format),
    "peak_memory_bytes": ("peak memory, MB", lambda value: f"{value / 1e6:,.0f}"),
    "energy_joules": ("energy, kJ", lambda value: f"{value / 1e3:,.1f}"),
}
"""Name in a cell -> heading and how it is written."""


def cost(estimates: Estimates) -> Table:
    """What each arm took: the median over its seeds."""
    setting, goal = estimates.setting, estimates.threshold
    show = Numbers(setting)
    known = {name: row for name, row in COSTS.items() if any(name in one.costs for one in estimates.arms)}
    timed = any(one.reach for one in estimates.arms)
    columns = [
        "arm",
        *([f"{setting.seconds} to {show(goal.score)}"] if goal and timed else []),
        *(heading for heading, _ in known.values()),
    ]
    rows = []
    for one in estimates.arms:
        row = [Value(one.arm.label)]
        if goal and timed:
            seconds = one.reach.median_seconds if one.reach else None
            row.append(UNKNOWN if seconds is None else Value(f"{seconds:,.0f}", seconds))
        for name, (_, written) in known.items():
            row.append(Value(written(one.costs[name]), one.costs[name]) if name in one.costs else UNKNOWN)
        rows.append(tuple(row))
    machines = sorted({machine(result.machine) for one in estimates.arms for result in one.arm.results})
    notes = ("Medians over the seeds; cells may have run side by side.", *_encoders(estimates))
    measured = f"Measured on: {'; '.join(machines)}."
    return Table(f"{setting.title}: cost", tuple(columns), tuple(rows), (*notes, measured))


def _encoders(estimates: Estimates) -> tuple[str, ...]:
    """How many cells of each arm encoded all their images themselves, where some found features at hand."""
    spared = [(one.arm, sum(count > 0 for count in one.arm.cost("images_at_hand"))) for one in estimates.arms]
    told = [f"{len(arm.cells) - few} of {len(arm.cells)} of {arm.label}" for arm, few in spared if few]
    if not told:
        return ()
    alone = "Seconds, CPU seconds and energy are those of the cells that encoded all their images themselves"
    return (f"{alone}: {', '.join(told)}. The others found features that an earlier cell had kept.",)


def machine(facts: Mapping[str, Any]) -> str:
    """Hardware of a cell on one line."""
    gpus = ", ".join(map(str, facts.get("gpus") or ())) or "no GPU"
    cpu = facts.get("cpu") or "a CPU without a name"
    threads = f"{facts.get('threads')} thread{'' if facts.get('threads') == 1 else 's'}"
    return f"{cpu}, {facts.get('cores')} cores, {threads}, {gpus}"


def _share(share: float) -> Value:
    return Value(f"{share:.0%}", share)


def _value(estimate: Interval, show: Callable[[float], str]) -> Value:
    """A value and its bounds."""
    return Value(with_bounds(estimate, show), estimate.value)
