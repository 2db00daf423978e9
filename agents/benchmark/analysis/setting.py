"""What is compared with what: the arms of one task and algorithm, each with the cells that may be pooled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stillsight.agents.benchmark.analysis.curves import Curve, common, curve_interval
from stillsight.agents.benchmark.analysis.stats import Array, Band, iqm

if TYPE_CHECKING:
    from stillsight.agents.benchmark.grid.spec import Task

TUNED = ("finetune", "unfreeze", "warm-start")
"""Roles of pretrained encoders that learn on; what they gain is gained over frozen ones."""

ROLES = ("frozen", "random", "scratch", *TUNED)
"""What is done with an encoder, in the order in which arms are shown."""

Cell = Mapping[str, Any]
"""The content of cells/<key>.json."""


class Learning(NamedTuple):
    """A learning curve at its common evaluations, all `[points]`: steps, seconds of training until there (median over
    the seeds), and IQM of the returns with its interval."""

    steps: Array
    seconds: Array
    returns: Band


@dataclass(frozen=True)
class Arm:
    """The cells of one arm, one a seed, all made under equal conditions.

    Attributes:
        label: the arm's name.
        role: one of `ROLES`.
        cells: by seed.
    """

    label: str
    role: str
    cells: tuple[Cell, ...]

    def scores(self, shift: str = "clean") -> Array:
        """Mean return (of cifar the accuracy) `[seeds]` of the seeds that were evaluated under `shift`."""
        return np.array([np.mean(cell["scores"][shift]) for cell in self.cells if cell["scores"].get(shift)], float)

    def pairs(self, shift: str) -> tuple[Array, Array]:
        """Clean and shifted scores `[seeds]` of the seeds that have both."""
        both = Arm(self.label, self.role, tuple(cell for cell in self.cells if cell["scores"].get(shift)))
        return both.scores(), both.scores(shift)

    @property
    def curves(self) -> list[Curve]:
        """The evaluations of each seed that has any."""
        return [cell["curve"] for cell in self.cells if cell["curve"]]

    def learning(self) -> Learning | None:
        """The learning curve over the seeds; None where no step is common to those that have one."""
        steps, returns = common(self.curves)
        if not len(steps):
            return None
        _, seconds = common([[(row[0], row[2]) for row in curve] for curve in self.curves])
        return Learning(steps, np.asarray(np.median(seconds, axis=0), float), curve_interval(returns))

    def cost(self, name: str) -> list[float]:
        """One cost, of each seed for which it is known."""
        return [float(cell["cost"][name]) for cell in self.cells if cell["cost"].get(name) is not None]


@dataclass(frozen=True)
class Setting:
    """One task and algorithm with everything that was tried on it.

    Attributes:
        track: "rl" or "cifar".
        task, algo: names.
        arms: in the order in which they are shown.
        references: "random" and "oracle", where they were measured -> mean, std, episodes.
        asked: the spec's task with its threshold and bounds, if there is a spec.
    """

    track: str
    task: str
    algo: str
    arms: tuple[Arm, ...]
    references: Mapping[str, Mapping[str, float]]
    asked: Task | None = None

    @property
    def title(self) -> str:
        """Task and algorithm, as headings name them."""
        return f"{self.task}, {self.algo}"

    @property
    def shifts(self) -> tuple[str, ...]:
        """Names of the visual shifts under which anything was evaluated."""
        names = {name for arm in self.arms for cell in arm.cells for name in cell["scores"]}
        return tuple(sorted(names - {"clean"}))

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Scores that count as 0 and 1: the spec's, else random play's and the oracle's; None if either is unknown."""
        low = self.asked.low if self.asked else None
        high = self.asked.high if self.asked else None
        low = self.references.get("random", {}).get("mean") if low is None else low
        high = self.references.get("oracle", {}).get("mean") if high is None else high
        return None if low is None or high is None or not low < high else (low, high)

    @property
    def baseline(self) -> Arm | None:
        """The arm trained from scratch; of several the best, which flatters no other arm. None without one."""
        scratch = [arm for arm in self.arms if arm.role == "scratch"]
        return max(scratch, key=lambda arm: iqm(arm.scores()), default=None)

    @property
    def threshold(self) -> tuple[float, str] | None:
        """The score to whose first reach steps and seconds are told, and where it comes from: the spec, or what the
        baseline scores in the end."""
        if self.asked and self.asked.threshold is not None:
            return self.asked.threshold, "the threshold of SPEC.toml"
        if self.baseline is None:
            return None
        return iqm(self.baseline.scores()), f"what {self.baseline.label} scores in the end (IQM)"
