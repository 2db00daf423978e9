"""Collection: a benchmark folder, read; which cells count, which do not, and why.

SPEC.toml         what was asked for       cells/<key>.json    one small result a cell
references.json   what random play and an oracle earn, where they were measured
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stillsight.agents.benchmark.analysis.setting import Arm, Setting, timed
from stillsight.agents.benchmark.grid.cell import ROLES, Cell
from stillsight.agents.benchmark.grid.spec import Spec, Task, learned_as_planned
from stillsight.agents.errors import RunError
from stillsight.agents.runs import schema
from stillsight.encoders.errors import printable

Kind = Literal["failed", "missing", "mismatched", "at another rate", "damaged", "not asked for"]

SHOWN = 24
"""Characters of a pin that are enough to tell two hashes apart."""


@dataclass(frozen=True)
class Problem:
    """A cell that does not count, and the reason, as an error's message."""

    kind: Kind
    key: str
    reason: str


@dataclass(frozen=True)
class Grid:
    """What a benchmark folder holds.

    Attributes:
        settings: what counts.
        problems: cells that do not count.
        spec: SPEC.toml as it stands; "" where there is none.
        asked: number of cells that the spec asks for to report them, None without one.
        tuning: finished cells that choose an encoder's rate; they are part of no score.
    """

    settings: tuple[Setting, ...]
    problems: tuple[Problem, ...] = ()
    spec: str = ""
    asked: int | None = None
    tuning: tuple[Cell, ...] = ()

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell that counts."""
        return tuple(cell for setting in self.settings for arm in setting.arms for cell in arm.cells)

    def arm_order(self, track: str) -> dict[str, int]:
        """Label of each arm of a track -> its place in lists and among colours, the same in all tasks."""
        arms = {arm.label: arm.role for setting in self.settings if setting.track == track for arm in setting.arms}
        return {label: place for place, label in enumerate(sorted(arms, key=lambda label: _order(label, arms[label])))}

    def problems_of(self, kind: Kind) -> tuple[Problem, ...]:
        """The problems of one kind."""
        return tuple(problem for problem in self.problems if problem.kind == kind)

    @property
    def complete(self) -> bool:
        """Whether every cell that was asked for counts."""
        return all(problem.kind == "not asked for" for problem in self.problems)


def collect(folder: Path, asked: Spec | None = None, tasks: Sequence[Task] = ()) -> Grid:
    """Read a benchmark folder.

    Args:
        folder: holds cells/*.json; SPEC.toml and references.json are read where they are.
        asked: what the cells were asked for by; None takes whatever there is for all, at the rates that it has.
        tasks: with their thresholds and bounds, where `asked` has none.

    Raises:
        RunError: there is no cell in `folder`, or references.json is damaged.
    """
    files = sorted((folder / "cells").glob("*.json"))
    if not files:
        raise RunError(f"{folder} has no cells/*.json to report on. Run: stillsight benchmark SPEC.toml")
    expected = None if asked is None else asked.expected()
    known = None if expected is None else set(expected)
    problems: list[Problem] = []
    ended: dict[str, Cell] = {}
    for path in files:
        if known is not None and path.stem not in known:
            problems.append(Problem("not asked for", path.stem, "SPEC.toml does not ask for it"))
            continue
        try:
            ended[path.stem] = Cell.parse(schema.read_bounded(path), path.stem)
        except RunError as error:
            problems.append(Problem("damaged", path.stem, _line(error)))
    planned = {} if asked is None else {cell.key: cell for cell in asked.cells_after(ended.get)}
    done: list[Cell] = []
    for key, cell in ended.items():
        if cell.error is not None:
            problems.append(Problem("failed", key, _line(cell.error)))
        elif key in planned and not learned_as_planned(cell, planned[key]):
            problems.append(Problem("at another rate", key, _rates(cell, planned[key])))
        else:
            done.append(cell)
    keys = {path.stem for path in files}
    problems += [Problem("missing", key, "it was not run yet") for key in expected or () if key not in keys]
    failed = [cell for cell in ended.values() if cell.state == "failed" and cell.tuned is None]
    pooled, mismatched = _pool([cell for cell in done if cell.tuned is None])
    tuning, strange = _pool([cell for cell in done if cell.tuned is not None])
    spec = folder / "SPEC.toml"
    named = {task.name: task for task in (tasks if asked is None else asked.tasks)}
    return Grid(
        _settings(pooled, failed, _references(folder / "references.json"), named),
        tuple(sorted([*problems, *mismatched, *strange], key=lambda problem: (problem.kind, problem.key))),
        schema.read_bounded(spec).decode(errors="replace") if spec.is_file() else "",
        None if asked is None else len(asked.reported()),
        tuple(tuning),
    )


def _rates(ended: Cell, planned: Cell) -> str:
    """At which rate a cell learned, and at which it should have."""
    mine = ended.result.pins["encoder_lr"] if ended.result is not None else None
    rate = planned.planned_work().config.encoder_lr
    why = "scored best of those that were tried" if planned.tuned is None else "is the one that it tries"
    return f"encoder_lr is {mine}, and {rate} {why}"


def _line(text: object) -> str:
    """An error on one line."""
    return printable(" ".join(str(text).split())) or "no reason was recorded"


def _pool(cells: Sequence[Cell]) -> tuple[list[Cell], list[Problem]]:
    """The cells that agree with most of their arm on everything that must be equal, one a seed; and the others.

    Of cells that tune an arm it is one a seed and rate.
    """
    kept, problems = [], []
    for group in _grouped(cells, "track", "task", "algo", "arm").values():
        texts = {cell.key: json.dumps(_pins(cell), sort_keys=True) for cell in group}
        # Of equally many the first counts, which is the lowest seed's: most_common keeps the order of insertion.
        most, count = Counter(texts.values()).most_common(1)[0]
        usual, seeds = json.loads(most), set()
        for cell in group:
            mine = json.loads(texts[cell.key])
            names = sorted(name for name in {*mine, *usual} if mine.get(name) != usual.get(name))
            if names:
                reason = "; ".join(_differ(name, mine.get(name), usual.get(name)) for name in names)
                reason += f" as in {count} of the {len(group)} cells of {cell.arm}"
                problems.append(Problem("mismatched", cell.key, reason))
            elif (cell.seed, cell.tuned) in seeds:
                problems.append(Problem("mismatched", cell.key, f"seed {cell.seed} of {cell.arm} is there already"))
            else:
                seeds.add((cell.seed, cell.tuned))
                kept.append(cell)
    return kept, problems


def _differ(name: str, mine: object, usual: object) -> str:
    here, there = repr(mine), repr(usual)
    if here[:SHOWN] != there[:SHOWN]:
        here, there = (text if len(text) <= SHOWN else f"{text[:SHOWN]}…" for text in (here, there))
    return f"{name} is {here}, not {there}"


def _pins(cell: Cell) -> dict[str, Any]:
    """What must be equal; of tuning cells all but the rate, in which they differ."""
    pins = {"role": cell.role, "budget": cell.budget, **(cell.result.pins if cell.result else {})}
    return {name: pin for name, pin in pins.items() if cell.tuned is None or name != "encoder_lr"}


def _settings(
    cells: Sequence[Cell],
    failed: Sequence[Cell],
    references: Mapping[str, Mapping[str, Any]],
    tasks: Mapping[str, Task],
) -> tuple[Setting, ...]:
    lost = _grouped(failed, "track", "task", "algo", "arm")
    settings = []
    for place, group in _grouped(cells, "track", "task", "algo").items():
        _, task, algo = place
        arms = [
            Arm(label, same[0].role, tuple(same), _without_a_result(lost.get((*place, label), []), same))
            for (label,), same in _grouped(group, "arm").items()
        ]
        arms.sort(key=lambda arm: _order(arm.label, arm.role))
        shown, seconds = timed(arms)
        reference, asked = _of_their_game(references.get(task, {}), group), tasks.get(task)
        settings.append(Setting(group[0].track, task, algo, shown, reference, asked, seconds))
    return tuple(sorted(settings, key=lambda setting: (setting.track != "rl", setting.task, setting.algo)))


def _of_their_game(players: Mapping[str, Mapping[str, Any]], cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """The players of a task that played a version of the environment that cells were run with, as far as both say it:
    they are measured anew where another one is installed, and cells are not."""
    versions = {cell.result.pins.get("env_version") for cell in cells if cell.result is not None} - {None}
    return {
        name: {key: number for key, number in player.items() if key != "options"}
        for name, player in players.items()
        if not versions or (player.get("options") or {}).get("env_version") in {None, *versions}
    }


def _without_a_result(failed: Sequence[Cell], done: Sequence[Cell]) -> int:
    """How many seeds of an arm failed and did not end well under another key."""
    return len({cell.seed for cell in failed} - {cell.seed for cell in done})


def _order(label: str, role: str) -> tuple[int, str]:
    return (ROLES.index(role) if role in ROLES else len(ROLES), label)


def _grouped(cells: Sequence[Cell], *names: str) -> dict[tuple[str, ...], list[Cell]]:
    """The cells that have the same `names`, by seed."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (*(getattr(cell, name) for name in names), cell.seed, cell.key)):
        groups.setdefault(tuple(getattr(cell, name) for name in names), []).append(cell)
    return groups


def _references(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    advice = "Remove it, or run the benchmark again."
    references: dict[str, dict[str, Any]] = schema.parse(schema.read_bounded(path), path, advice=advice)
    schema.convert(references, schema.References, path, advice)
    return references
