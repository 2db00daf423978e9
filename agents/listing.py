"""`stillsight list`: what there is to choose from, read from the registries and the run folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from stillsight.agents.errors import RunError
from stillsight.agents.runs.reader import RUNS, find_runs, read_config, read_json
from stillsight.agents.runs.records import read_lines
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.encoders.mode import Mode
from stillsight.encoders.zoo.registry import ENCODERS
from stillsight.envs import ROWS

What = Literal["encoders", "envs", "algos", "runs"]


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Show what there is to choose from."""

    folder: Path = RUNS
    """For runs: where to look."""


def show(what: What, config: ListConfig) -> None:
    """Print the list that was asked for.

    Raises:
        RunError: a folder was named for a list that lies in none.
    """
    if what != "runs" and config.folder != RUNS:
        raise RunError(f"--folder is where runs are, and has no effect on the list of {what}. Drop --folder.")
    columns, rows = {"encoders": _encoders, "envs": _envs, "algos": _algos}.get(what, lambda: _runs(config.folder))()
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=300)  # a pipe has no width; cells must not be cut for it
    console.print(table if rows else f"No runs in {config.folder}.")


Rows = tuple[list[str], list[list[str]]]


def _encoders() -> Rows:
    rows = []
    for row in ENCODERS.values():
        stages = list(row.stages)
        span = f"{stages[0]} .. {stages[-1]}"
        rows.append(
            [row.name, span, " ".join(row.control), f"{row.tap} {row.pooling}", row.weights or "-", row.summary]
        )
    return ["encoder", "taps", "in rl", "in cifar", "weights", ""], rows


def _envs() -> Rows:
    rows = [[row.id, row.actions, row.extra or "-", row.summary] for row in ROWS.values()]
    return ["environment", "actions", "extra", ""], [*rows, ["any Gymnasium id", "", "", "or module:Id of your own"]]


def _algos() -> Rows:
    rows = [
        [row.name, row.cls, ", ".join(row.actions), row.extra or "-", row.source, row.encoder_loss]
        for row in ALGORITHMS.values()
    ]
    return ["algorithm", "class", "actions", "extra", "preset", "an encoder that learns is trained by"], [
        *rows,
        ["module:Class", "any SB3 algorithm", "", "", "", ""],
    ]


def _runs(folder: Path) -> Rows:
    rows = [_run(run) for run in find_runs(folder)]
    return ["run", "state", "task", "algorithm", "encoder", "seed", "steps", "date", "result"], rows


def _run(run: Path) -> list[str]:
    """What one run is, how far it came, when it began, and what came out."""
    try:
        config = read_config(run)
        summary = _read(run / "summary.json")
        sessions = _read(run / "machine.json").get("sessions") or [{}]
        task = config.get("env") or config["dataset"]
        encoder, seed = f"{config['encoder']} {config['mode']}", str(config["seed"])
        learner = config.get("algo") or _learner(config)
        steps = _steps(run, config, summary)
    except (ValueError, KeyError):
        return [str(run), "damaged", *[""] * 7]
    score = summary.get("return_mean", summary.get("test_accuracy"))
    state = "done" if (run / "done").exists() else "unfinished"
    result = "" if score is None else f"{score:.4g}"
    return [str(run), state, task, learner, encoder, seed, steps, str(sessions[0].get("date", ""))[:10], result]


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of a run folder; empty where there is none."""
    return read_json(path, "") if path.exists() else {}


def _learner(config: Mapping[str, Any]) -> str:
    """What learns in a cifar run: a head on frozen features, or the encoder by an optimizer."""
    trained = Mode(config["mode"]).trained
    return str(config.get("optimizer", "") if trained else f"{config.get('head', 'linear')} head")


def _steps(run: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """How far a run came, in env steps or epochs: of how many, where it is unfinished."""
    counted, unit = ("step", "") if "env" in config else ("epoch", " epochs")
    planned, done = (
        config.get("steps" if "env" in config else "epochs"),
        summary.get("env_steps", summary.get("epochs")),
    )
    if unit and not Mode(config["mode"]).trained:
        return ""  # a head is fitted at once
    if done is not None:
        return f"{done:,}{unit}"
    streams = [path for name in ("episodes", "metrics") if (path := run / f"{name}.jsonl").exists()]
    reached = max((row.get(counted) or 0 for path in streams for row in read_lines(path)), default=0)
    return f"{reached:,} of {planned:,}{unit}"
