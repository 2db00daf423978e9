"""The specification of a benchmark: tasks, arms and seeds, and the cells that follow from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillsight.agents.benchmark.grid.arms import ArmSpec
from stillsight.agents.benchmark.grid.cell import CONFIGS, UNSAID, Cell, Track, Work, slug
from stillsight.agents.runs.records import revive
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.continuing.ancestor import ancestor_sha256
from stillsight.agents.training.seeds import TUNING

# Cells run side by side, one thread each, and a cell that is run again must give the same numbers: engines that are
# measured and workers that are tried would choose differently from time to time.
RL: dict[str, Any] = {"engine": "folded", "workers": "off", "threads": 1}
# Arms are compared on the same labels: a head that is fitted again learns from the validation images too, from which no
# encoder in training does.
CIFAR: dict[str, Any] = {"threads": 1, "refit": False}
DEFAULTS: dict[Track, dict[str, Any]] = {"rl": RL, "cifar": CIFAR}
SETTINGS = ("set", "env_set")
"""Flags that are lists of name=value, of which the last one of a name counts."""


@dataclass(frozen=True)
class Task:
    """What is learned: an environment, or a data set with so many labels.

    Attributes:
        name: of the environment or the data set, as tables show it.
        track: rl or cifar.
        flags: flags of `stillsight rl` or `stillsight cifar`.
        threshold: score to whose first reach steps and seconds are told.
        low, high: scores that count as 0 and 1 where tasks are averaged; by default random play and the oracle.
    """

    name: str
    track: Track
    flags: Mapping[str, Any]
    threshold: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Spec:
    """A whole benchmark, as SPEC.toml says it.

    Attributes:
        name: its title.
        seeds: of the cells that are reported.
        algos: of the environments; data sets have heads.
        tasks: what is learned.
        arms: what is compared, for each track.
        shifts: visual shifts under which trained agents play too.
        episodes: of the last evaluation, clean and under each shift.
        tuning_seeds: cells for each rate that an arm is tuned over.
        videos: episodes filmed with the agent of each arm's first seed.
        text: of SPEC.toml.
    """

    name: str
    seeds: tuple[int, ...]
    algos: tuple[str, ...]
    tasks: tuple[Task, ...]
    arms: Mapping[tuple[str, str], Sequence[ArmSpec]]
    shifts: tuple[str, ...] = ()
    episodes: int = 20
    tuning_seeds: int = 2
    videos: int = 1
    text: str = field(default="", repr=False)

    def cells(self, score: Callable[[str], float | None] = lambda _: None) -> list[Cell]:
        """Every cell that can be said by now, seed by seed, so that a benchmark that is stopped early is balanced.

        Args:
            score: of the finished cell with this key, None while there is none. Arms that are tuned come after the
                cells that tune them; the rate with the best mean is theirs.
        """
        cells = self.tuning_cells()
        for seed in self.seeds:
            for task, algo, arm in self._rows():
                rate = self.rate(task, algo, arm, score)
                if rate is not None:
                    cells.append(self._cell(task, algo, arm, seed, rate))
        return cells

    def tuning_cells(self) -> list[Cell]:
        """The cells that try rates, of each arm that has several."""
        return [
            cell
            for task, algo, arm in self._rows()
            if len(arm.rates) > 1
            for rate in arm.rates
            for cell in self._tuning(task, algo, arm, rate)
        ]

    def all_cells(self) -> list[Cell]:
        """Every cell, in the order of `cells`; one whose rate is tuned stands at the first that is tried.

        Its key is the same at each of them, and so is whatever else is known of it before the rate is chosen.
        """
        return self.cells(lambda _: 0.0)

    def first_cells(self) -> list[tuple[ArmSpec, Cell]]:
        """Each arm in each task with each algorithm, and its cell of the first seed, at the first of its rates."""
        seed = self.seeds[0]
        return [
            (arm, self._cell(task, algo, arm, seed, arm.rates[0] if arm.rates else 1.0))
            for task, algo, arm in self._rows()
        ]

    def cells_after(self, ended: Callable[[str], Cell | None]) -> list[Cell]:
        """Every cell that can be said by now, at the rates that the cells chose that ended.

        Args:
            ended: the cell with a key, done or failed; None while there is none. A tuning cell that learned at another
                rate than it is to try counts as none.
        """
        tuning = {cell.key: cell for cell in self.tuning_cells()}

        def score(key: str) -> float | None:
            cell = ended(key)
            return None if cell is None or not learned_as_planned(cell, tuning[key]) else cell.score

        return self.cells(score)

    def expected(self) -> list[str]:
        """The keys of all cells, run or not: those that are reported, and those that tune them."""
        return [cell.key for cell in self.all_cells()]

    def reported(self) -> list[str]:
        """The keys of all cells that are reported, run or not."""
        return [cell.key for cell in self.all_cells() if cell.tuned is None]

    def rate(self, task: Task, algo: str, arm: ArmSpec, score: Callable[[str], float | None]) -> float | None:
        """The encoder rate of an arm: its only one, or the best of those tuned over; None while that is not known."""
        if len(arm.rates) < 2:
            return arm.rates[0] if arm.rates else 1.0
        means: dict[float, float] = {}
        for rate in arm.rates:
            scores = [score(cell.key) for cell in self._tuning(task, algo, arm, rate)]
            known = [value for value in scores if value is not None]
            if len(known) < len(scores):
                return None
            means[rate] = sum(known) / len(known)
        return max(means, key=lambda rate: means[rate])

    def _tuning(self, task: Task, algo: str, arm: ArmSpec, rate: float) -> list[Cell]:
        """The cells that try one of an arm's rates."""
        seeds = range(TUNING, TUNING + self.tuning_seeds)
        return [self._cell(task, algo, arm, seed, rate, tuning=True) for seed in seeds]

    def _rows(self) -> list[tuple[Task, str, ArmSpec]]:
        return [
            (task, algo, arm)
            for task in self.tasks
            for algo in (self.algos if task.track == "rl" else ("",))
            for arm in self.arms[task.name, algo]
        ]

    def _cell(self, task: Task, algo: str, arm: ArmSpec, seed: int, rate: float, *, tuning: bool = False) -> Cell:
        flags = merged_flags(merged_flags(DEFAULTS[task.track], task.flags), arm.flags)
        given = {**flags, "rates": arm.rates, "shifts": self.shifts, "episodes": self.episodes}
        if "from_run" in flags:  # what a run begins with is part of what it is, and where it lies is not
            name = str(flags.get("from_checkpoint", RlConfig.from_checkpoint))
            given |= {"from_run": ancestor_sha256(Path(flags["from_run"]), name), "from_checkpoint": None}
        given = {name: value for name, value in given.items() if (name, value) not in UNSAID.items()}
        if task.track == "rl":
            flags["algo"] = algo
        else:
            algo = str(flags.get("head", "linear"))
        digest = hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()[:8]
        shown = f"{arm.name} rate {rate:g}" if tuning else arm.name
        if arm.rates:  # also where the rate is the flag's default: a shared table may have another
            flags["encoder_lr"] = rate
        config = revive(CONFIGS[task.track], {**flags, "seed": seed})
        return Cell(
            key="__".join(map(slug, (task.name, algo, shown, f"seed{seed}"))) + f"__{digest}",
            track=task.track,
            task=task.name,
            algo=algo,
            arm=arm.name,
            role=arm.role,
            seed=seed,
            tuned=rate if tuning else None,
            budget=config.steps if isinstance(config, RlConfig) else config.epochs,
            work=Work(config, self.shifts, self.episodes, self.videos if seed == self.seeds[0] else 0),
        )


def learned_as_planned(ended: Cell, planned: Cell) -> bool:
    """Whether a cell's encoder learned at the rate that the cell is planned with; true where its record does not say.

    A key is known before the rate of its arm is chosen, and does not hold it: when cells that tune it are run again, or
    more of them, another rate may turn out to be the best.
    """
    rate = None if ended.result is None else ended.result.pins.get("encoder_lr")
    return rate is None or rate == planned.planned_work().config.encoder_lr


def merged_flags(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of `below` with those of `above` in their place; lists of settings are added to those below."""
    added = {name: [*below[name], *above[name]] for name in SETTINGS if name in below and name in above}
    return {**below, **above, **added}
