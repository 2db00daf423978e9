"""Effects of the keys of SPEC.toml: each one reaches a cell, or is refused before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from stillsight.agents.benchmark.grid.arms import ArmSpec
from stillsight.agents.benchmark.grid.cell import FINETUNED, Cell
from stillsight.agents.benchmark.grid.keys import ARM_KEYS, ENCODER_KEYS, TASK
from stillsight.agents.benchmark.grid.spec import SETTINGS, Spec, Task
from stillsight.agents.errors import RunError
from stillsight.agents.training.config import RlConfig
from stillsight.encoders.atomic import to_json
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.envs.options import OFF

LEARNING = ("adapt", "lora_rank")
"""Flags that say how an encoder learns; an [[encoder]] has a frozen arm, which they do not fit."""
RL_ONLY = ("algos", "shifts", "episodes", "videos")
"""Keys at the top that are of environments alone."""
GAME = {
    "rl": ("env_set", "frame_skip", "max_episode_steps", "eval_max_steps", "steps"),
    "cifar": ("shots", "fraction"),
}
"""Track -> flags that say what is played and for how long, or learned from: the same for all arms of a task."""
MODES = {"frozen": "frozen", "random": "random", "scratch": "scratch", **dict.fromkeys(FINETUNED, "finetune")}
"""Role -> the mode of an arm that has it."""


class Made(NamedTuple):
    """What an arm comes to in one task with one algorithm.

    Attributes:
        arm: as SPEC.toml has it.
        cell: of its first seed.
    """

    arm: ArmSpec
    cell: Cell

    @property
    def config(self) -> RlConfig | CifarConfig:
        """What the cell runs, with the flags of all tables."""
        return self.cell.planned_work().config


def check_effects(record: Mapping[str, Any], spec: Spec) -> None:
    """Refuse keys that would be passed over, and arms that are not what their role says.

    Args:
        record: the parsed SPEC.toml.
        spec: what follows from it.

    Raises:
        RunError: where a key stands, why nothing would come of it, and what to type instead.
    """
    for where, table in _tables(record):
        _check_places(where, table)
    tracks = {task.track for task in spec.tasks}
    for track in ("rl", "cifar"):
        if track in record and track not in tracks:
            needed = 'env = "..."' if track == "rl" else 'dataset = "..."'
            raise RunError(f"[{track}] has no effect, because no [[task]] has {needed}. Add one, or drop [{track}].")
    for kind in ("encoder", "arm"):
        for row in record.get(kind, ()):
            if row.get("track", spec.tasks[0].track) not in tracks:
                raise RunError(
                    f'[[{kind}]] has track = "{row["track"]}", and no [[task]] is of it. Drop the table, or its track.'
                )
    _check_game(record, spec)
    _check_top(record, spec)
    for arm in {id(arm): arm for arms in spec.arms.values() for arm in arms}.values():
        _check_rates(arm)
    made = [Made(arm, cell) for arm, cell in spec.first_cells()]
    _check_roles(made)
    _check_flags(record, spec, made)
    _check_own_flags(record, made)


def _tables(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from ((f"[{name}]", record.get(name, {})) for name in ("rl", "cifar"))
    yield from ((f"[[{name}]]", row) for name in ("task", "encoder", "arm") for row in record.get(name, ()))


def _check_places(where: str, table: Mapping[str, Any]) -> None:
    """Keys whose place is another table, whose value would be replaced without a word."""
    if "algo" in table:
        raise RunError(f'{where} has algo, and algorithms stand at the top. Type: algos = ["{table["algo"]}"]')
    for name in ("env", "dataset"):
        if name in table and where != "[[task]]":
            raise RunError(
                f"{where} has {name}, and tasks have tables of their own. Type: [[task]] and below it "
                f'{name} = "{table[name]}"'
            )
    if where == "[[encoder]]":
        if "tap" in table:
            raise RunError(f'[[encoder]] has tap, and may have several. Type: taps = ["{table["tap"]}"]')
        if "mode" in table:
            raise RunError(
                f'[[encoder]] has mode = "{table["mode"]}", and its arms are frozen, with controls of other modes. '
                "Type controls = [...] to choose these, or make an arm of your own: [[arm]] and below it mode = "
                f'"{table["mode"]}".'
            )
        for name in LEARNING:
            if name in table:
                raise RunError(
                    f"[[encoder]] has {name}, and its frozen arms do not learn. Make an arm of your own: [[arm]] and "
                    f'below it role = "finetune", mode = "finetune" and {name}.'
                )
    if where == "[[task]]" and "dataset" in table:
        for name in ("low", "high"):
            if name in table:
                raise RunError(f"A [[task]] with a dataset has {name}, and accuracies are not normalised. Drop it.")


def _check_top(record: Mapping[str, Any], spec: Spec) -> None:
    """Keys at the top that nothing of the grid would be made with."""
    encoders, agents = record.get("encoder", ()), any(task.track == "rl" for task in spec.tasks)
    for name in RL_ONLY:
        if name in record and not agents:
            raise RunError(f"{name} has no effect, because every [[task]] is a data set. Drop it.")
    compared = [arm for arms in spec.arms.values() for arm in arms]
    own = {str(row["name"]) for row in record.get("arm", ()) if "name" in row}
    if "rates" in record and not any(arm.rates for arm in compared if arm.name not in own):
        raise RunError(
            "rates has no effect, because no [[encoder]] has an arm that learns. Drop it, or add a control: "
            f"controls = [{', '.join(map(repr, FINETUNED[:2]))}]".replace("'", '"')
        )
    if "tuning_seeds" in record and not any(len(arm.rates) > 1 for arm in compared):
        raise RunError(
            "tuning_seeds has no effect, because no arm has several rates. Drop it, or type: rates = [0.1, 1.0]"
        )
    if "controls" in record and not agents and all("controls" in row for row in encoders):
        raise RunError("controls has no effect, because every [[encoder]] has its own. Drop one of them.")
    for where, table in (("SPEC.toml", record), *(("[[encoder]]", row) for row in encoders)):
        if "warm-start" in table.get("controls", ()) and all(task.track == "rl" for task in spec.tasks):
            raise RunError(f'{where} has the control "warm-start", which data sets have alone. Drop it.')
    for row in encoders:
        if "unfreeze" in row and "unfreeze" not in row.get("controls", record.get("controls", ("unfreeze",))):
            raise RunError(
                f'[[encoder]] has unfreeze = "{row["unfreeze"]}", which is where its control "unfreeze" learns from, '
                'and it has none. Type: controls = [..., "unfreeze"], or drop it.'
            )


def _check_game(record: Mapping[str, Any], spec: Spec) -> None:
    """Refuse an arm that plays another game than the others of its task, whose scores it would be compared with, and
    whose random play it would be normalised by."""
    for row in record.get("arm", ()):
        track = row.get("track")
        for of, names in GAME.items():
            for name in names if track in (None, of) else ():
                if name in row:
                    raise RunError(
                        f"[[arm]] {row['name']} has {name}, which makes another task of it, and arms of one task are "
                        f"compared. Type it in [{of}] or [[task]]: {name} = {to_json(row[name])}"
                    )
        for task in spec.tasks:
            if task.track == "rl" and track in (None, "rl") and (shown := _played(row, task)) != _played({}, task):
                raise RunError(
                    f"[[arm]] {row['name']} would be evaluated under {shown}, and the others of {task.name} under "
                    f"{_played({}, task)}. Type what it is evaluated under beside what it is trained under: "
                    f'eval_shift = "{_played({}, task)}"'
                )


def _played(row: Mapping[str, Any], task: Task) -> str:
    """The visual shift under which an arm of `row` is evaluated, "none" without one."""
    flags = {**task.flags, **row}
    if "eval_shift" in flags:
        return str(flags["eval_shift"])
    shift, strength = flags.get("shift", "none"), flags.get("shift_strength")
    return str(shift) if strength is None or "shift" not in flags else f"{shift}:{strength:g}"


def _check_rates(arm: ArmSpec) -> None:
    if arm.rates and arm.role not in (*FINETUNED, "scratch"):
        raise RunError(f"[[arm]] {arm.name} has rates, and its encoder does not learn. Drop them.")
    if arm.rates and "encoder_lr" in arm.flags:
        raise RunError(f"[[arm]] {arm.name} has rates and encoder_lr, which say the same. Drop one of them.")


def _check_roles(made: Iterable[Made]) -> None:
    """A role decides with whom an arm is compared: one that does not fit makes a control of what is none."""
    for one in made:
        role, mode = one.arm.role, one.config.mode.value
        if MODES[role] != mode:
            raise RunError(
                f'[[arm]] {one.arm.name} has role = "{role}" and mode = "{mode}", and would be compared as what it is '
                f'not. Type: mode = "{MODES[role]}", or another role.'
            )


def _check_flags(record: Mapping[str, Any], spec: Spec, made: Sequence[Made]) -> None:
    """Flags of shared tables that the grid replaces in an arm, or that no arm takes."""
    rows = list(zip(spec.tasks, record.get("task", ()), strict=True))
    for track in ("rl", "cifar"):
        mine = [(task, row) for task, row in rows if task.track == track]
        for name in record.get(track, {}):
            below = [task.name for task, row in mine if name not in row or name in SETTINGS]
            _check_flag(f"[{track}]", name, [one for one in made if one.cell.task in below])
        for task, row in mine:
            for name in row:
                if name not in (*TASK, "env", "dataset"):
                    _check_flag("[[task]]", name, [one for one in made if one.cell.task == task.name])


def _check_flag(where: str, name: str, below: Sequence[Made]) -> None:
    """Refuse a flag of a shared table that does not reach the arms `below` it, or that none of them takes."""
    for arm in (one.arm for one in below):
        if name in arm.chosen:
            raise RunError(
                f"{where} has {name}, and the grid chooses that of {arm.name} itself. Type it in [[encoder]] or [[arm]]"
                f"{', there as taps = [...]' if name == 'tap' else ''}."
            )
        if name == "encoder_lr" and arm.rates:
            raise RunError(
                f"{where} has encoder_lr, and {arm.name} has rates, which say the same. Type rates = [...] in its "
                "place, or type encoder_lr in an [[arm]] without rates."
            )
    reached = [one for one in below if name in SETTINGS or name not in one.arm.flags]
    if not reached:
        raise RunError(f"{where} has {name}, which has no effect: everything below it has its own. Drop it.")
    if (why := _idle(name, reached)) is not None:
        raise RunError(
            f"{where} has {name}, which has no effect {why}, and it reaches no arm that takes it. Drop it, or add one."
        )


def _check_own_flags(record: Mapping[str, Any], made: Sequence[Made]) -> None:
    """Refuse flags of an [[encoder]] or an [[arm]] that nothing made of it takes."""
    for row in record.get("encoder", ()):
        own = [one for one in made if one.arm.table == row]
        for name in (name for name in row if name not in ENCODER_KEYS):
            if (why := _idle(name, own)) is not None:
                raise RunError(
                    f"[[encoder]] {row.get('label', row['encoder'])} has {name}, which has no effect {why}, and none "
                    "of its controls takes it. Drop it, or add one that does."
                )
    for row in record.get("arm", ()):
        own = [one for one in made if one.arm.table == row]
        for name in (name for name in row if name not in ARM_KEYS):
            why = _idle(name, own)
            if why is not None and not any(_makes_alike(name, one, made) for one in own):
                raise RunError(f"[[arm]] {row['name']} has {name}, which has no effect {why}. Drop it.")


def _idle(name: str, arms: Sequence[Made]) -> str | None:
    """Why a flag has no effect on any of `arms`, in the words of the command line; None where one takes it."""
    reasons = [one.config.why_idle(name) for one in arms]
    return None if None in reasons else next(iter(reasons), None)


def _makes_alike(name: str, blind: Made, made: Iterable[Made]) -> bool:
    """Whether an arm that sees nothing has a flag of eyes as another arm of its task has it, which sees by it.

    Arms are compared by every setting: without it, the two would be apart in more than in what is seen.
    """
    config = blind.config
    return (
        isinstance(config, RlConfig)
        and config.pixels == (OFF,)
        and any(
            (one.cell.task, one.cell.algo) == (blind.cell.task, blind.cell.algo)
            and one.config.why_idle(name) is None
            and getattr(one.config, name) == getattr(config, name)
            for one in made
        )
    )
