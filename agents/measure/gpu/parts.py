"""The parts of `stillsight gpu`, each run in a process of its own, whose file keeps what was measured so far."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from stillsight.agents.measure import cifar_throughput, encoder_speed, throughput
from stillsight.agents.measure.cifar_throughput_config import CifarThroughputConfig
from stillsight.agents.measure.encoder_speed import SpeedArm
from stillsight.agents.measure.gpu.gpu_tests import run_tests
from stillsight.agents.measure.measure_config import ThroughputConfig
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.records import plain
from stillsight.agents.training.config import RlConfig
from stillsight.encoders.atomic import to_json, write_atomically
from stillsight.encoders.engines.engine import Name as EngineName
from stillsight.encoders.errors import first_line, in_brackets
from stillsight.encoders.mode import Mode
from stillsight.encoders.zoo.registry import ENCODERS, spec

Result = dict[str, Any]
Keep = Callable[[Result], object]
"""Called with what was measured so far."""
Left = Callable[[], float]
"""Seconds until the part must be done."""

MARGIN = 0.06
"""Share of its time before whose end a part stops by itself, so that it writes its last numbers in peace."""


Block = tuple[float, list[SpeedArm]]
"""A weight, and arms that are measured in turns."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything.

    Attributes:
        runs: algorithm -> the run that is measured beside stock SB3 and the floor.
        throughput: algorithm -> how it is measured.
        speed: the speed table in blocks, the most important first, each with its weight in sharing out the time; the
            arms of a block are measured in turns, as `speed_config` says.
        finetune, frozen: the supervised track.
    """

    runs: Mapping[str, RlConfig]
    throughput: Mapping[str, ThroughputConfig]
    speed: Callable[[], list[Block]]
    speed_config: ThroughputConfig
    finetune: CifarThroughputConfig
    frozen: CifarThroughputConfig


def _resnet(env: str, algo: str, **changes: Any) -> RlConfig:
    """The runs of results/published/throughput.md: ResNet-18 to its end, a stack of four, replay for 1M steps."""
    chosen: dict[str, Any] = {"mode": Mode.RANDOM, "tap": "layer4", "pooling": "global", "steps": 1_000_000}
    return RlConfig(env=env, algo=algo, encoder="resnet18", frame_stack=4, **{**chosen, **changes})


NETWORKS = ("resnet18", "mobilenet_v2", "efficientnet_lite0", "resnet50", "vit_b_16", "convnext_tiny", "retina")
"""Encoders of the speed table, as far as there are such rows."""


def speed() -> list[Block]:
    """The speed table: whole networks on many images, what agents read on few, and last the compiler, which may take a
    minute, beside the other engines."""
    names = [name for name in NETWORKS if name in ENCODERS]
    engines: tuple[EngineName, ...] = ("eager", "folded", "graph")

    def whole(side: int, *chosen: EngineName) -> list[SpeedArm]:
        return [
            SpeedArm(name, spec(name).tap, spec(name).pooling, side, precision, engine, 256)
            for name in names
            for precision in ("bf16", "float32")
            for engine in chosen
        ]

    agents = [
        SpeedArm(name, *spec(name).control, 84, precision, engine, 8)
        for name in names
        for precision in ("bf16", "float32")
        for engine in engines
    ]
    compiled = [arm for arm in whole(224, "graph", "compiled") if arm.precision == "bf16"][:4]
    blocks = (whole(224, *engines), agents, whole(84, *engines), whole(128, *engines), compiled)
    return list(zip((3.0, 2.0, 2.0, 1.0, 2.0), blocks, strict=True))


FULL = Size(
    runs={
        "ppo": _resnet("ALE/Pong-v5", "ppo", n_envs=8, size=84, set=("n_epochs=4",)),
        "sac": _resnet("CarRacing-v3", "sac", n_envs=1, set=("train_freq=1", "gradient_steps=1")),
        "dqn": _resnet("ALE/Pong-v5", "dqn", size=84),
    },
    throughput=dict.fromkeys(
        ("ppo", "sac", "dqn"), ThroughputConfig(arms=("cached", "stock", "floor"), rounds=3, seconds=3.0)
    ),
    speed=speed,
    speed_config=ThroughputConfig(encoders=("resnet18",), rounds=3, seconds=0.1),
    finetune=CifarThroughputConfig(
        encoder="resnet18", mode=Mode.SCRATCH, resolution=64, batch=256, updates=30, rounds=3
    ),
    frozen=CifarThroughputConfig(
        encoder="resnet18", mode=Mode.RANDOM, resolution=64, images=20_000, rounds=2, others=("ncm",)
    ),
)
"""What is published. Weights are random, which costs the same: finetune is trained from them, frozen reads through
them."""


def _orchard(algo: str, *settings: str) -> RlConfig:
    env = "stillsight/OrchardContinuous-v0" if algo == "sac" else "stillsight/Orchard-v0"
    small: dict[str, Any] = {"tap": "layer1", "pooling": "grid2", "size": 16, "n_envs": 1, "head": 16, "compress": 4}
    small |= {"standardise": 8, "eval_every": 0, "engine": "folded", "threads": 1, "frame_stack": 2}
    return RlConfig(env=env, algo=algo, encoder="retina", mode=Mode.RANDOM, set=settings, **small)


OFF_POLICY = ("learning_starts=8", "batch_size=8", "buffer_size=400", "train_freq=8")
SMALL = Size(
    runs={
        "ppo": _orchard("ppo", "n_steps=16", "batch_size=16", "n_epochs=1"),
        "sac": _orchard("sac", *OFF_POLICY),
        "dqn": _orchard("dqn", *OFF_POLICY),
    },
    throughput=dict.fromkeys(
        ("ppo", "sac", "dqn"), ThroughputConfig(arms=("cached", "stock", "floor"), rounds=1, seconds=0.01)
    ),
    speed=lambda: [
        (1.0, [SpeedArm("retina", "layer1", "grid2", 16, "float32", engine, 2) for engine in ("eager", "folded")]),
        (1.0, [SpeedArm("retina", "layer1", "grid2", 16, "float32", "graph", 2)]),
    ],
    speed_config=ThroughputConfig(encoders=("retina",), rounds=2, seconds=0.001),
    finetune=CifarThroughputConfig(mode=Mode.SCRATCH, updates=1, batch=8, rounds=1, workers=0, threads=1),
    frozen=CifarThroughputConfig(
        mode=Mode.RANDOM, images=40, batch=8, rounds=1, workers=0, threads=1, others=("ncm",), precisions=("float32",)
    ),
)
"""A moment of each, for a test."""


def _tests(_: Size, keep: Keep, left: Left) -> Result:
    return run_tests(keep, left)


def _run(algo: str, size: Size, keep: Keep, left: Left) -> Result:
    rows: dict[str, list[Result]] = {}
    broken: dict[str, str] = {}

    def show(name: str, row: Result) -> None:
        rows.setdefault(name, []).append(row)
        keep({"run": plain(size.runs[algo]), "measured": rows, "broken": broken})

    def note(name: str, error: Exception) -> None:
        broken[name] = _sentence(error)
        print(*traceback.format_exception(error), file=sys.stderr)

    result = throughput.compare(size.runs[algo], size.throughput[algo], show, note, left)
    return {**result, "broken": broken}


def _speed(size: Size, keep: Keep, left: Left) -> Result:
    result: Result = {}
    blocks = size.speed()
    for number, (weight, arms) in enumerate(blocks):
        others = left() * (1 - weight / sum(further for further, _ in blocks[number:]))
        result = _block(size, arms, partial(_joined, result.get("arms", []), number + 1), keep, left, others)
        keep(result)
    return result


def _block(
    size: Size, arms: list[SpeedArm], joined: Callable[[Result], Result], keep: Keep, left: Left, others: float
) -> Result:
    """Measure one block, leaving `others` seconds to those after it; `joined` adds those before it."""
    return joined(
        encoder_speed.measure(
            RlConfig(), size.speed_config, arms, lambda block: keep(joined(block)), lambda: left() - others
        )
    )


def _joined(before: list[Result], number: int, block: Result) -> Result:
    """A block of the speed table with the rows of those before it."""
    return {**block, "arms": [*before, *({**row, "block": number} for row in block["arms"])]}


def _cifar(name: str, size: Size, keep: Keep, left: Left) -> Result:
    config: CifarThroughputConfig = getattr(size, name)
    images = "noise of CIFAR's shape" if config.data is None else "CIFAR-10"
    facts = {"machine": machine(), "config": plain(config), "images": images}
    numbers: dict[str, list[float]] = {}

    def show(arm: str, number: float) -> None:
        numbers.setdefault(arm, []).append(number)
        keep({**facts, "measured": numbers})

    return {**facts, **cifar_throughput.compare(config, show, left)}


PARTS: Mapping[str, Callable[[Size, Keep, Left], Result]] = {
    "tests": _tests,
    **{algo: partial(_run, algo) for algo in ("ppo", "sac", "dqn")},
    "encoders": _speed,
    **{f"cifar-{name}": partial(_cifar, name) for name in ("finetune", "frozen")},
}
"""Part -> what measures it."""


def _sentence(error: BaseException) -> str:
    """An error in a line: the project's own sentence, or what kind of error it is and its first line."""
    return first_line(error) if type(error).__module__.startswith("stillsight.") else in_brackets(error)


def run_part(name: str, size: Size, file: Path, seconds: float) -> Result:
    """Do one part; whatever happens, `file` says how far it came.

    Args:
        name: of `PARTS`.
        size: how much.
        file: JSON: `result`, `whole` (whether that is all of it), and where something went wrong `sentence` and
            `traceback`.
        seconds: until it must be done.
    """
    ends = time.monotonic() + seconds * (1 - MARGIN)
    state: Result = {"whole": False, "result": {}}

    def write() -> None:
        write_atomically(file, to_json(plain(state)))

    def keep(result: Result) -> None:
        state["result"] = result
        write()

    write()
    try:
        keep(PARTS[name](size, keep, lambda: ends - time.monotonic()))
        state["whole"] = True
    except Exception as error:
        state |= {"sentence": _sentence(error), "traceback": "".join(traceback.format_exception(error))}
    write()
    return state


if __name__ == "__main__":
    # NAME FILE SECONDS full|small [DATA]
    part, target, limit, kind, *data = sys.argv[1:]
    chosen = FULL if kind == "full" else SMALL
    if data:
        chosen = replace(chosen, frozen=replace(chosen.frozen, data=Path(data[0])))
    outcome = run_part(part, chosen, Path(target), float(limit))
    if "traceback" in outcome:
        print(outcome["traceback"], file=sys.stderr)
    sys.exit("sentence" in outcome)
