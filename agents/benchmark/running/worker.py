"""One cell of the grid, run in this process: train, play clean and under every shift, say what came out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillsight.agents.benchmark.grid.pins import env_version, pins
from stillsight.agents.benchmark.grid.spec import Cell, Spec
from stillsight.agents.errors import RunError
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.records import plain, read_lines, revive

PLAYED_FROM = 20_000
"""Seed of the first episode of the last evaluation; training and its own evaluations use others."""


def job(cell: Cell, spec: Spec, runs: Path) -> dict[str, Any]:
    """All that `run_cell` needs to know, as JSON knows it; its run folder lies in `runs`."""
    return {
        "key": cell.key,
        "track": cell.task.track,
        "task": cell.task.name,
        "algo": cell.algo,
        "arm": cell.arm.name,
        "role": cell.arm.role,
        "seed": cell.seed,
        "tuned": cell.rate,
        "config": plain(cell.config),
        "shifts": list(spec.shifts),
        "episodes": spec.episodes,
        "videos": spec.videos if cell.seed == spec.seeds[0] else 0,
        "runs": str(runs),
    }


def named(job: Mapping[str, Any]) -> dict[str, Any]:
    """What every cell's record begins with, finished or failed."""
    config = job["config"]
    budget = config["steps"] if job["track"] == "rl" else config["epochs"]
    names = ("key", "track", "task", "algo", "arm", "role", "seed", "tuned")
    return {**{name: job[name] for name in names}, "budget": budget}


def failed(job: Mapping[str, Any], error: str) -> dict[str, Any]:
    """The record of a cell that did not finish; of `error` one line is kept, the log has the rest."""
    return {**named(job), "state": "failed", "error": textwrap.shorten(error, 300, placeholder=" ...")}


def run_cell(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run a cell from its beginning and return its record, which `collect` reads.

    A run folder that an interrupted try left is removed: agents that are resumed start new episodes, so the cell would
    not end with the numbers that it ends with when nothing interrupts it.

    Args:
        job: see `job`.

    Returns:
        The record; of a cell that crashed, or whose loss or returns are not finite, with state "failed" and the reason.
    """
    folder = Path(job["runs"]) / str(job["key"])
    began = time.perf_counter()
    try:
        if folder.exists():
            shutil.rmtree(folder)
        record = _agent(job, folder) if job["track"] == "rl" else _classifier(job, folder)
    except Exception as error:  # whatever an environment or a network may raise: the other cells go on
        traceback.print_exc()
        return failed(job, f"{type(error).__name__}: {error}")
    took = {"took": time.perf_counter() - began, "bytes": sum(path.stat().st_size for path in folder.rglob("*.*"))}
    return {**named(job), "state": "done", "error": None, "machine": _machine(), **record, **took}


def _agent(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from stillsight.agents.benchmark.running.energy import meter
    from stillsight.agents.playing.play import returns
    from stillsight.agents.playing.play_config import RecordConfig
    from stillsight.agents.playing.player import load
    from stillsight.agents.playing.video import record
    from stillsight.agents.training.config import RlConfig
    from stillsight.agents.training.learn import rl

    config = replace(revive(RlConfig, job["config"]), out=folder)
    with meter() as spent:
        summary = rl(config)
    _finite(folder)
    agent = load(folder, "last", device=config.device)
    play = {"episodes": job["episodes"], "seed": PLAYED_FROM, "deterministic": not config.stochastic_eval}
    scores = {"clean": returns(agent, "none", **play)}
    scores |= {shift: returns(agent, shift, **play) for shift in job["shifts"]}
    if job["videos"]:
        with contextlib.suppress(RunError):  # a game that cannot be filmed can be played all the same
            record(folder, RecordConfig(checkpoint="last", episodes=job["videos"], device=config.device))
    curve = [[row["step"], row["mean"], row["train_seconds"]] for row in read_lines(folder / "eval.jsonl")]
    return {
        "pins": pins(config.resolved(), summary) | {"env_version": env_version(config.env)},
        "curve": curve,
        "scores": plain(scores),
        "cost": _cost(summary, spent)
        | {
            "env_steps_per_s": summary["env_steps_per_s"],
            "images_per_step": summary["images_encoded_per_env_step"],
        },
        "run": f"runs/{job['key']}",
    }


def _classifier(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from stillsight.agents.benchmark.running.energy import meter
    from stillsight.agents.training.cifar import cifar
    from stillsight.encoders.supervised.cifar_config import CifarConfig

    config = replace(revive(CifarConfig, job["config"]), out=folder)
    with meter() as spent:
        summary = cifar(config)
    _finite(folder)
    rows = read_lines(folder / "metrics.jsonl")
    pinned = pins(config.resolve_batchnorm(), summary) | {"test_images": summary["test_images"]}
    if job["config"]["shots"] is None and job["config"]["fraction"] is None:
        pinned["dataset_sha256"] = summary["dataset_sha256"]
    return {
        "pins": pinned,
        "curve": _epochs(rows, summary["train_images"]),
        "scores": {"clean": [summary["test_accuracy"]]},
        "cost": _cost(summary, spent),
        "run": f"runs/{job['key']}",
    }


def _epochs(rows: list[dict[str, Any]], images: int) -> list[list[float]]:
    """Epochs, validation accuracies and seconds of training of a run that trained its encoder; none of another."""
    curve, seconds = [], 0.0
    for row in rows:
        if "epoch" in row:
            seconds += images / row["images_per_s"]
            curve.append([row["epoch"], row["validation_accuracy"], seconds])
    return curve


def _cost(summary: Mapping[str, Any], spent: Mapping[str, float | None]) -> dict[str, Any]:
    return {
        "wall_seconds": summary["wall_seconds"],
        **spent,
        "peak_memory_bytes": summary["peak_memory_bytes"],
        "trainable_parameters": summary["trainable_parameters"],
    }


def _finite(folder: Path) -> None:
    """Refuse a run whose losses or returns left the numbers: what it ends with was not learned.

    Raises:
        RunError: naming the first such row.
    """
    for stream in ("metrics", "eval"):
        path = folder / f"{stream}.jsonl"
        for row in read_lines(path) if path.exists() else []:
            for name, value in row.items():
                # SB3 reports explained_variance as NaN where returns do not vary, which is no fault.
                told = name.endswith("loss") or name == "mean"
                if told and isinstance(value, float) and value - value != 0.0:
                    raise RunError(f"{name} is {value} at {_where(row)}.")


def _where(row: Mapping[str, Any]) -> str:
    return f"epoch {row['epoch']}" if "epoch" in row else f"step {row.get('step')}"


def _machine() -> dict[str, Any]:
    """What ran this; the command of a cell is the benchmark's."""
    found = machine()
    del found["command"]
    return found


def main() -> int:
    """Run the cell whose job stands on the first line of stdin, and write its record to the place that it names.

    The pipe stays open as long as whoever started this lives: when it closes, this process ends, so that no cell goes
    on that a restarted benchmark would run a second time.
    """
    from stillsight.agents.benchmark.running.results import Results

    given = json.loads(sys.stdin.readline())
    threading.Thread(target=_follow, daemon=True).start()
    record = run_cell(given)
    Results(given["address"]).write(record)
    return 0 if record["state"] == "done" else 1


def _follow() -> None:
    sys.stdin.read()
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main())
