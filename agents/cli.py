"""The command line. Names and flags are checked before anything heavy is imported: the one place that imports late."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from stillsight.agents.errors import RunError, TrainingFault
from stillsight.agents.measure.measure_config import SPIN
from stillsight.agents.runs.reader import read_config
from stillsight.encoders.errors import EncoderError, unknown
from stillsight.envs.errors import EnvError

_AGENTS = "stillsight.agents"
_SUPERVISED = "stillsight.encoders.supervised"


@dataclass(frozen=True)
class Command:
    """One command: what it takes, what runs it, and what it does in a line.

    Attributes:
        config: "module:Class" of its flags; light to import. `check`, where the class has it, is called first.
        function: "module:function", imported when the flags are right; called with the positional arguments, then the
            run that is described where `run` says so, then the flags. It returns an exit code where it returns an int.
        summary: one line.
        positional: name -> (type, how usage shows it, help, whether it may be left out).
        run: "module:Class" of further flags, which describe a run.
    """

    config: str
    function: str
    summary: str
    positional: tuple[tuple[str, Any, str, str, bool], ...] = ()
    run: str | None = None


RUN = "RUN"


def _a_run(name: str) -> tuple[str, Any, str, str, bool]:
    return (name, Path, RUN, "A run folder.", False)


COMMANDS: dict[str, Command] = {
    "rl": Command(
        f"{_AGENTS}.training.config:RlConfig",
        f"{_AGENTS}.training.learn:rl",
        "train an agent whose policy looks through a pretrained encoder",
    ),
    "cifar": Command(
        f"{_SUPERVISED}.cifar_config:CifarConfig",
        f"{_AGENTS}.training.cifar:cifar",
        "train a classifier on CIFAR or an image folder with the same encoders",
    ),
    "evaluate": Command(
        f"{_AGENTS}.playing.play_config:EvaluateConfig",
        f"{_AGENTS}.playing.play:evaluate",
        "play whole episodes with an agent, or test a classifier once more",
        (_a_run("folder"),),
    ),
    "predict": Command(
        f"{_AGENTS}.playing.predict_config:PredictConfig",
        f"{_AGENTS}.playing.predict:predict",
        "say what is on pictures, with the classifier of a cifar run",
        (_a_run("run"), ("places", list[Path], "IMAGE [IMAGE ...]", "Picture files or folders.", False)),
    ),
    "record": Command(
        f"{_AGENTS}.playing.play_config:RecordConfig",
        f"{_AGENTS}.playing.video:record",
        "record whole episodes of a trained agent as mp4",
        (_a_run("folder"),),
    ),
    "throughput": Command(
        f"{_AGENTS}.measure.measure_config:ThroughputConfig",
        f"{_AGENTS}.measure.throughput:throughput",
        "measure how fast a run goes, beside stock SB3 and beside the floor",
        run=f"{_AGENTS}.training.config:RlConfig",
    ),
    "cifar-throughput": Command(
        f"{_AGENTS}.measure.cifar_throughput_config:CifarThroughputConfig",
        f"{_AGENTS}.measure.cifar_throughput:cifar_throughput",
        "measure how fast a cifar run trains, beside a plain loop",
    ),
    "benchmark": Command(
        f"{_AGENTS}.benchmark.benchmark_config:BenchmarkConfig",
        f"{_AGENTS}.benchmark.command:benchmark",
        "compare encoders, modes and algorithms over seeds, with controls and statistics",
        (("path", Path, "SPEC.toml", "What to compare; or say it by flags.", True),),
    ),
    "report": Command(
        f"{_AGENTS}.benchmark.benchmark_config:ReportConfig",
        f"{_AGENTS}.benchmark.report.report:report",
        "write tables, plots and a page from a benchmark's folder",
        (("folder", Path, "FOLDER", "A benchmark's folder.", False),),
    ),
    "replay": Command(
        f"{_AGENTS}.measure.measure_config:ReplayConfig",
        f"{_AGENTS}.measure.replay_cost:replay_cost",
        "measure what replay memory takes, and how fast it is sampled",
    ),
    "plot": Command(
        f"{_AGENTS}.runs.plots:PlotConfig",
        f"{_AGENTS}.runs.plots:plot",
        "draw the learning curves of runs",
        (("folders", list[Path], "RUN [RUN ...]", "Run folders.", False),),
    ),
    "list": Command(
        f"{_AGENTS}.listing:ListConfig",
        f"{_AGENTS}.listing:show",
        "show the encoders, environments, algorithms or runs",
    ),
}
"""Every command by name. A new one is a new row."""


def usage() -> str:
    """The text of `stillsight --help`."""
    rows = "\n".join(f"  {name:16} {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: stillsight COMMAND [--help] ...\n\n"
        "Reinforcement-learning agents with pretrained eyes.\n\n"
        f"commands:\n{rows}\n\n"
        "Start with: stillsight rl --steps 20_000   (the project's own environment and encoder; no download)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 2 for a user's mistake, 1 for training that left the numbers, each printed as one sentence. Bugs keep their
        traceback.
    """
    # OpenMP's threads wait for their next piece of work by spinning, for milliseconds, which takes the cores from
    # whatever runs beside. Told to sleep at once they lose as much to waking up: a forward pass of ResNet-18 on two
    # threads takes 14 ms and not 9. So they spin for about 20 microseconds, longer than the gaps inside a network.
    # The variable must stand before torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(SPIN, "5000")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if given else 2
    if given[0] == "--version":
        from importlib.metadata import version

        print(f"stillsight {version('stillsight')}")
        return 0
    try:
        return _run(given[0], given[1:])
    except (EncoderError, EnvError, RunError) as error:
        print(f"stillsight: {error}", file=sys.stderr)
        return 2
    except TrainingFault as error:
        print(f"stillsight: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stillsight: stopped.", file=sys.stderr)
        return 130


def _run(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        raise RunError(unknown("command", name, COMMANDS, "Commands", "stillsight"))
    command = COMMANDS[name]
    arguments = _parse(name, command, words)
    for part in arguments[len(command.positional) :]:
        if hasattr(part, "check"):
            part.check()
    for value, (_, _, shown, _, _) in zip(arguments, command.positional, strict=False):
        if shown == RUN:
            read_config(value)
    result = _load(command.function)(*arguments)
    return result if isinstance(result, int) else 0


def _parse(name: str, command: Command, words: list[str]) -> list[Any]:
    """The arguments of the command's function, from what was typed."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for word, kind, shown, told, optional in command.positional:
        marked = (tyro.conf.Positional, tyro.conf.arg(metavar=shown, help=told))
        annotated: Any = Annotated.__class_getitem__((kind | None if optional else kind, *marked))  # type: ignore[attr-defined]
        fields.append((word, annotated, None) if optional else (word, annotated))
    parts = [command.run, command.config] if command.run else [command.config]
    for number, path in enumerate(parts):
        part = _load(path)
        fields.append((f"part{number}", Annotated[part, tyro.conf.arg(name="")]))
    ordered = sorted(fields, key=len)  # in a dataclass those with a default come last
    summary = f"{command.summary[0].upper()}{command.summary[1:]}."
    parsed: Any = tyro.cli(
        make_dataclass("Arguments", ordered),
        args=words,
        prog=f"stillsight {name}",
        description=summary,
        config=(tyro.conf.EnumChoicesFromValues, tyro.conf.FlagCreatePairsOff),
    )
    return [getattr(parsed, field[0]) for field in fields]


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
