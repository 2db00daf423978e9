"""The tables of a report.

What a clock measured stands in the tables of cost alone: scores come out the same when cells are run again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from stillsight.agents.benchmark.analysis import curves, stats
from stillsight.agents.benchmark.analysis.collect import Grid, Kind
from stillsight.agents.benchmark.analysis.setting import Arm, Setting
from stillsight.agents.benchmark.report.table import NOTHING, Table, Value


def problems(grid: Grid) -> Table | None:
    """The cells that do not count, with what to type; None if every cell counts."""
    rows = [
        (Value(problem.kind), Value(problem.key), Value(problem.told[:300]))
        for problem in sorted(grid.problems, key=lambda problem: (KINDS.index(problem.kind), problem.key))
    ]
    kinds = [kind for kind in KINDS if grid.of(kind)]
    counted = ", ".join(f"{len(grid.of(kind))} {kind}" for kind in kinds)
    notes = (f"{counted}. None of them is in any number of this report.", *(ADVICE[kind] for kind in kinds))
    return Table("Cells that do not count", ("what", "cell", "why"), tuple(rows), notes) if rows else None


RETRY = "stillsight benchmark SPEC.toml --retry"
ADVICE: dict[Kind, str] = {
    "failed": f"Run failed cells again: {RETRY}",
    "damaged": f"Remove damaged files from cells/, then type: {RETRY}",
    "mismatched": f"Cells are pooled only if they were made alike. Remove those that differ from cells/, then: {RETRY}",
    "missing": "Run what is missing: stillsight benchmark SPEC.toml",
    "not asked for": "SPEC.toml was changed after these cells were run, or they belong to another benchmark.",
}
KINDS = tuple(ADVICE)


def scores(setting: Setting) -> Table:
    """Final scores and learning of each arm."""
    show = Numbers(setting)
    base, goal = setting.baseline, setting.threshold
    columns = ["arm", "role", "seeds", "IQM (95 % interval)", "mean ± std"]
    columns += [f"P(better than {base.label})"] if base else []
    columns += ["area under curve", *([f"{show.unit} to {show(goal[0])}", "reached"] if goal else [])]
    rows = [_scores(arm, setting, show) for arm in setting.arms]
    for name, reference in sorted(setting.references.items()):
        row = [Value(name), Value("reference"), Value(NOTHING), Value(NOTHING)]
        row.append(Value(f"{show(reference['mean'])} ± {show(reference.get('std', math.nan))}", reference["mean"]))
        rows.append((*row, *(Value(NOTHING) for _ in columns[len(row) :])))
    notes = [
        "IQM: mean of the middle half of the seeds, with a bootstrap interval. "
        "Area under curve: mean height of the learning curve, averaged over the seeds."
    ]
    if base:
        notes.append(f"P: how often a seed beats one of {base.label}, ties counted half, with a 95 % interval.")
    if goal:
        notes.append(f"{show(goal[0])} is {goal[1]}; {show.unit} are the median over the seeds, if most reach it.")
    return Table(f"{setting.title}: scores", tuple(columns), tuple(rows), tuple(notes))


def _scores(arm: Arm, setting: Setting, show: Numbers) -> tuple[Value, ...]:
    final, base, goal = arm.scores(), setting.baseline, setting.threshold
    row = [Value(arm.label), Value(arm.role), Value(str(len(final)), len(final)), show.interval(stats.interval(final))]
    spread = show(final.std(ddof=1)) if len(final) > 1 else NOTHING
    row.append(Value(f"{show(final.mean())} ± {spread}", float(final.mean())))
    if base:
        same = arm is base
        wins = stats.probability_of_improvement(final, base.scores())
        row.append(Value(NOTHING) if same else _bounds(wins, "{:.2f}".format))
    areas = [_area(curve) for curve in arm.curves if curve[0][0] < curve[-1][0]]
    area = sum(areas) / len(areas) if areas else math.nan
    row.append(Value(show(area), area) if areas else Value(NOTHING))
    if goal:
        found = curves.reach(arm.curves, goal[0]) if arm.curves else None
        steps = found.median_steps if found else None
        row.append(Value(NOTHING) if steps is None else Value(f"{steps:,.0f}", steps))
        row.append(Value(f"{found.reached} of {len(arm.curves)}", found.reached) if found else Value(NOTHING))
    return tuple(row)


def _area(curve: curves.Curve) -> float:
    steps, returns, _ = zip(*curve, strict=True)
    return curves.area_under_curve(steps, returns)


def shifts(setting: Setting) -> Table | None:
    """Scores under each visual shift and what is lost to it; None if nothing was evaluated under any."""
    show, names = Numbers(setting), setting.shifts
    rows = []
    for arm in setting.arms:
        row = [Value(arm.label), show.interval(stats.interval(arm.scores()))]
        for name in names:
            clean, shifted = arm.pairs(name)
            if not len(shifted):
                row += [Value(NOTHING), Value(NOTHING)]
                continue
            row += [Value(show(stats.iqm(shifted)), stats.iqm(shifted)), show.interval(stats.gap(clean, shifted))]
        rows.append(tuple(row))
    columns = ("arm", "clean", *(told for name in names for told in (name, f"lost to {name}")))
    notes = ("IQM over the seeds. Lost: clean less shifted score of each seed, its IQM and 95 % interval.",)
    return Table(f"{setting.title}: visual shifts", columns, tuple(rows), notes) if names else None


def tuning(grid: Grid) -> Table | None:
    """What the cells that choose an encoder's rate scored; None if no rate was chosen."""
    groups: dict[tuple[str, str, str, float], list[float]] = {}
    for cell in grid.tuning:
        place = (cell["task"], cell["algo"], cell["arm"], float(cell["tuned"]))
        groups.setdefault(place, []).append(float(np.mean(cell["scores"]["clean"])))
    rows = tuple(
        (
            Value(arm),
            Value(f"{task}, {algo}"),
            Value(f"{rate:g}", rate),
            Value(str(len(values)), len(values)),
            Value(f"{np.mean(values):.4g}", float(np.mean(values))),
        )
        for (task, algo, arm, rate), values in sorted(groups.items())
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


def cost(setting: Setting) -> Table:
    """What each arm took: the median over its seeds."""
    show, goal = Numbers(setting), setting.threshold
    known = {name: row for name, row in COSTS.items() if any(arm.cost(name) for arm in setting.arms)}
    timed = goal is not None and any(arm.curves for arm in setting.arms)
    columns = [
        "arm",
        *([f"seconds to {show(goal[0])}"] if goal and timed else []),
        *(told for told, _ in known.values()),
    ]
    rows = []
    for arm in setting.arms:
        row = [Value(arm.label)]
        if goal and timed:
            seconds = curves.reach(arm.curves, goal[0]).median_seconds if arm.curves else None
            row.append(Value(NOTHING) if seconds is None else Value(f"{seconds:,.0f}", seconds))
        for name, (_, written) in known.items():
            values = arm.cost(name)
            middle = float(np.median(values)) if values else math.nan
            row.append(Value(written(middle), middle) if values else Value(NOTHING))
        rows.append(tuple(row))
    machines = sorted({machine(cell["machine"]) for arm in setting.arms for cell in arm.cells})
    notes = ("Medians over the seeds; cells may have run side by side.", f"Measured on: {'; '.join(machines)}.")
    return Table(f"{setting.title}: cost", tuple(columns), tuple(rows), notes)


def machine(facts: Mapping[str, Any]) -> str:
    """Hardware of a cell on one line."""
    gpus = ", ".join(map(str, facts.get("gpus") or ())) or "no GPU"
    cpu = facts.get("cpu") or "a CPU without a name"
    threads = f"{facts.get('threads')} thread{'' if facts.get('threads') == 1 else 's'}"
    return f"{cpu}, {facts.get('cores')} cores, {threads}, {gpus}"


class Numbers:
    """Writes the scores of one setting with as many decimals as give its largest three digits."""

    def __init__(self, setting: Setting) -> None:
        known = [abs(float(score)) for arm in setting.arms for score in arm.scores()]
        known += [abs(reference["mean"]) for reference in setting.references.values()]
        largest = max(known, default=0.0)
        self.decimals = min(max(2 - math.floor(math.log10(largest)), 0), 4) if largest else 2
        self.unit = "epochs" if setting.track == "cifar" else "steps"

    def __call__(self, value: float) -> str:
        if math.isnan(value):
            return NOTHING
        return f"{round(float(value), self.decimals) + 0.0:,.{self.decimals}f}"  # + 0.0: no "-0.0"

    def interval(self, found: stats.Interval) -> Value:
        """A value and its bounds."""
        return _bounds(found, self)


def _bounds(found: stats.Interval, show: Callable[[float], str]) -> Value:
    bounds = "one seed" if math.isnan(found.low) else f"{show(found.low)} to {show(found.high)}"
    return Value(f"{show(found.value)} ({bounds})", found.value)
