"""The parser of SPEC.toml: the tasks, encoders, controls and seeds of a benchmark, read and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from stillsight.agents.benchmark.grid.arms import arms, check_names
from stillsight.agents.benchmark.grid.cell import CONFIGS, PLACED, Track
from stillsight.agents.benchmark.grid.spec import Spec, Task, merged_flags
from stillsight.agents.errors import RunError
from stillsight.agents.training.seeds import TUNING
from stillsight.envs.registry import presumed
from stillsight.envs.shifts import find

TOP = ("name", "seeds", "algos", "shifts", "episodes", "controls", "rates", "tuning_seeds", "videos")
TABLES = ("rl", "cifar", "task", "encoder", "arm")
TASK = ("threshold", "low", "high", "label")
"""What SPEC.toml, and a [[task]] beside the flags of its track, may have."""


def read_spec(path: Path, *, check: bool = True) -> Spec:
    """The benchmark in a SPEC.toml.

    Args:
        path: of the file.
        check: that every cell could run here; a report needs neither the games nor the weights.

    Raises:
        RunError: no such file, no TOML, unknown names, nothing to run.
        EncoderError, EnvError: a cell that could not run.
    """
    try:
        text = path.read_text()
        return parse_spec(text, path.absolute().parent.name if path.stem == "SPEC" else path.stem, check=check)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}). Give the path of a SPEC.toml.") from error
    except tomllib.TOMLDecodeError as error:
        raise RunError(f"{path} is no TOML: {error}.") from error


def parse_spec(text: str, name: str = "benchmark", *, check: bool = True) -> Spec:
    """See `read_spec`; `name` is used where the text has none."""
    record = tomllib.loads(text)
    check_names("setting", record, (*TOP, *TABLES), "SPEC.toml may have", "SPEC.toml")
    seeds = record.get("seeds", 5)
    algos = tuple(record.get("algos", ("ppo",)))
    tasks = tuple(_task(row, record) for row in record.get("task", ()))
    if not tasks:
        raise RunError('SPEC.toml has no task. Add, say: [[task]] and below it env = "stillsight/Orchard-v0".')
    spec = Spec(
        name=record.get("name", name),
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        algos=algos,
        tasks=tasks,
        arms={
            (task.name, algo): arms(record, task.track, algo, _size(task))
            for task in tasks
            for algo in (algos if task.track == "rl" else ("",))
        },
        shifts=tuple(record.get("shifts", ())),
        episodes=record.get("episodes", 20),
        tuning_seeds=record.get("tuning_seeds", 2),
        videos=record.get("videos", 1),
        text=text,
    )
    if check:
        _check(spec)
    return spec


def _task(row: Mapping[str, Any], record: Mapping[str, Any]) -> Task:
    if ("env" in row) == ("dataset" in row):
        raise RunError("A [[task]] names either an env or a dataset; give one of them.")
    track: Track = "rl" if "env" in row else "cifar"
    flags = merged_flags(record.get(track, {}), {name: value for name, value in row.items() if name not in TASK})
    allowed = [item.name for item in fields(CONFIGS[track]) if item.name not in PLACED]
    where = f"[{track}] and [[task]]"
    check_names("setting", flags, allowed, f"{where} may have", where)
    if track == "rl":
        name = str(flags["env"])
    else:
        name = str(flags["dataset"])
        if "shots" in flags:
            name += f", {flags['shots']} images a class"
        if "fraction" in flags:
            name += f", {flags['fraction']:.0%} of the labels"
    bounds = {bound: row.get(bound) for bound in ("threshold", "low", "high")}
    return Task(str(row.get("label", name)), track, flags, **bounds)


def _size(task: Task) -> int | None:
    """Side of an environment's images in pixels, where it is known before it is built."""
    if task.track == "cifar":
        return None
    return int(task.flags.get("size", presumed(str(task.flags["env"])).options.size)) or None


def _check(spec: Spec) -> None:
    """Refuse what could not run, before anything does."""
    if not spec.seeds or len(set(spec.seeds)) != len(spec.seeds) or max(spec.seeds) >= TUNING:
        raise RunError(
            f"seeds = {list(spec.seeds)} must be different numbers below {TUNING}, or their count. Type, say: seeds = 5"
        )
    if len({task.name for task in spec.tasks}) != len(spec.tasks):
        raise RunError("Two tasks have the same name. Give one of them another: label = ...")
    if spec.episodes < 1:
        raise RunError(f"episodes = {spec.episodes} plays nothing. Type a number from 1.")
    for shift in spec.shifts:
        find(shift)
    for cell in spec.cells(lambda _: 0.0):
        if cell.seed == spec.seeds[0]:
            cell.planned_work().config.check()
