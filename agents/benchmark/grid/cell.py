"""The benchmark cell: its place in the grid, what it runs and what came out of it, to and from JSON."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, get_args

from stillsight.agents.errors import RunError
from stillsight.agents.runs import schema
from stillsight.agents.runs.records import plain, revive
from stillsight.agents.training.config import RlConfig
from stillsight.encoders.atomic import to_json
from stillsight.encoders.supervised.cifar_config import CifarConfig

Track = Literal["rl", "cifar"]
CONFIGS: dict[Track, type[RlConfig] | type[CifarConfig]] = {"rl": RlConfig, "cifar": CifarConfig}

PLACED = ("seed", "out", "resume", "trust", "accept_license")
"""Flags that a cell's place in the grid decides, or a user alone."""

UNSAID: Mapping[str, object] = {"refit": True}
"""Flags that came late, as every cell before them was made: keys and pins do not say so, and are those of before."""

FINETUNED = ("finetune", "unfreeze", "warm-start")
"""Roles of pretrained encoders that learn on; what they gain is gained over frozen ones."""
ROLES = ("frozen", "random", "scratch", *FINETUNED)
"""What is done with an encoder, in the order in which arms are shown."""

CLEAN = "clean"
"""Name, among shifts, of play without one."""
ERROR_WIDTH = 300
"""Characters that are kept of an error; the cell's log has the rest."""


class CellError(RunError):
    """A record that is no cell, worded so that it can be printed as it stands."""


@dataclass(frozen=True)
class Work:
    """What a cell runs.

    Attributes:
        config: of the run, all but its folder.
        shifts: visual shifts under which the trained agent plays too.
        episodes: of the last evaluation, clean and under each shift.
        videos: episodes that are filmed.
        trial: an agent's run is tried for a moment to see how long it would take, see `running.trial`.
    """

    config: RlConfig | CifarConfig
    shifts: tuple[str, ...]
    episodes: int
    videos: int
    trial: bool = False

    @property
    def threads(self) -> int:
        """Processor threads that the run asks for."""
        return self.config.threads or 1


@dataclass(frozen=True)
class Result:
    """What came out of a cell; all numbers are finite.

    Attributes:
        machine: hardware, versions, commit and date, see `runs.machine`.
        pins: what must be equal in all cells that are pooled, see `pins`.
        curve: evaluations in their order: env steps or epochs, mean return or accuracy, seconds of training so far
            by the clock and, where they are known, of the processor.
        scores: "clean" and each shift -> return of each episode, or the one accuracy.
        success: the same -> share of the episodes that reached their goal; None where the environment does not say.
        cost: name -> seconds, bytes, joules and counts; None where nobody measured.
        run: the run folder, relative to the benchmark's.
        took: seconds of the whole cell, evaluations and videos included.
        bytes: size of the run folder.
        live_units, clipped_features, one_action: at the last evaluation, see `features.live_units.LiveUnits`; None
            where no head sees an image.
    """

    machine: Mapping[str, Any]
    pins: Mapping[str, Any]
    curve: tuple[tuple[float, ...], ...]
    scores: Mapping[str, tuple[float, ...]]
    cost: Mapping[str, float | None]
    run: str | None = None
    took: float | None = None
    bytes: int | None = None
    success: Mapping[str, float] | None = None
    live_units: float | None = None
    clipped_features: float | None = None
    one_action: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the grid: planned (it has `work`), done (it has a `result`) or failed (it has an `error`).

    Attributes:
        key: its name in files: task, algorithm, arm, seed, and a digest of every flag that was given.
        track: rl or cifar.
        task, algo, arm: names, as tables show them.
        role: of the arm, one of `ROLES`.
        seed: of the run.
        tuned: the multiple of the learning rate that a tuning cell tries; None for a cell that is reported.
        budget: environment steps or epochs.
        work: what is to be run; cells that ended do not keep it, since their pins say what ran.
        result: what came out.
        error: why it did not finish.
    """

    key: str
    track: Track
    task: str
    algo: str
    arm: str
    role: str
    seed: int
    tuned: float | None = None
    budget: float
    work: Work | None = None
    result: Result | None = None
    error: str | None = None

    @property
    def state(self) -> Literal["planned", "done", "failed"]:
        """Where the cell stands."""
        if self.error is not None:
            return "failed"
        return "planned" if self.result is None else "done"

    @property
    def group(self) -> str:
        """Name of the cells that take about as long as this one: those of its task, algorithm and arm."""
        return "/".join((self.task, self.algo, self.arm))

    @property
    def kind(self) -> str:
        """The group, and what tells its settings from those that an arm of the same name had at another time."""
        return f"{self.group}/{self.key.rpartition('__')[2]}"

    @property
    def score(self) -> float:
        """Mean of the clean returns, or the accuracy; minus infinity for a cell that failed: a rate that fails is no
        rate, and must not win."""
        if self.result is None:
            return float("-inf")
        clean = self.result.scores[CLEAN]
        return float(sum(clean) / len(clean))

    def planned_work(self) -> Work:
        """What the cell runs.

        Raises:
            CellError: it ended; its pins say what ran.
        """
        if self.work is None:
            raise CellError(f"The cell {self.key} is {self.state}, and only planned cells can be run.")
        return self.work

    def done(self, result: Result) -> Cell:
        """The same cell, finished; failed if one of its numbers is not finite: what it ends with was not learned."""
        for name, value in _numbers(result.scores, result.curve, result.cost):
            if not math.isfinite(value):
                return self.failed(f"{value} stands among its {name}")
        return replace(self, work=None, result=result, error=None)

    def failed(self, error: str) -> Cell:
        """The same cell, failed; of `error` one line is kept."""
        line = textwrap.shorten(error, ERROR_WIDTH, placeholder=" ...")
        return replace(self, work=None, result=None, error=line)

    def to_json(self) -> dict[str, Any]:
        """The cell as JSON knows it, in the order in which cells/<key>.json has it; the inverse of `from_json`."""
        names = ("key", "track", "task", "algo", "arm", "role", "seed", "tuned", "budget", "state", "error")
        record = {name: getattr(self, name) for name in names}
        if self.work is not None:
            record["work"] = self.work
        if self.result is not None:
            record |= {name: value for name, value in vars(self.result).items() if value is not None}
        plain_record: dict[str, Any] = plain(record)
        return plain_record

    @classmethod
    def from_json(cls, record: Any) -> Cell:
        """A cell from its JSON record; what it does not know in it is passed over.

        A record whose numbers are not all finite is a failed cell's, whatever it says of itself, see `done`.

        Raises:
            CellError: what is missing or of a wrong type, in words.
        """
        _check(record)
        cell = cls(
            key=record["key"],
            track=record["track"],
            task=record["task"],
            algo=record["algo"],
            arm=record["arm"],
            role=record["role"],
            seed=record["seed"],
            tuned=record.get("tuned"),
            budget=record["budget"],
        )
        if record["state"] == "planned":
            return replace(cell, work=_work(cell.track, record["work"]))
        if record["state"] == "failed":
            return replace(cell, error=str(record.get("error") or ""))
        return cell.done(
            Result(
                machine=record["machine"],
                pins=record["pins"],
                curve=tuple(tuple(row) for row in record["curve"]),
                scores={name: tuple(values) for name, values in record["scores"].items()},
                cost=record["cost"],
                run=record.get("run"),
                took=record.get("took"),
                bytes=record.get("bytes"),
                success=record.get("success"),
                live_units=record.get("live_units"),
                clipped_features=record.get("clipped_features"),
                one_action=record.get("one_action"),
            )
        )

    def text(self) -> str:
        """The content of cells/<key>.json; the inverse of `parse`."""
        return to_json(self.to_json(), indent=1) + "\n"

    @classmethod
    def parse(cls, text: bytes, key: str) -> Cell:
        """The cell, done or failed, in the content of cells/<key>.json.

        Raises:
            CellError: it is no JSON, no cell, or another cell's.
        """
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CellError(f"its file cannot be read: {error}") from error
        cell = cls.from_json(record)
        if cell.key != key:
            raise CellError(f"its file says that it is {cell.key}")
        if cell.state == "planned":
            raise CellError("its state is 'planned', and must be done or failed")
        return cell


def slug(text: str) -> str:
    """`text` as a part of a file name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.rpartition("/")[2].lower()).strip("-")


class MachineFacts(TypedDict, total=False):
    """What a report shows of the machine of a cell."""

    date: str | None
    commit: str | None
    changes: str | None
    python: str | None
    platform: str | None
    cpu: str | None
    cores: int | None
    threads: int | None
    gpus: list[str] | None
    versions: dict[str, str] | None


class CellFacts(TypedDict):
    """What a finished cell's record says beside its numbers."""

    machine: MachineFacts
    pins: schema.Flat
    run: str | None
    took: float | None
    bytes: int | None
    success: dict[str, schema.Share] | None
    live_units: schema.Share | None
    clipped_features: schema.Share | None
    one_action: bool | None


_TEXTS = ("key", "state", "track", "task", "algo", "arm", "role")
_KINDS: dict[str, dict[str, type]] = {
    "planned": {"work": dict},
    "failed": {},
    "done": {"pins": dict, "curve": list, "scores": dict, "cost": dict, "machine": dict},
}
"""State -> what a record in it must have."""


def _check(record: Any) -> None:
    """Raise `CellError`, saying what makes `record` unusable, if anything does."""
    if not isinstance(record, dict):
        raise CellError("its file holds no JSON object")
    for name in _TEXTS:
        if not isinstance(record.get(name), str):
            raise CellError(f"its {name} is {_shown(record.get(name))}, and must be text")
        if not record[name].isprintable():
            raise CellError(f"its {name} is {_shown(record[name])}, which holds more than text")
    if record["track"] not in get_args(Track):
        raise CellError(f"its track is {_shown(record['track'])}, and must be rl or cifar")
    if record["state"] not in _KINDS:
        raise CellError(f"its state is {_shown(record['state'])}, and must be done or failed")
    if not _is_whole(record.get("seed")):
        raise CellError(f"its seed is {_shown(record.get('seed'))}, and must be a whole number")
    for name, value in (("budget", record.get("budget")), ("tuned", record.get("tuned") or 0.0)):
        if not _is_number(value):
            raise CellError(f"its {name} is {_shown(value)}, and must be a number")
    for name, kind in _KINDS[record["state"]].items():
        if not isinstance(record.get(name), kind):
            raise CellError(f"it has no {name}")
    if record["state"] == "done":
        _check_numbers(record)
        _check_facts(record)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: object) -> bool:
    return _is_whole(value) or isinstance(value, float)


def _check_facts(record: Mapping[str, Any]) -> None:
    """Raise `CellError` if a fact of a finished cell's record is of another type than those that are shown."""
    try:
        schema.convert({name: record.get(name) for name in CellFacts.__annotations__}, CellFacts, "")
    except RunError as error:
        reason = str(error).removeprefix(" is damaged (").rpartition(").")[0]
        raise CellError(f"what it says of its run cannot be read: {reason}") from error


def _check_numbers(record: Mapping[str, Any]) -> None:
    """Raise `CellError` if a number of a finished cell's record is none."""
    if not record["scores"].get(CLEAN):
        raise CellError(f"it has no {CLEAN} scores")
    scores, curve, cost = record["scores"], record["curve"], record["cost"]
    rows_are_lists = all(isinstance(row, list) for row in (*scores.values(), *curve))
    if not rows_are_lists or not all(_is_number(value) for _, value in _numbers(scores, curve, cost)):
        raise CellError("what should be a number in it is none")
    if any(len(row) not in (3, 4) for row in curve):
        raise CellError("a row of its curve is not steps, return and seconds")


def _numbers(
    scores: Mapping[str, Iterable[float]], curve: Iterable[Iterable[float]], cost: Mapping[str, float | None]
) -> Iterator[tuple[str, float]]:
    """Every number of a finished cell that statistics are made of, with what it is one of."""
    for name, values in scores.items():
        yield from ((f"{name} scores", value) for value in values)
    yield from (("evaluations", value) for row in curve for value in row)
    yield from ((f"costs ({name})", value) for name, value in cost.items() if value is not None)


def _work(track: Track, record: Mapping[str, Any]) -> Work:
    """The inverse of `plain` for `Work`."""
    try:
        config = revive(CONFIGS[track], record["config"])
        trial = record.get("trial", False) is True
        return Work(config, tuple(record["shifts"]), record["episodes"], record["videos"], trial)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CellError(f"its work cannot be read: {type(error).__name__}: {error}") from error
