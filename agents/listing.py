"""`stillsight list`: what there is to choose from, read from the registries and the run folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from stillsight.agents.runs.reader import RUNS, find_runs
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.encoders.zoo.registry import ENCODERS
from stillsight.envs import ROWS


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Show what there is to choose from."""

    what: Annotated[Literal["encoders", "envs", "algos", "runs"], tyro.conf.Positional]
    """Which list."""
    folder: Path = RUNS
    """For runs: where to look."""


def show(config: ListConfig) -> None:
    """Print the list that was asked for."""
    columns, rows = {"encoders": _encoders, "envs": _envs, "algos": _algos}.get(
        config.what, lambda: _runs(config.folder)
    )()
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
    rows = []
    for run in find_runs(folder):
        try:
            config = json.loads((run / "config.json").read_text())
            summary = json.loads((run / "summary.json").read_text()) if (run / "summary.json").exists() else {}
        except ValueError:
            rows.append([str(run), "damaged", "", "", ""])
            continue
        what = config.get("env") or config.get("dataset", "")
        score = summary.get("return_mean", summary.get("test_accuracy"))
        state = "done" if (run / "done").exists() else "unfinished"
        rows.append(
            [str(run), state, what, f"{config['encoder']} {config['mode']}", "" if score is None else f"{score:.4g}"]
        )
    return ["run", "state", "task", "encoder", "result"], rows
