"""Numbers in words: scores with as many digits as their task needs, values with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

from stillsight.agents.benchmark.analysis.setting import Setting
from stillsight.agents.benchmark.analysis.stats import Interval

NOTHING = "–"
"""What stands for a number that is not known."""


class Numbers:
    """Writes the scores of one setting with as many decimals as give its largest three digits.

    Args:
        setting: whose scores, and references, they are.
    """

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


def with_bounds(estimate: Interval, show: Callable[[float], str]) -> str:
    """A value and its bounds in brackets, each written by `show`."""
    bounds = "one seed" if math.isnan(estimate.low) else f"{show(estimate.low)} to {show(estimate.high)}"
    return f"{show(estimate.value)} ({bounds})"
