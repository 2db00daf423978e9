"""What a benchmark will take, said before it begins: cells, hours, gigabytes."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillsight.agents.benchmark.grid.spec import Spec
from stillsight.agents.benchmark.running.results import Results

TRIAL_EPISODES = 1
"""Episodes that a trial plays to see how long one takes."""


def plan(
    spec: Spec, results: Results, jobs: Sequence[Mapping[str, Any]], folder: Path, side_by_side: int, *, trial: bool
) -> dict[str, str]:
    """The plan, for people: rows of a card.

    What a cell takes is known from the cells of its arm that have run; where there is none, an agent's cell is tried
    for a moment, and the trial is kept in estimates.json.

    Args:
        spec: the benchmark.
        results: what has run.
        jobs: what has not.
        folder: of the benchmark.
        side_by_side: cells that run at the same time.
        trial: try what is not known.
    """
    kept = json.loads(results.get("estimates.json") or "{}")
    known = _measured(spec, results)
    seconds, size, unknown = 0.0, 0.0, 0
    for job in jobs:
        group = _group(job)
        if group not in known and group not in kept and trial and job["track"] == "rl":
            kept[group] = _try(job)
            results.put("estimates.json", json.dumps(kept, indent=1) + "\n")
        found = known.get(group) or kept.get(group)
        if found is None:
            unknown += 1
        else:
            seconds += found["seconds"]
            size += found["bytes"]
    queued = {job["key"] for job in jobs}
    waiting = sum(key not in queued and results.read(key) is None for key in spec.expected())
    reckoned = len(jobs) - unknown
    told = (
        f"about {_time(seconds / side_by_side)} for {reckoned} of them" if reckoned else "not known" if jobs else "none"
    )
    tuned = any(len(arm.rates) > 1 for arms in spec.arms.values() for arm in arms)
    return {
        "tasks": ", ".join(task.name for task in spec.tasks),
        "arms": ", ".join(dict.fromkeys(arm.name for arms in spec.arms.values() for arm in arms)),
        "seeds": f"{len(spec.seeds)}" + (f", and {spec.tuning_seeds} others for each rate tried" if tuned else ""),
        "cells": f"{len(jobs)} to run now, {waiting} when rates are chosen",
        "time": f"{told}, {side_by_side} side by side"
        + (f"; {unknown} of a kind that has not run yet" if unknown else ""),
        "disk": f"about {size / 1e6:,.0f} MB" if reckoned or not jobs else "not known",
        "folder": str(folder),
    }


def _group(job: Mapping[str, Any]) -> str:
    return "/".join((job["task"], job["algo"], job["arm"]))


def _measured(spec: Spec, results: Results) -> dict[str, dict[str, float]]:
    """What cells took that have run, by their arm."""
    found: dict[str, dict[str, float]] = {}
    for cell in spec.cells(lambda _: 0.0):
        record = results.read(cell.key)
        if record is not None and record["state"] == "done":
            found[_group(record)] = {"seconds": record["took"], "bytes": record["bytes"]}
    return found


def _try(job: Mapping[str, Any]) -> dict[str, float]:
    """Train for two rollouts and play an episode, and reckon from that; untrained agents' episodes may be shorter."""
    from stillsight.agents.benchmark.running.local import run_local

    config = dict(job["config"])
    steps, evaluations = config["steps"], 1 + len(job["shifts"])
    short = min(steps, 2 * (config["n_envs"] or 8) * 128)
    tried = {**config, "steps": short, "eval_every": 0, "eval_episodes": TRIAL_EPISODES, "checkpoint_every": 0}
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        small = {**job, "config": tried, "shifts": [], "videos": 0, "episodes": TRIAL_EPISODES, "runs": place}
        record = next(iter(run_local([small], Results(place), 1)))
        whole = time.perf_counter() - began
    if record["state"] != "done":  # it will fail in its place, and be named there
        return {"seconds": 0.0, "bytes": 0.0}
    rate = record["cost"]["wall_seconds"] / short
    played = (whole - record["cost"]["wall_seconds"]) / 4  # a start, and two evaluations of one episode
    every = config["eval_every"] or max(1, steps // 10)
    episodes = (steps // every + 1) * config["eval_episodes"] + evaluations * job["episodes"]
    return {"seconds": rate * steps + played * (2 + episodes / 4), "bytes": record["bytes"]}


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
