"""All tasks together: scores between random play (0) and the goal (1), where both are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stillsight.agents.benchmark.analysis import stats
from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.analysis.stats import Array, Band
from stillsight.agents.benchmark.report.table import Table, Value

TITLE = "All environments, normalised"


@dataclass(frozen=True)
class Aggregate:
    """Normalised scores of the arms that were tried in every environment whose bounds are known.

    Attributes:
        settings: titles of those environments and algorithms.
        scores: arm -> setting -> normalised score of each seed.
        left_out: titles of the environments whose bounds are not known.
    """

    settings: tuple[str, ...]
    scores: Mapping[str, Mapping[str, Array]]
    left_out: tuple[str, ...]

    def profile(self, label: str) -> tuple[Array, Band]:
        """Normalised scores `[101]`, and the share of an arm's runs that score more."""
        top = max(1.0, *(float(task.max()) for tasks in self.scores.values() for task in tasks.values()))
        marks = np.linspace(0.0, top, 101)
        return marks, stats.performance_profile(self.scores[label], marks)


def aggregate(grid: Grid) -> Aggregate:
    """The scores of all agents, normalised. Accuracies are no returns and stay apart."""
    agents = [setting for setting in grid.settings if setting.track == "rl"]
    bounded = [(setting, setting.bounds) for setting in agents if setting.bounds]
    scores: dict[str, dict[str, Array]] = {}
    for label in grid.order("rl"):
        found = {
            setting.title: stats.normalise(arm.scores(), *bounds)
            for setting, bounds in bounded
            if bounds
            for arm in setting.arms
            if arm.label == label
        }
        if found and len(found) == len(bounded):
            scores[label] = found
    left_out = tuple(setting.title for setting in agents if not setting.bounds)
    return Aggregate(tuple(setting.title for setting, _ in bounded), scores, left_out)


def table(found: Aggregate) -> Table:
    """Aggregates over all tasks; without any, a sentence that says what is missing."""
    notes = []
    rows = []
    for label, scores in found.scores.items():
        runs = sum(map(len, scores.values()))
        middle = stats.interval(scores)
        others = [stats.interval(scores, name) for name in ("mean", "median", "optimality gap")]
        cells = [Value(label), Value(str(runs), runs)]
        for value in (middle, *others):
            bounds = "one seed" if np.isnan(value.low) else f"{value.low:.2f} to {value.high:.2f}"
            cells.append(Value(f"{value.value:.2f} ({bounds})", value.value))
        rows.append(tuple(cells))
    if rows:
        notes.append(
            f"Over {len(found.settings)}: {'; '.join(found.settings)}. 0 is random play and 1 an oracle, or "
            "what SPEC.toml says; intervals are 95 %. Optimality gap: what a run lacks to 1 on average: less is better."
        )
    if found.left_out:
        notes.append(
            f"Not in it, because random play or a goal is not known: {'; '.join(found.left_out)}. "
            "Give the [[task]] a low = and a high =."
        )
    if found.settings and not rows:
        notes.append(f"No arm was tried in all of them: {'; '.join(found.settings)}.")
    columns = ("arm", "runs", "IQM", "mean", "median", "optimality gap")
    return Table(TITLE, columns, tuple(rows), tuple(notes))
