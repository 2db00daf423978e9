"""Settings: the arms of one task and algorithm, each with the finished cells that may be pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stillsight.agents.benchmark.analysis.curves import Curve
from stillsight.agents.benchmark.analysis.stats import Array
from stillsight.agents.benchmark.grid.cell import CLEAN, Cell, Result, Track
from stillsight.agents.benchmark.grid.spec import Task
from stillsight.agents.features.live_units import LiveUnits

CLOCK, PROCESSOR = "seconds", "CPU seconds"
"""What the seconds of curves may be, in words."""


@dataclass(frozen=True)
class Arm:
    """The cells of one arm, one a seed, all made under equal conditions.

    Attributes:
        label: the arm's name.
        role: one of `ROLES`.
        cells: by seed.
        failed: seeds that ended without a result, as those do that diverge; they are in no score.
    """

    label: str
    role: str
    cells: tuple[Cell, ...]
    failed: int = 0

    @property
    def results(self) -> list[Result]:
        """What came out of the cells."""
        return [cell.result for cell in self.cells if cell.result is not None]

    def scores(self, shift: str = CLEAN) -> Array:
        """Mean return (of cifar the accuracy) `[seeds]` of the seeds that were evaluated under `shift`."""
        return np.array([np.mean(one.scores[shift]) for one in self.results if one.scores.get(shift)], float)

    def returns(self, shift: str = CLEAN) -> Array:
        """Return of each episode under `shift`, `[seeds, episodes]`, of those that all of its seeds played."""
        return _table([one.scores[shift] for one in self.results if one.scores.get(shift)])

    def success(self, shift: str = CLEAN) -> list[float]:
        """Share of the episodes that reached their goal, of the seeds whose environment says so."""
        return [one.success[shift] for one in self.results if one.success and shift in one.success]

    @property
    def warned(self) -> int:
        """Seeds whose agents, when they had learned all, hardly answered to what they were shown, see `LiveUnits`."""
        told = [
            LiveUnits(one.live_units, one.clipped_features, bool(one.one_action))
            for one in self.results
            if one.live_units is not None and one.clipped_features is not None
        ]
        return sum(one.warning() is not None for one in told)

    def pairs(self, shift: str) -> tuple[Array, Array]:
        """Clean and shifted scores `[seeds]` of the seeds that have both."""
        arm = self._evaluated_under(shift)
        return arm.scores(), arm.scores(shift)

    def lost(self, shift: str) -> Array:
        """Clean less shifted return of each episode, `[seeds, episodes]`, of the seeds that have both."""
        tables = [self._evaluated_under(shift).returns(name) for name in (CLEAN, shift)]
        episodes = min(table.shape[1] for table in tables)
        return tables[0][:, :episodes] - tables[1][:, :episodes]

    def _evaluated_under(self, shift: str) -> Arm:
        """The same arm, of the seeds that were evaluated under `shift`."""
        both = tuple(cell for cell in self.cells if cell.result is not None and cell.result.scores.get(shift))
        return replace(self, cells=both)

    @property
    def curves(self) -> list[Curve]:
        """The evaluations of each seed that has any."""
        return [one.curve for one in self.results if one.curve]

    @property
    def test_images(self) -> int | None:
        """Images of which its scores are the share that was classified rightly; None of an agent."""
        count = self.results[0].pins.get("test_images")
        return None if count is None else int(count)

    def cost(self, name: str) -> list[float]:
        """One cost, of each seed for which it is known."""
        return [float(cost) for one in self.results if (cost := one.cost.get(name)) is not None]


def _table(rows: Sequence[Sequence[float]]) -> Array:
    """Rows of the same episodes, as far as the shortest goes."""
    episodes = min(map(len, rows), default=0)
    return np.array([row[:episodes] for row in rows], float)


def timed(arms: Sequence[Arm]) -> tuple[tuple[Arm, ...], str]:
    """The arms with curves of one time: the processor's where all cells know it, which other work leaves as it is.

    Args:
        arms: of one setting; rows of their curves are steps, return, seconds and, where known, processor seconds.

    Returns:
        Arms with curves of three columns, and what the third one is, in words.
    """
    known = all(len(row) == 4 for arm in arms for curve in arm.curves for row in curve)
    at = 3 if known and any(arm.curves for arm in arms) else 2

    def cut(cell: Cell) -> Cell:
        if cell.result is None:
            return cell
        curve = tuple((*row[:2], row[at]) for row in cell.result.curve)
        return replace(cell, result=replace(cell.result, curve=curve))

    cut_arms = tuple(replace(arm, cells=tuple(map(cut, arm.cells))) for arm in arms)
    return cut_arms, PROCESSOR if at == 3 else CLOCK


@dataclass(frozen=True)
class Setting:
    """One task and algorithm with everything that was tried on it.

    Attributes:
        track: rl or cifar.
        task, algo: names.
        arms: in the order in which they are shown.
        references: "random" and "oracle", where they were measured -> mean, std, episodes.
        asked: the spec's task with its threshold and bounds, if there is a spec.
        seconds: what the curves' seconds are, see `timed`.
    """

    track: Track
    task: str
    algo: str
    arms: tuple[Arm, ...]
    references: Mapping[str, Mapping[str, float]]
    asked: Task | None = None
    seconds: str = CLOCK

    @property
    def title(self) -> str:
        """Task and algorithm, as headings name them."""
        return f"{self.task}, {self.algo}"

    @property
    def game(self) -> str:
        """The environment, which several tasks may show in their own ways, playing the same episodes; the task's name
        where no cell says it."""
        return next((str(one.pins["env"]) for arm in self.arms for one in arm.results if "env" in one.pins), self.task)

    @property
    def shifts(self) -> tuple[str, ...]:
        """Names of the visual shifts under which anything was evaluated."""
        names = {name for arm in self.arms for one in arm.results for name in one.scores}
        return tuple(sorted(names - {CLEAN}))

    @property
    def failed(self) -> dict[str, int]:
        """Arms of which seeds failed -> how many."""
        return {arm.label: arm.failed for arm in self.arms if arm.failed}

    @property
    def test_images(self) -> int | None:
        """Test images of the arm that has the fewest; None of an environment."""
        return min((count for arm in self.arms if (count := arm.test_images) is not None), default=None)

    @property
    def episodes(self) -> int | None:
        """Episodes that all agents played in the end; None of a data set."""
        counts = [len(one.scores[CLEAN]) for arm in self.arms for one in arm.results if one.scores.get(CLEAN)]
        return min(counts, default=None) if self.track == "rl" else None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Scores that count as 0 and 1: the spec's, else random play's and the oracle's; None if either is unknown."""
        low = self.asked.low if self.asked else None
        high = self.asked.high if self.asked else None
        low = self.references.get("random", {}).get("mean") if low is None else low
        high = self.references.get("oracle", {}).get("mean") if high is None else high
        return None if low is None or high is None or not low < high else (low, high)
