"""summary.json: every number of a report, for whoever wants to go on from it in a notebook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stillsight.agents.benchmark.analysis.analysis import Analysis
from stillsight.agents.benchmark.analysis.estimates import ArmEstimates, Estimates
from stillsight.agents.benchmark.analysis.verdict import Verdict
from stillsight.agents.benchmark.grid.cell import CLEAN
from stillsight.agents.benchmark.report.statement import Statement
from stillsight.agents.benchmark.report.tables import COSTS

DIGITS = 6
"""Significant digits of what is computed; the last ones differ from machine to machine."""


def summary(
    title: str, analysis: Analysis, together: Statement | None, statements: Sequence[Statement]
) -> dict[str, Any]:
    """All that a report says, as JSON knows it; null stands for what is not known.

    Args:
        title: of the benchmark.
        analysis: its numbers.
        together: what is said of all environments together, if anything.
        statements: what is said of each setting, in the analysis' order.
    """
    aggregate, overall = analysis.together, analysis.overall
    content = {
        "title": title,
        "settings": [
            _setting(estimates, verdict, statement)
            for (estimates, verdict), statement in zip(analysis.settings, statements, strict=True)
        ],
        "normalised": {
            "settings": aggregate.settings,
            "arms": {label: arm.iqm._asdict() for label, arm in aggregate.arms.items()},
            **({} if overall is None or together is None else _verdict(overall, together)),
        },
        "problems": [
            {"kind": problem.kind, "key": problem.key, "told": problem.reason} for problem in analysis.grid.problems
        ],
    }
    rounded_content: dict[str, Any] = rounded(content)
    return rounded_content


def _setting(estimates: Estimates, verdict: Verdict, statement: Statement) -> dict[str, Any]:
    setting, threshold = estimates.setting, estimates.threshold
    return {
        "track": setting.track,
        "task": setting.task,
        "algo": setting.algo,
        "references": setting.references,
        "threshold": None if threshold is None else threshold.score,
        "arms": {one.arm.label: _arm(one, (CLEAN, *setting.shifts)) for one in estimates.arms},
        **_verdict(verdict, statement),
    }


def _verdict(verdict: Verdict, statement: Statement) -> dict[str, Any]:
    return {
        "comparisons": [asdict(comparison) for comparison in verdict.comparisons],
        "uncontrolled": [asdict(arm) for alone in verdict.uncontrolled.values() for arm in alone],
        "answers": [answer._asdict() for answer in statement.answers],
    }


def _arm(one: ArmEstimates, names: Sequence[str]) -> dict[str, Any]:
    """The arm's seeds and their scores in the same order, with aggregates, curve and median costs."""
    learning, success = one.learning, {name: one.arm.success(name) for name in names}
    return {
        "role": one.arm.role,
        "seeds": [cell.seed for cell in one.arm.cells],
        "scores": {name: list(one.arm.scores(name)) for name in names},
        **({"success": success} if any(success.values()) else {}),
        "iqm": {name: interval._asdict() for name, interval in one.intervals.items()},
        "curve": None
        if learning is None
        else {
            "steps": list(learning.steps),
            "seconds": list(learning.seconds),
            "iqm": list(learning.returns.value),
            "low": list(learning.returns.low),
            "high": list(learning.returns.high),
        },
        "cost": {name: one.costs[name] for name in COSTS if name in one.costs},
        "pins": one.arm.results[0].pins,
    }


def rounded(value: Any) -> Any:
    """`value` and what it holds with numbers of `DIGITS` digits, None for those that are not finite."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
