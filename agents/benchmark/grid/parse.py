"""The parser of SPEC.toml: the tasks, encoders, controls and seeds of a benchmark, read and checked."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillsight.agents.benchmark.grid.arms import arms
from stillsight.agents.benchmark.grid.cell import CONFIGS, Track, slug
from stillsight.agents.benchmark.grid.effects import check_effects
from stillsight.agents.benchmark.grid.keys import TASK, check_keys
from stillsight.agents.benchmark.grid.spec import Spec, Task, merged_flags
from stillsight.agents.errors import RunError
from stillsight.agents.runs.trust import NAMES, NOTHING, Trust, values_of
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.seeds import TUNING
from stillsight.encoders.errors import DamagedFileError
from stillsight.encoders.system.plain_file import NotPlainError, read_plain
from stillsight.envs.registry import check_shift, guessed_from_name
from stillsight.envs.shifts.terms import terms

LARGEST = 2**20
"""Bytes that a SPEC.toml may have."""


def read_spec(path: Path, *, check: bool = True, trust: Trust = NOTHING) -> Spec:
    """The benchmark in a SPEC.toml.

    Args:
        path: of the file.
        check: that every cell could run here; a report needs neither the games nor the weights.
        trust: what the file may ask for beside what stillsight knows of itself.

    Raises:
        RunError: no such file, no TOML, unknown names, nothing to run, or it asks for what nobody allowed.
        EncoderError, EnvError: a cell that could not run.
    """
    try:
        text = read_plain(path, LARGEST).decode().replace("\r\n", "\n")
        name = path.absolute().parent.name if path.stem == "SPEC" else path.stem
        return parse_spec(text, name, check=check, trust=trust, source=str(path))
    except DamagedFileError:
        raise RunError(f"{path} has more than {LARGEST:,} bytes, and no SPEC.toml needs so many.") from None
    except (NotPlainError, OSError) as error:
        reason = error.reason if isinstance(error, NotPlainError) else error.strerror
        raise RunError(f"{path} cannot be read ({reason}). Give the path of a SPEC.toml.") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is no TOML: it is not written in UTF-8. Give the path of a SPEC.toml.") from error


def parse_spec(
    text: str, name: str = "benchmark", *, check: bool = True, trust: Trust = NOTHING, source: str = "SPEC.toml"
) -> Spec:
    """See `read_spec`; `name` is used where the text has none, and `source` says where it is from."""
    try:
        record = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a date that there is not, a number of thousands of digits
        raise RunError(f"{source} is no TOML: {error}.") from error
    check_keys(record)
    record = _fields(record)
    _check_trust(record, trust, source)
    seeds = _seeds(record.get("seeds", 5))
    algos = tuple(record.get("algos", ("ppo",)))
    tasks = tuple(_task(row, record) for row in record.get("task", ()))
    if not tasks:
        raise RunError('SPEC.toml has no task. Add, say: [[task]] and below it env = "stillsight/Orchard-v0".')
    spec = Spec(
        name=record.get("name", name),
        seeds=seeds,
        algos=algos,
        tasks=tasks,
        arms={
            (task.name, algo): arms(record, task.track, algo, _size(task))
            for task in tasks
            for algo in (algos if task.track == "rl" else ("",))
        },
        shifts=tuple(record.get("shifts", ())),
        episodes=record.get("episodes", 20),
        tuning_seeds=_tuning_seeds(record.get("tuning_seeds", 2)),
        videos=record.get("videos", 1),
        text=text,
    )
    if check:
        _check_values(spec)
        check_effects(record, spec)
        _check_cells(spec, trust, source)
    return spec


def _check_trust(record: Mapping[str, Any], trust: Trust, source: str) -> None:
    """Refuse names by which code would be found, and that nobody allowed, before one of them is looked up."""
    tables = [table for name in ("task", "encoder", "arm") for table in record.get(name, ())]
    algos = [{"algo": algo} for algo in record.get("algos", ())]
    trust.check_all([record.get("rl", {}), record.get("cifar", {}), *tables, *algos], source, NAMES)


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """`record` with the names of fields in its tables where a flag is typed otherwise: `from` is `from_run`."""
    words = {word: name for config in CONFIGS.values() for name, word in config.WORDS.items()}

    def renamed(table: Any) -> Any:
        if isinstance(table, list):
            return [renamed(row) for row in table]
        return {words.get(name, name): value for name, value in table.items()} if isinstance(table, dict) else table

    return {name: renamed(value) for name, value in record.items()}


def _seeds(given: int | list[int]) -> tuple[int, ...]:
    """The seeds, from their number or themselves."""
    many = [given] if isinstance(given, int) else given
    fewest = 1 if isinstance(given, int) else 0
    highest = TUNING if isinstance(given, int) else TUNING - 1
    if not many or min(many) < fewest or max(many) > highest or len(set(many)) != len(many):
        raise RunError(
            f"seeds = {given if len(str(given)) < 60 else '[...]'} must be different numbers below {TUNING}, or their "
            "count. Type, say: seeds = 5"
        )
    return tuple(range(given)) if isinstance(given, int) else tuple(given)


def _tuning_seeds(given: int) -> int:
    """How many seeds try a rate; a report counts their cells too."""
    if not 0 < given <= TUNING:
        raise RunError(f"tuning_seeds = {given} must be a number from 1 to {TUNING}. Type, say: tuning_seeds = 2")
    return given


def _task(row: Mapping[str, Any], record: Mapping[str, Any]) -> Task:
    track: Track = "rl" if "env" in row else "cifar"
    flags = merged_flags(record.get(track, {}), {name: value for name, value in row.items() if name not in TASK})
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
    env = str(task.flags["env"])
    usual = guessed_from_name(env).spec(env.rpartition(":")[2]).options.size  # the same for whoever reads the spec
    return int(task.flags.get("size", usual)) or None


def _check_values(spec: Spec) -> None:
    """Refuse numbers and names out of their range."""
    if not slug(spec.name):
        raise RunError(f'name = "{spec.name}" names no folder. Type, say: name = "taps"')
    for name, values in (("algos", spec.algos), ("shifts", spec.shifts)):
        if len(set(values)) != len(values) or (name == "algos" and not values):
            example = "ppo" if name == "algos" else "noise"
            raise RunError(f'{name} = {list(values)} must be different names. Type, say: {name} = ["{example}"]')
    if len({task.name for task in spec.tasks}) != len(spec.tasks):
        raise RunError("Two tasks have the same name. Give one of them another: label = ...")
    if spec.episodes < 1:
        raise RunError(f"episodes = {spec.episodes} plays nothing. Type a number from 1.")
    if spec.videos < 0:
        raise RunError(f"videos = {spec.videos} is no number of episodes. Type a number from 0.")
    for task in spec.tasks:
        if task.low is not None and task.high is not None and not task.low < task.high:
            raise RunError(
                f"{task.name} has low = {task.low:g} and high = {task.high:g}, which orders nothing. Type a high score "
                "above the low one."
            )
    for arm in {id(arm): arm for compared in spec.arms.values() for arm in compared}.values():
        if len(set(arm.rates)) != len(arm.rates) or any(rate <= 0 for rate in arm.rates):
            raise RunError(
                f"rates = {list(arm.rates)} of {arm.name} must be different numbers above 0. Type, say: "
                "rates = [0.1, 1.0]"
            )
    for shift in spec.shifts:
        terms(shift)


def _check_cells(spec: Spec, trust: Trust, source: str) -> None:
    """Refuse what could not run, or nobody allowed, before anything does."""
    cells = spec.all_cells()
    ((key, count),) = Counter(cell.key for cell in cells).most_common(1)
    if count > 1:
        raise RunError(f"Two cells have the name {key}. Give one of their tasks or arms another label or name.")
    configs = [cell.planned_work().config for cell in cells if cell.seed == spec.seeds[0]]
    trust.check_all([*map(values_of, configs), *({"shift": shift} for shift in spec.shifts)], source)
    for config in configs:
        config.check()
        if isinstance(config, RlConfig):
            for shift in spec.shifts:
                check_shift(config.env, shift)
