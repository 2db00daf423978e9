"""The command line: names and flags are checked here, before anything heavy is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from stillsight.agents.benchmark.benchmark_config import BenchmarkConfig, ReportConfig
from stillsight.agents.errors import RunError
from stillsight.agents.listing import ListConfig, show
from stillsight.agents.measure.cifar_throughput import CifarThroughputConfig
from stillsight.agents.measure.replay_cost import ReplayConfig, replay_cost
from stillsight.agents.measure.throughput import SPIN, ThroughputConfig, throughput
from stillsight.agents.playing.play import EvaluateConfig, evaluate
from stillsight.agents.playing.predict import PredictConfig, predict
from stillsight.agents.playing.video import RecordConfig, record
from stillsight.agents.runs.plots import PlotConfig, plot
from stillsight.agents.training.cifar import cifar, cifar_throughput
from stillsight.agents.training.learn import RlConfig, rl
from stillsight.encoders.errors import EncoderError, unknown
from stillsight.encoders.supervised.learn import CifarConfig
from stillsight.envs import EnvError

RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="A run folder.")]


def _evaluate(run: RunFolder, config: Annotated[EvaluateConfig, tyro.conf.arg(name="")]) -> None:
    evaluate(run, config)


def _predict(
    run: RunFolder,
    images: Annotated[
        list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]", help="Picture files or folders.")
    ],
    config: Annotated[PredictConfig, tyro.conf.arg(name="")],
) -> None:
    predict(run, images, config)


def _record(run: RunFolder, config: Annotated[RecordConfig, tyro.conf.arg(name="")]) -> None:
    record(run, config)


def _throughput(
    run: Annotated[RlConfig, tyro.conf.arg(name="")], config: Annotated[ThroughputConfig, tyro.conf.arg(name="")]
) -> None:
    throughput(run, config)


def _replay(config: Annotated[ReplayConfig, tyro.conf.arg(name="")]) -> None:
    replay_cost(config)


def _plot(
    runs: Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]", help="Run folders.")],
    config: Annotated[PlotConfig, tyro.conf.arg(name="")],
) -> None:
    plot(runs, config)


def _benchmark(
    spec: Annotated[
        Path | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SPEC.toml", help="What to compare; or say it by flags."),
    ] = None,
    *,
    config: Annotated[BenchmarkConfig, tyro.conf.arg(name="")],
) -> int:
    from stillsight.agents.benchmark.command import benchmark

    return benchmark(spec, config)


def _report(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER", help="A benchmark's folder.")],
    config: Annotated[ReportConfig, tyro.conf.arg(name="")],
) -> int:
    from stillsight.agents.benchmark.report.report import report

    return report(folder, config)


def _list(what: Annotated[ListConfig, tyro.conf.arg(name="")]) -> None:
    show(what)


COMMANDS: dict[str, tuple[Any, Callable[..., Any] | None, str]] = {
    "rl": (RlConfig, rl, "train an agent whose policy looks through a pretrained encoder"),
    "cifar": (CifarConfig, cifar, "train a classifier on CIFAR or an image folder with the same encoders"),
    "evaluate": (_evaluate, None, "play whole episodes with an agent, or test a classifier once more"),
    "predict": (_predict, None, "say what is on pictures, with the classifier of a cifar run"),
    "record": (_record, None, "record whole episodes of a trained agent as mp4"),
    "throughput": (_throughput, None, "measure how fast a run goes, beside stock SB3 and beside the floor"),
    "cifar-throughput": (
        CifarThroughputConfig,
        cifar_throughput,
        "measure how fast a cifar run trains, beside a plain loop",
    ),
    "benchmark": (_benchmark, None, "compare encoders, modes and algorithms over seeds, with controls and statistics"),
    "report": (_report, None, "write tables, plots and a page from a benchmark's folder"),
    "replay": (_replay, None, "measure what replay memory takes, and how fast it is sampled"),
    "plot": (_plot, None, "draw the learning curves of runs"),
    "list": (_list, None, "show the encoders, environments, algorithms or runs"),
}
"""Name -> (what tyro parses, what is then called with it, summary). Functions are called by tyro itself."""


def usage() -> str:
    """The text of `stillsight --help`."""
    rows = "\n".join(f"  {name:16} {summary}" for name, (_, _, summary) in COMMANDS.items())
    return (
        "usage: stillsight COMMAND [--help] ...\n\n"
        "Reinforcement-learning agents with pretrained eyes.\n\n"
        f"commands:\n{rows}\n\n"
        "Start with: stillsight rl --steps 20_000   (the project's own environment and encoder; no download)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 2 for a user's mistake, which is printed as one sentence. Bugs keep their traceback.
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
    except KeyboardInterrupt:
        print("stillsight: stopped.", file=sys.stderr)
        return 130


def _run(name: str, arguments: list[str]) -> int:
    if name not in COMMANDS:
        raise RunError(unknown("command", name, COMMANDS, "Commands", "stillsight"))
    parsed, function, summary = COMMANDS[name]
    result = tyro.cli(
        parsed,
        args=arguments,
        prog=f"stillsight {name}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        config=(tyro.conf.EnumChoicesFromValues, tyro.conf.FlagCreatePairsOff),
    )
    if function is not None:
        function(result)
        return 0
    return result if isinstance(result, int) else 0
