"""The plan: what a benchmark will take, said before it begins, in cells, hours and gigabytes."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stillsight.agents.benchmark.grid.cell import Cell, Work
from stillsight.agents.benchmark.grid.spec import Spec
from stillsight.agents.benchmark.running.local import run_local
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.errors import RunError
from stillsight.agents.runs import schema
from stillsight.agents.runs.trust import NOTHING, Trust
from stillsight.agents.training.config import RlConfig
from stillsight.encoders.atomic import to_json

TRIAL_EPISODES = 1
"""Episodes that a trial plays to see how long one takes."""


def plan(
    spec: Spec,
    results: Results,
    cells: Sequence[Cell],
    folder: Path,
    side_by_side: int,
    *,
    trial: bool,
    fewest: int,
    trust: Trust = NOTHING,
) -> dict[str, str]:
    """The plan, for people: rows of a card.

    What a cell takes is known from the cells of its group that have run; where there is none, an agent's cell is tried
    for a moment, and the trial is kept in estimates.json.

    Args:
        spec: the benchmark.
        results: what has run.
        cells: what has not, planned.
        folder: of the benchmark.
        side_by_side: cells that run at the same time.
        trial: try what is not known.
        fewest: seeds of an arm that a verdict needs.
        trust: what the cells may ask for.
    """
    tried = _tried(results)
    measured = _measured(spec, results)
    seconds, size, unknown = 0.0, 0.0, 0
    for cell in cells:
        config = cell.planned_work().config
        if cell.group not in measured and cell.group not in tried and trial and isinstance(config, RlConfig):
            tried[cell.group] = _try(cell, config, trust)
            results.put("estimates.json", to_json(tried, indent=1) + "\n")
        taken = measured.get(cell.group) or tried.get(cell.group)
        if taken is None:
            unknown += 1
        else:
            seconds += taken["seconds"]
            size += taken["bytes"]
    queued = {cell.key for cell in cells}
    waiting = sum(key not in queued and results.read(key) is None for key in spec.expected())
    known = len(cells) - unknown
    time_left = f"about {_time(seconds / side_by_side)} for {known} of them" if known else "not known"
    if not cells:
        time_left = "none"
    tuned = any(len(arm.rates) > 1 for arms in spec.arms.values() for arm in arms)
    return {
        "tasks": ", ".join(task.name for task in spec.tasks),
        "arms": ", ".join(dict.fromkeys(arm.name for arms in spec.arms.values() for arm in arms)),
        "seeds": f"{len(spec.seeds)}" + (f", and {spec.tuning_seeds} others for each rate tried" if tuned else ""),
        **_verdict(len(spec.seeds), fewest),
        "cells": f"{len(cells)} to run now, {waiting} when rates are chosen",
        "time": f"{time_left}, {side_by_side} side by side"
        + (f"; {unknown} of a kind that has not run yet" if unknown else ""),
        "disk": f"about {size / 1e6:,.0f} MB" if known or not cells else "not known",
        "folder": str(folder),
    }


def _verdict(seeds: int, fewest: int) -> dict[str, str]:
    """What the number of seeds means for the report, if it is too small."""
    if seeds >= fewest:
        return {}
    return {"verdict": f"none: {seeds} seed{'s' * (seeds != 1)}, and it takes {fewest} or more. Type: seeds = {fewest}"}


def _measured(spec: Spec, results: Results) -> dict[str, dict[str, float]]:
    """Seconds and bytes of the cells that have run, by their group; of several the last."""
    measured: dict[str, dict[str, float]] = {}
    for cell in spec.cells(lambda _: 0.0):
        ended = results.read(cell.key)
        if ended is not None and ended.result is not None and ended.result.took is not None:
            measured[cell.group] = {"seconds": ended.result.took, "bytes": ended.result.bytes or 0}
    return measured


def _tried(results: Results) -> dict[str, dict[str, float]]:
    """What trials took, by groups of cells; what cannot be read is tried again."""
    try:
        known = schema.parse((results.get("estimates.json") or "{}").encode(), "estimates.json")
        tried: dict[str, dict[str, float]] = schema.convert(known, dict[str, schema.TrialRecord], "estimates.json")
    except RunError:
        return {}
    return tried


def _try(cell: Cell, config: RlConfig, trust: Trust) -> dict[str, float]:
    """Train for two rollouts and play an episode, and reckon from that; untrained agents' episodes may be shorter."""
    work = cell.planned_work()
    short = min(config.steps, 2 * (config.n_envs or 8) * 128)
    tried = replace(config, steps=short, eval_every=0, eval_episodes=TRIAL_EPISODES, checkpoint_every=0)
    small = replace(cell, work=Work(tried, shifts=(), episodes=TRIAL_EPISODES, videos=0))
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        with contextlib.closing(run_local([small], Results(place), Path(place), 1, trust=trust)) as cells:
            ended = next(cells)
        whole = time.perf_counter() - began
    trained = None if ended.result is None else ended.result.cost["wall_seconds"]
    if ended.result is None or trained is None:  # it will fail in its place, and be named there
        return {"seconds": 0.0, "bytes": 0.0}
    played = (whole - trained) / 4  # a start, and two evaluations of one episode
    every = config.eval_every or max(1, config.steps // 10)
    evaluations = 1 + len(work.shifts)
    episodes = (config.steps // every + 1) * config.eval_episodes + evaluations * work.episodes
    seconds = trained / short * config.steps + played * (2 + episodes / 4)
    return {"seconds": seconds, "bytes": ended.result.bytes or 0}


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
