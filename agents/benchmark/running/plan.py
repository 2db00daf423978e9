"""The plan: what a benchmark will take, said before it begins, in cells, hours and gigabytes."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stillsight.agents.benchmark.grid.cell import Cell
from stillsight.agents.benchmark.grid.spec import Spec
from stillsight.agents.benchmark.running.forecast import forecast
from stillsight.agents.benchmark.running.local import run_local
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.errors import RunError
from stillsight.agents.runs import schema
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.trust import NOTHING, Trust
from stillsight.agents.training.config import RlConfig
from stillsight.encoders.atomic import to_json


def plan(
    spec: Spec,
    results: Results,
    cells: Sequence[Cell],
    folder: Path,
    side_by_side: int,
    display: ProgressDisplay,
    *,
    failed: int,
    trial: bool,
    fewest: int,
    trust: Trust = NOTHING,
) -> dict[str, str]:
    """The plan, for people: rows of a card.

    What a cell takes is known from the cells of its kind that have run; where there is none, an agent's cell is tried
    for a moment, and what the parts of the trial took is kept in estimates.json.

    Args:
        spec: the benchmark.
        results: what has run.
        cells: what has not, planned.
        folder: of the benchmark.
        side_by_side: cells that run at the same time.
        display: where each trial is told.
        failed: how many failed before, and are not among `cells`.
        trial: try what is not known.
        fewest: seeds of an arm that a verdict needs.
        trust: what the cells may ask for.
    """
    tried = _tried(results)
    measured = _measured(spec, results)
    if trial:
        strange = {cell.kind: cell for cell in reversed(cells) if cell.kind not in measured and cell.kind not in tried}
        _try_each(list(reversed(strange.values())), tried, results, display, trust)
    each: list[float] = []
    size, unknown = 0.0, 0
    for cell in cells:
        work = cell.planned_work()
        if cell.kind in measured:
            each.append(measured[cell.kind]["seconds"])
            size += measured[cell.kind]["bytes"]
        elif cell.kind in tried and isinstance(work.config, RlConfig):
            each.append(forecast(tried[cell.kind], work))
            size += tried[cell.kind]["bytes"]
        else:
            unknown += 1
    queued = {cell.key for cell in cells}
    waiting = sum(key not in queued and results.read(key) is None for key in spec.expected())
    known = len(cells) - unknown
    # No less than the longest of them, however many run beside it.
    seconds = max([sum(each) / side_by_side, *each])
    time_left = f"about {_time(seconds)} for {known} of them" if known else "not known"
    if not cells:
        time_left = "none"
    tuned = any(len(arm.rates) > 1 for arms in spec.arms.values() for arm in arms)
    return {
        "tasks": ", ".join(task.name for task in spec.tasks),
        "arms": ", ".join(dict.fromkeys(arm.name for arms in spec.arms.values() for arm in arms)),
        "seeds": f"{len(spec.seeds)}" + (f", and {spec.tuning_seeds} others for each rate tried" if tuned else ""),
        **_verdict(len(spec.seeds), fewest),
        "cells": f"{len(cells)} to run now, {waiting} when rates are chosen",
        **({"failed": f"{failed} before. Type --retry to run what failed again"} if failed else {}),
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
    """Seconds and bytes of the cells that have run, by their kind; of several the last."""
    measured: dict[str, dict[str, float]] = {}
    for cell in spec.all_cells():
        ended = results.read(cell.key)
        if ended is not None and ended.result is not None and ended.result.took is not None:
            measured[cell.kind] = {"seconds": ended.result.took, "bytes": ended.result.bytes or 0}
    return measured


def _tried(results: Results) -> dict[str, dict[str, float]]:
    """What trials took, by kinds of cells; what cannot be read is tried again."""
    try:
        known = schema.parse((results.get("estimates.json") or "{}").encode(), "estimates.json")
        tried: dict[str, dict[str, float]] = schema.convert(known, dict[str, schema.TrialRecord], "estimates.json")
    except RunError:
        return {}
    return tried


def _try_each(
    cells: Sequence[Cell], tried: dict[str, dict[str, float]], results: Results, display: ProgressDisplay, trust: Trust
) -> None:
    """Try an agent's cell of each kind, tell of each, and add what it took to `tried` and to estimates.json."""
    kinds = [cell for cell in cells if isinstance(cell.planned_work().config, RlConfig)]
    if not kinds:
        return
    display.note(
        f"Kinds of cells that have not run yet: {len(kinds)}. One of each is tried for a moment, about half a minute; "
        "--no-trial goes without."
    )
    try:
        for number, cell in enumerate(kinds, 1):
            display.update("trial", number - 1, len(kinds), of=cell.group)
            took = _try(cell, trust)
            told = f"{number} of {len(kinds)}  {cell.group}"
            if isinstance(took, str):
                display.note(f"{told}: its trial failed, as the cell would: {took}")
                continue
            tried[cell.kind] = took
            results.put("estimates.json", to_json(tried, indent=1) + "\n")
            display.note(
                f"{told}: {_time(took['start'])} once, {took['step'] * 1e3:.2g} ms an env step; "
                f"{_time(forecast(took, cell.planned_work()))} a cell"
            )
    finally:
        display.close()


def _try(cell: Cell, trust: Trust) -> dict[str, float] | str:
    """What the parts of a cell's trial took, see `schema.TrialRecord`; why it failed, in words, if it did."""
    small = replace(cell, work=replace(cell.planned_work(), trial=True))
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        with contextlib.closing(run_local([small], Results(place), Path(place), 1, trust=trust)) as cells:
            ended = next(cells)
        whole = time.perf_counter() - began
    if ended.result is None:
        return ended.error or "nobody knows why"
    parts = {name: seconds for name, seconds in ended.result.cost.items() if seconds is not None}
    measured = parts.pop("measured")
    return {"start": max(0.0, whole - measured), **parts, "bytes": ended.result.bytes or 0}


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
