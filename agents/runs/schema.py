"""Schemas of the files of a run folder: size, JSON, types and ranges, checked before anything is made of them.

What a file holds is bounded before it is read into memory, parsed without executing anything, and converted by msgspec
to the types that the code behind it relies on. Whatever is wrong becomes one `RunError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, NotRequired, TypedDict, TypeVar

import msgspec

from stillsight.agents.errors import RunError
from stillsight.encoders.errors import DamagedFileError, first_line
from stillsight.encoders.system.plain_file import NotPlainError, read_plain
from stillsight.envs.wrappers.layout import MOST_IMAGES, MOST_VECTORS

Kind = TypeVar("Kind")

MEBIBYTE = 2**20
LARGEST_RECORD = 16 * MEBIBYTE
"""Bytes that config.json, spaces.json, machine.json, summary.json or a SPEC.toml may have; ours have a few thousand."""
LARGEST_STREAM = 2048 * MEBIBYTE
"""Bytes that a JSON-lines file may have: a hundred million steps of short episodes write less."""
LARGEST_INTEGER = 2**63
"""Nothing that is counted needs more than 64 bits."""
LARGEST_SIDE = 4_096
"""Pixels that a side of an image may have: memory for it is taken before a checkpoint can contradict the file."""
MOST_CHOICES = 100_000
"""Actions that an agent may choose from, and numbers that a continuous action may have."""
LONGEST_KEY = 1_024
"""Characters of the key of a part of an observation."""
LONGEST_TEXT = 4_096
"""Characters of one setting; Linux's paths have no more."""

Scalar = bool | int | float | str | None
Flat = dict[str, Scalar | list[Scalar]]
"""A configuration as JSON knows it."""

MOST_STEPS = 10**15
"""Environment steps that a run may have; a thousand years of them."""
LARGEST_COUNT = 2**53
"""Of what is counted for its own sake: images, updates, episodes. No whole number above it is exact as a float."""

Count = Annotated[int, msgspec.Meta(ge=0)]
Step = Annotated[int, msgspec.Meta(ge=0, le=MOST_STEPS)]
Side = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_SIDE)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=MOST_CHOICES)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class MachineRecord(TypedDict):
    """machine.json."""

    sessions: list[dict[str, Any]]


class SummaryRecord(TypedDict, total=False):
    """What is read of summary.json; the rest of it is for people."""

    return_mean: float | None
    env_steps: Count
    epochs: Count
    test_accuracy: Share | None
    validation_accuracy: Share | None
    classes: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MOST_CHOICES)]
    image_size: tuple[Side, Side]
    encoder_sha256_after: str
    dataset_sha256: str
    interpolation: Literal["bilinear", "bicubic"]
    refit: bool | None


# A row of episodes.jsonl; written like this because `return` cannot be a field's name.
EpisodeRow = TypedDict("EpisodeRow", {"step": Count, "return": float | None, "length": NotRequired[Count]})


class EvaluationRow(TypedDict):
    """A row of eval.jsonl."""

    step: Count
    mean: float | None
    std: float | None
    success_rate: NotRequired[Share]
    successes: NotRequired[list[bool]]
    live_units: NotRequired[Share]
    clipped_features: NotRequired[Share]
    one_action: NotRequired[bool]


class MetricsRow(TypedDict, total=False):
    """What is read of a row of metrics.jsonl."""

    step: Count
    epoch: Count
    loss: float | None
    train_accuracy: float | None
    validation_accuracy: float | None
    images_per_s: float | None
    train_seconds: float | None


STREAMS: Mapping[str, Any] = {
    "episodes": EpisodeRow,
    "eval": EvaluationRow,
    "metrics": MetricsRow,
}
"""Name of a JSON-lines file -> what each of its rows must have."""


class PlayerRecord(TypedDict):
    """What random play or an oracle earned, in a benchmark's references.json."""

    mean: float
    std: NotRequired[float]
    episodes: NotRequired[Count]
    success_rate: NotRequired[Share]
    options: NotRequired[dict[str, Any]]


References = dict[str, dict[str, PlayerRecord]]
"""references.json of a benchmark: task -> player -> what it earned."""


class TrialRecord(TypedDict):
    """What the trial of a cell took, in a benchmark's estimates.json.

    Seconds: `start` of all that comes once, `waiting_step` and `step` of an env step before learning begins and after,
    `evaluation` of a round of an evaluation (an episode in each of its environments), `episode` of one of the last
    play.
    """

    start: float
    waiting_step: float
    step: float
    evaluation: float
    episode: float
    bytes: float


class AgentFacts(TypedDict):
    """What stands in a checkpoint of an agent beside what it learned."""

    step: Step
    frozen_sha256: str
    exploration_rate: NotRequired[float]


class BestFacts(AgentFacts):
    """What stands in the checkpoint that did best in an evaluation."""

    mean: float
    evaluated: NotRequired[dict[str, int]]


class LearningFacts(AgentFacts):
    """What stands in a checkpoint from which learning goes on."""

    counters: dict[str, bool | int | float]
    replay: str | None
    ledger: LedgerRecord
    records: NotRequired[NotedRecord]
    ancestor: NotRequired[dict[str, Scalar] | None]


class LedgerRecord(TypedDict, total=False):
    """What adds up over the sessions of a run."""

    images: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_COUNT)]
    seconds: Annotated[float, msgspec.Meta(ge=0, le=LARGEST_COUNT)]
    all_cpu_seconds: Annotated[float, msgspec.Meta(ge=0, le=LARGEST_COUNT)] | None
    best: float
    encoder_sha256: str


class NotedRecord(TypedDict):
    """What an algorithm has noted and not yet written, see `model_state.records`."""

    episodes: list[tuple[float, Count, float]]
    successes: list[bool]
    values: dict[str, bool | int | float]
    counts: dict[str, Count]


class Discrete(msgspec.Struct, tag_field="kind", tag="Discrete"):
    """A choice."""

    n: Choices
    start: int = 0


class Box(msgspec.Struct, tag_field="kind", tag="Box"):
    """Numbers between bounds."""

    low: list[Any]
    high: list[Any]
    shape: Annotated[list[Count], msgspec.Meta(max_length=8)]
    dtype: Literal["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"]


class MultiDiscrete(msgspec.Struct, tag_field="kind", tag="MultiDiscrete"):
    """Several choices at once."""

    nvec: list[Any]
    start: list[Any]


class MultiBinary(msgspec.Struct, tag_field="kind", tag="MultiBinary"):
    """Several switches at once."""

    n: Choices | Annotated[list[Choices], msgspec.Meta(min_length=1, max_length=8)]


Key = Annotated[str, msgspec.Meta(max_length=LONGEST_KEY)]


class ImageRecord(msgspec.Struct):
    """An image of an observation."""

    key: Key
    shape: tuple[Literal[3], Side, Side]


class VectorRecord(msgspec.Struct):
    """A vector of an observation."""

    key: Key
    width: Choices


class LayoutRecord(msgspec.Struct):
    """What one environment shows."""

    images: Annotated[list[ImageRecord], msgspec.Meta(max_length=MOST_IMAGES)]
    vectors: Annotated[list[VectorRecord], msgspec.Meta(max_length=MOST_VECTORS)] = []
    texts: Annotated[list[Key], msgspec.Meta(max_length=MOST_VECTORS)] = []
    frames: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHOICES)] = 1


class SpacesRecord(msgspec.Struct):
    """spaces.json. Its pixels are left out where an observation is more or other than one image."""

    action: Discrete | Box | MultiDiscrete | MultiBinary
    pixels: tuple[Literal[3], Side, Side] | None = None
    layout: LayoutRecord | None = None
    offset: int | list[int] = 0


class Versioned(TypedDict):
    """What every version of a record says."""

    format: int


class ExportRecord(Versioned):
    """What must be known of a run to play its policy, in a zip that `export` wrote."""

    config: Flat
    spaces: dict[str, Any]
    step: Step
    encoder: str
    tap: str | None
    unfreeze: str | None
    frozen_sha256: str


RESTORE = "Restore it, or start a new run."
"""What to do about a damaged file, unless there is something better."""


def refuse(what: object, reason: object, advice: str = RESTORE) -> NoReturn:
    """Raise the `RunError` about a file that is not as we write it.

    Args:
        what: the file.
        reason: what is wrong with it.
        advice: what to do.
    """
    raise RunError(f"{what} is damaged ({first_line(reason)}). {advice}")


def read_bounded(path: Path, limit: int = LARGEST_RECORD) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        RunError: it is larger, no plain file, or cannot be read.
    """
    try:
        return read_plain(path, limit)
    except NotPlainError as error:
        raise RunError(str(error)) from error
    except DamagedFileError as error:
        refuse(path, error)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}). Give yourself the right to read it.") from error


def parse(content: bytes, what: object, *, strict: bool = True, advice: str = RESTORE) -> Any:
    """What JSON `content` says.

    Args:
        content: of the file.
        what: the file, for messages.
        strict: refuse NaN and infinities.
        advice: what to do about one that is damaged.

    Raises:
        RunError: it is no JSON in UTF-8, is nested too deep, or holds numbers that are none.
    """
    try:
        text = content.decode()
        value = json.loads(text, parse_constant=_no_number) if strict else json.loads(text)
        _check_numbers(value, strict)
    except (ValueError, RecursionError) as error:
        refuse(what, error, advice)
    return value


def convert(value: Any, kind: type[Kind] | Any, what: object, advice: str = RESTORE) -> Any:
    """`value`, as JSON gave it, as `kind`: a dataclass, a msgspec.Struct, a TypedDict, a union ...

    Raises:
        RunError: something in it is missing, of another type, or out of range.
    """
    try:
        return msgspec.convert(value, kind, dec_hook=_own_types)
    except (ValueError, RecursionError) as error:  # msgspec's and the classes' own
        refuse(what, str(error).replace("$.", "").replace("`", "") or error, advice)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _check_numbers(value: Any, strict: bool) -> None:
    """Raise `ValueError` for a number that no field takes: too large, or not finite."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, int) and not -LARGEST_INTEGER <= item < LARGEST_INTEGER:
            raise ValueError("a number in it has more than 64 bits")
        elif strict and isinstance(item, float) and not math.isfinite(item):
            raise ValueError("a number in it is not finite")


def _own_types(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    raise ValueError(f"Expected text of a path, got {type(value).__name__}")
