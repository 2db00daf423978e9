"""summary.json: every number of a report, for whoever wants to go on from it in a notebook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from stillsight.agents.benchmark.analysis import stats
from stillsight.agents.benchmark.analysis.aggregate import Aggregate
from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.analysis.setting import Arm, Setting
from stillsight.agents.benchmark.analysis.verdict import Verdict
from stillsight.agents.benchmark.report.tables import COSTS

DIGITS = 6
"""Significant digits of what is computed; the last ones differ from machine to machine."""


def summary(
    title: str, grid: Grid, together: Aggregate, whole: Verdict | None, verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """All that a report says, as JSON knows it; null stands for what is not known.

    Args:
        title: of the benchmark.
        grid: what counts and what does not.
        together: the normalised scores.
        whole: the verdict on them, if there is one.
        verdicts: one for each setting of the grid, in its order.
    """
    found = {
        "title": title,
        "settings": [_setting(one, verdict) for one, verdict in zip(grid.settings, verdicts, strict=True)],
        "normalised": {
            "settings": together.settings,
            "arms": {label: _interval(stats.interval(scores)) for label, scores in together.scores.items()},
            **({} if whole is None else _said(whole)),
        },
        "problems": [asdict(problem) for problem in grid.problems],
    }
    told: dict[str, Any] = rounded(found)
    return told


def _setting(setting: Setting, verdict: Verdict) -> dict[str, Any]:
    return {
        "track": setting.track,
        "task": setting.task,
        "algo": setting.algo,
        "references": setting.references,
        "threshold": None if setting.threshold is None else setting.threshold[0],
        "arms": {arm.label: _arm(arm, setting.shifts) for arm in setting.arms},
        **_said(verdict),
    }


def _said(verdict: Verdict) -> dict[str, Any]:
    return {
        "comparisons": [asdict(comparison) for comparison in verdict.comparisons],
        "answers": [answer._asdict() for answer in verdict.answers],
    }


def _arm(arm: Arm, shifts: Sequence[str]) -> dict[str, Any]:
    """The arm's seeds and their scores in the same order, with aggregates, curve and median costs."""
    seen = {name: arm.scores(name) for name in ("clean", *shifts)}
    learning = arm.learning()
    return {
        "role": arm.role,
        "seeds": [cell["seed"] for cell in arm.cells],
        "scores": {name: list(scores) for name, scores in seen.items()},
        "iqm": {name: _interval(stats.interval(scores)) for name, scores in seen.items() if len(scores)},
        "curve": None
        if learning is None
        else {
            "steps": list(learning.steps),
            "seconds": list(learning.seconds),
            "iqm": list(learning.returns.value),
            "low": list(learning.returns.low),
            "high": list(learning.returns.high),
        },
        "cost": {name: float(np.median(arm.cost(name))) for name in COSTS if arm.cost(name)},
        "pins": arm.cells[0]["pins"],
    }


def _interval(found: stats.Interval) -> dict[str, float]:
    return found._asdict()


def rounded(value: Any) -> Any:
    """`value` and what it holds with numbers of `DIGITS` digits, None for those that are not finite."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
