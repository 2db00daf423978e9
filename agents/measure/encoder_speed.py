"""Images/s of encoders alone, by tap, resolution, precision, engine and batch, measured in turns within one run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from statistics import median
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor

from stillsight.agents.columns import Columns
from stillsight.agents.command_line.json_output import print_json
from stillsight.agents.measure.measure_config import ThroughputConfig
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.records import plain
from stillsight.agents.training.config import RlConfig
from stillsight.encoders import device as devices
from stillsight.encoders.atomic import to_json
from stillsight.encoders.building import build
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.engines.engine import Name as EngineName
from stillsight.encoders.engines.engine import computes_in
from stillsight.encoders.errors import EncoderError, first_line, in_brackets
from stillsight.encoders.zoo.registry import spec

RESOLUTIONS = (84, 128, 224)
"""Sides in pixels where none was asked for: Atari's, a robot's camera, ImageNet's."""
BATCH = 256
"""Images at once where none was asked for: what `Frozen.encode` takes of a data set."""
WARM_UP = 3
"""Batches before anything is timed: the first ones load kernels, compile, and let cuDNN choose."""
FORWARDS = 1_000_000
"""Batches that lie ahead, as the engine auto is told: so many that every engine is worth trying."""
OUT_OF_TIME = "not measured: the time for this table was over before its turn."
"""The sentence of an arm that came too late."""


@dataclass(frozen=True)
class SpeedArm:
    """One line of the table: what is encoded, by what, and how.

    Attributes:
        encoder: its name.
        tap: stage that is read.
        pooling: from its map to a vector.
        resolution: side of the images in pixels.
        precision: of convolutions and matrix products.
        engine: how it is run.
        batch: images at once.
    """

    encoder: str
    tap: str
    pooling: str
    resolution: int
    precision: Literal["float32", "bf16"]
    engine: EngineName
    batch: int

    def __str__(self) -> str:
        return f"{self.encoder}:{self.tap} {self.resolution} px {self.precision} {self.engine} batch {self.batch}"


def speed_arms(run: RlConfig, config: ThroughputConfig, device: torch.device) -> list[SpeedArm]:
    """Every combination that was asked for, encoder by encoder.

    Args:
        run: pooling, and resolution, precision and engine where one of them is enough.
        config: what is measured.
        device: where; it decides what is measured by default.
    """
    sides = config.resolutions or ((run.resolution,) if run.resolution else RESOLUTIONS)
    precisions = config.precisions or _precisions(run.precision, device)
    ready: tuple[EngineName, ...] = ("eager", "folded", "graph") if device.type == "cuda" else ("eager", "folded")
    engines = config.engines or (ready if run.engine == "auto" else (run.engine,))
    arms = []
    for name, tap in config.tapped:
        control, pooling = spec(name).control
        chosen = run.pooling or (pooling if tap is None else spec(name).pooling)
        arms += [
            SpeedArm(name, tap or control, chosen, side, computes_in(engine, precision), engine, batch)
            for side in sides
            for batch in config.batch or (BATCH,)
            for precision in precisions
            for engine in engines
        ]
    return list(dict.fromkeys(arms))


def _precisions(asked: devices.Precision, device: torch.device) -> tuple[Literal["float32", "bf16"], ...]:
    if asked == "auto":
        return ("float32", "bf16") if devices.has_bf16(device) else ("float32",)
    return (asked,)


class Running:
    """An encoder under one engine that encodes the same batch again and again.

    Args:
        encode: one batch.
        batch: images in it.
        device: where.
        facts: what is known of it beside its speed.
    """

    def __init__(
        self, encode: Callable[[], object], batch: int, device: torch.device, facts: dict[str, Any] | None = None
    ) -> None:
        self.encode, self.batch, self.device, self.facts = encode, batch, device, facts or {}
        for _ in range(WARM_UP):
            encode()
        self.seconds = self._time(1)
        """Of one batch, as it was last measured."""

    def measure(self, seconds: float) -> float:
        """Images/s over about `seconds`, one batch at least; the device is waited for at both ends and not between."""
        batches = max(1, round(seconds / self.seconds))
        self.seconds = self._time(batches)
        return self.batch / self.seconds

    def _time(self, batches: int) -> float:
        with devices.stopwatch(self.device) as read:
            for _ in range(batches):
                self.encode()
            return max(read(), 1e-9) / batches


class Bench:
    """Prepares arms one after the other; encoders and images are shared by the arms that have the same.

    Args:
        device: where.
        seed: of weights and images.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device, self.seed = device, seed
        self._encoder = cache(self._built)  # an error is not kept: the next arm tries again and says so itself
        self._images = cache(self._drawn)

    def _built(self, name: str, tap: str, pooling: str, precision: devices.Precision) -> Encoder:
        options: dict[str, Any] = {"tap": tap, "pooling": pooling, "precision": precision, "seed": self.seed}
        return build(name, "random", device=str(self.device), **options)

    def _drawn(self, batch: int, side: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
        return pixels.to(self.device)

    def prepare(self, arm: SpeedArm) -> Running:
        """Make `arm` ready to be timed.

        Raises:
            EncoderError: the images are too small, or the engine is not to be had.
        """
        spec(arm.encoder).check_size(arm.resolution, arm.tap, "--resolutions")
        encoder = self._encoder(arm.encoder, arm.tap, arm.pooling, arm.precision)
        pixels = self._images(arm.batch, arm.resolution)
        shape = (3, arm.resolution, arm.resolution)
        engine = encoder.frozen.prepare(shape, wanted=arm.engine, batch=arm.batch, forwards=FORWARDS)

        @torch.inference_mode()
        def encode() -> Tensor:
            return engine(pixels)

        tensors = encoder.frozen.state()
        facts = {
            "features": encode().flatten(1).shape[1],
            "parameters": sum(tensors[name].numel() for name in tensors if tensors[name].is_floating_point()),
            "chosen": engine.name,
        }
        return Running(encode, arm.batch, self.device, facts)


def in_turns(
    arms: list[SpeedArm],
    prepare: Callable[[SpeedArm], Running],
    rounds: int,
    seconds: float,
    keep: Callable[[list[dict[str, Any]]], object] = lambda _: None,
    left: Callable[[], float] = lambda: math.inf,
) -> list[dict[str, Any]]:
    """Prepare every arm, then measure all of them round after round, so that a busy machine is fair to each.

    An arm that cannot be prepared, or breaks, keeps the reason as its `refused`, and the others go on.

    Args:
        arms: in the order of the table.
        prepare: makes one ready.
        rounds: measurements of each.
        seconds: of one measurement.
        keep: called with the rows so far after every round.
        left: seconds until the table must be done; arms for which there is no time left are refused: a further one may
            take as long to prepare as the longest until then.

    Returns:
        a row for each arm: its fields, facts, `rounds` (images/s), and of these `images_per_s` with median, least, most
        and `n`; or `refused`, a sentence.
    """
    rows = [asdict(arm) for arm in arms]
    ready: dict[int, Running] = {}
    longest = 0.0
    for place, arm in enumerate(arms):
        ahead = rounds * sum(max(seconds, running.seconds) for running in ready.values())
        before = left()
        if before < ahead + rounds * seconds + longest:
            rows[place]["refused"] = OUT_OF_TIME
            continue
        with _refusing(rows[place]):
            ready[place] = prepare(arm)
            rows[place] |= ready[place].facts
        longest = max(longest, before - left()) if math.isfinite(before) else 0.0
    for turn in range(rounds):
        for place, running in list(ready.items()):
            if left() <= 0 and turn:
                break
            with _refusing(rows[place]):
                rows[place].setdefault("rounds", []).append(running.measure(seconds))
            if "refused" in rows[place]:
                del ready[place]
        for row in rows:
            if numbers := row.get("rounds"):
                told = {"median": median(numbers), "least": min(numbers), "most": max(numbers), "n": len(numbers)}
                row["images_per_s"] = told
        keep(rows)
    for row in rows:
        if "images_per_s" not in row:
            row.setdefault("refused", OUT_OF_TIME)
    return rows


@contextlib.contextmanager
def _refusing(row: dict[str, Any]) -> Iterator[None]:
    """Keep what is raised inside as the `refused` of `row`, and go on."""
    try:
        yield
    except Exception as error:
        row["refused"] = first_line(error) if isinstance(error, EncoderError) else in_brackets(error)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what did not fit shall not be in the way of the next


def measure(
    run: RlConfig,
    config: ThroughputConfig,
    arms: list[SpeedArm] | None = None,
    keep: Callable[[dict[str, Any]], object] = lambda _: None,
    left: Callable[[], float] = lambda: math.inf,
) -> dict[str, Any]:
    """Measure encoders alone.

    Args:
        run: device, threads, seed, pooling; see `speed_arms`.
        config: what is measured.
        arms: in place of every combination.
        keep: called with the result so far after every round.
        left: see `in_turns`.

    Returns:
        `machine`, what was measured how, and `arms`, see `in_turns`.

    Raises:
        EncoderError: there is no such device.
    """
    devices.seed_everything(run.seed)
    devices.use_threads(run.threads)
    devices.fast_math()
    device = devices.pick_device(run.device)
    bench = Bench(device, run.seed)
    result: dict[str, Any] = {
        "machine": machine(),
        "device": str(device),
        "processor": devices.processor(device),
        "threads": torch.get_num_threads(),
        "weights": f"random, seed {run.seed}",
        "images": "uint8, in the memory of the device",
        "tf32": device.type == "cuda",
        "rounds": config.rounds,
        "seconds": config.length,
    }
    chosen = speed_arms(run, config, device) if arms is None else arms
    rows = in_turns(
        chosen,
        bench.prepare,
        config.rounds,
        config.length,
        lambda rows: keep({**result, "arms": rows}),
        left,
    )
    return {**result, "peak_memory_bytes": devices.peak_memory(device), "arms": rows}


def encoder_speed(run: RlConfig, config: ThroughputConfig) -> dict[str, Any]:
    """Measure encoders alone, print the table, and return the numbers, see `measure`.

    Raises:
        EncoderError: no such encoder, stage or device, or nothing could be measured.
    """
    console = Console(highlight=False, stderr=config.json)
    result = measure(run, config)
    if config.json:
        print_json(to_json(plain(result), indent=2))
    else:
        _print(console, result)
    if not any("images_per_s" in row for row in result["arms"]):
        raise EncoderError(f"Nothing was measured: {result['arms'][0]['refused']}")
    return result


def _print(console: Console, result: dict[str, Any]) -> None:
    where = f"{result['device']} ({result['processor']}), {result['threads']} threads"
    told = f"{result['rounds']} rounds of {result['seconds']:g} s, in turns"
    console.print(f"images/s, medians of {told}, on {where}", style="bold", markup=False, soft_wrap=True)
    names = ("encoder", "tap", "px", "precision", "engine", "batch", "images/s", "least .. most")
    table = Columns(*names, right=("px", "batch", "images/s"))
    cells, notes = speed_cells(result["arms"])
    for line in cells:
        table.add(*line)
    table.show(console)
    for number, sentence in enumerate(notes, 1):
        console.print(f"({number}) {sentence}", markup=False, soft_wrap=True)


def speed_cells(rows: list[dict[str, Any]]) -> tuple[list[list[str]], list[str]]:
    """The cells of the table, row by row, and the sentences of the arms that could not run: their rows number them."""
    table: list[list[str]] = []
    notes: list[str] = []
    for row in rows:
        cells = [row["encoder"], row["tap"], str(row["resolution"]), row["precision"], row["engine"], str(row["batch"])]
        if row["engine"] == "auto" and "chosen" in row:
            cells[4] = f"auto: {row['chosen']}"
        if "refused" in row:
            if row["refused"] not in notes:
                notes.append(row["refused"])
            table.append([*cells, "-", f"({notes.index(row['refused']) + 1})"])
        else:
            speed = row["images_per_s"]
            table.append([*cells, f"{speed['median']:,.0f}", f"{speed['least']:,.0f} .. {speed['most']:,.0f}"])
    return table, notes
