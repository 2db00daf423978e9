"""The worker: runs one cell in this process. It trains, plays clean and under every shift, and says what came out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillsight.agents.benchmark.grid.cell import CLEAN, Cell, Result, Work
from stillsight.agents.benchmark.grid.pins import code_pins, pins
from stillsight.agents.benchmark.running.energy import meter
from stillsight.agents.benchmark.running.interrupted import code_file, goes_on
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.benchmark.running.trial import try_agent
from stillsight.agents.errors import RunError
from stillsight.agents.playing.play import episodes_under
from stillsight.agents.playing.play_config import RecordConfig
from stillsight.agents.playing.player import load
from stillsight.agents.playing.video import record
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.reader import read_json
from stillsight.agents.runs.records import plain, read_lines
from stillsight.agents.runs.trust import NOTHING, Trust, import_from_here, read_run, values_of
from stillsight.agents.training.cifar import cifar
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.episodes import share_successful
from stillsight.agents.training.learn import rl
from stillsight.agents.training.seeds import CHOICE, PLAY
from stillsight.encoders.atomic import to_json, write_atomically
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.system.stopping import Stop, answering

TAKEN = ("wall_seconds", "cpu_seconds", "energy_joules")
"""Costs that grow with every image that is encoded."""


def run_cell(cell: Cell, runs: Path, trust: Trust = NOTHING) -> Cell:
    """Run a planned cell.

    An agent that an interrupted try left goes on from its last checkpoint where it ends with the numbers that it ends
    with when nothing interrupts it, see `goes_on`; any other run folder is removed, and the cell begins anew. Its pins
    are made of what the run folder says that it ran with.

    Args:
        cell: what to run.
        runs: the folder in which its run folder lies.
        trust: what the cell may ask for, as the benchmark's user allowed it.

    Returns:
        The cell with its result; failed, with the reason, if it crashed, or its loss or returns are not finite.
    """
    folder, tunes = runs / cell.key, cell.tuned is not None
    began = time.perf_counter()
    try:
        work = cell.planned_work()
        import_from_here(trust.names)
        trust.check_all([values_of(work.config), *({"shift": shift} for shift in work.shifts)], "The cell")
        if not isinstance(work.config, RlConfig):
            _remove(folder)
            result = _classifier(work.config, folder, tunes=tunes)
        elif work.trial:
            result = _trial(work, folder, trust)
        else:
            result = _agent(work, work.config, folder, trust, tunes=tunes)
    except Exception as error:  # whatever an environment or a network may raise: the other cells go on
        traceback.print_exc()
        return cell.failed(f"{type(error).__name__}: {error}")
    took = time.perf_counter() - began
    size = sum(path.stat().st_size for path in folder.rglob("*.*"))
    return cell.done(replace(result, took=took, bytes=size))


def _agent(work: Work, config: RlConfig, folder: Path, trust: Trust, *, tunes: bool) -> Result:
    """Train an agent and play with it; one that tunes a rate is scored by episodes that no reported agent plays."""
    code = code_pins(config)  # before it runs: who edits it meanwhile edits the next cell's
    interrupted = goes_on(folder, config, code)
    with meter() as spent:
        if not interrupted:
            _remove(folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(code_file(folder), to_json(code) + "\n")
            summary = rl(replace(config, out=folder))
        elif (folder / "done").exists():  # it was interrupted while it was played
            summary = read_json(folder / "summary.json", "")
        else:
            summary = rl(RlConfig(resume=folder, trust=trust.names))
    if interrupted:  # what it took until then, evaluations included, nobody knows
        spent = dict.fromkeys(spent)
    _refuse_not_finite(folder)
    player = load(folder, "last", device=config.device, trust=trust.names)
    played = {
        shift: episodes_under(
            player,
            None if shift == CLEAN else shift,  # as its evaluations show the game, shifted or not
            episodes=work.episodes,
            seed=CHOICE if tunes else PLAY,
            deterministic=not config.stochastic_eval,
        )
        for shift in (CLEAN, *work.shifts)
    }
    rates = {shift: share_successful(episodes) for shift, episodes in played.items()}
    told = {shift: rate for shift, rate in rates.items() if rate is not None}
    if work.videos:
        with contextlib.suppress(RunError):  # a game that cannot be filmed can be played all the same
            filmed = RecordConfig(
                checkpoint="last",
                episodes=work.videos,
                stochastic=config.stochastic_eval,
                device=config.device,
                trust=trust.names,
            )
            record(folder, filmed)
    rows = read_lines(folder / "eval.jsonl")
    result = _result(
        folder,
        pins=pins(read_run(folder).config, summary, code) | _chooses(tunes),
        curve=[(row["step"], row["mean"], *_seconds(row)) for row in rows],
        scores={shift: [episode.total for episode in episodes] for shift, episodes in played.items()},
        success=told or None,
        cost=_cost(summary, spent)
        | {"env_steps_per_s": summary["env_steps_per_s"], "images_per_step": summary["images_encoded_per_env_step"]},
    )
    last = rows[-1] if rows else {}
    return replace(
        result,
        live_units=last.get("live_units"),
        clipped_features=last.get("clipped_features"),
        one_action=last.get("one_action"),
    )


def _chooses(tunes: bool) -> dict[str, bool]:
    """A pin of cells that tune: those of before were scored by what the reported ones are scored by."""
    return {"scored_apart": True} if tunes else {}


def _trial(work: Work, folder: Path, trust: Trust) -> Result:
    """What a trial took, among the costs; it has no score."""
    _remove(folder)
    trial = try_agent(work, folder, trust)
    return Result(machine={}, pins={}, curve=(), scores={CLEAN: (0.0,)}, cost=plain(trial))


def _classifier(config: CifarConfig, folder: Path, *, tunes: bool) -> Result:
    """Train a classifier; one that tunes a rate is scored by the validation images: the test images choose nothing."""
    config = replace(config, out=folder)
    # A warm start's encoding is training, and stands in the seconds of its curve: each encodes for itself.
    own = folder / "features" if config.warm_start else None
    code = code_pins(config)
    try:
        with meter() as spent:
            summary = cifar(config, own)
    finally:
        if own is not None:
            _remove(own)
    _refuse_not_finite(folder)
    pinned = pins(config.resolve_batchnorm(), summary, code) | {"test_images": summary["test_images"]}
    if config.shots is None and config.fraction is None:
        pinned["dataset_sha256"] = summary["dataset_sha256"]
    pinned |= _chooses(tunes)
    return _result(
        folder,
        pins=pinned,
        curve=_epochs(read_lines(folder / "metrics.jsonl")),
        scores={CLEAN: [summary["validation_accuracy" if tunes else "test_accuracy"]]},
        cost=_own_cost(_cost(summary, spent), summary),
    )


def _result(
    folder: Path,
    *,
    pins: Mapping[str, Any],
    curve: Sequence[tuple[float, float, float]],
    scores: Mapping[str, Sequence[float]],
    cost: Mapping[str, float | None],
    success: Mapping[str, float] | None = None,
) -> Result:
    """A result of plain numbers; the command of a cell is the benchmark's, and left out."""
    facts = {name: fact for name, fact in machine().items() if name != "command"}
    return Result(
        machine=facts,
        pins=plain(pins),
        curve=tuple(tuple(plain(row)) for row in curve),
        scores={name: tuple(plain(list(values))) for name, values in scores.items()},
        cost=plain(cost),
        run=f"runs/{folder.name}",
        success=success,
    )


def _epochs(rows: list[dict[str, Any]]) -> list[tuple[float, float, float]]:
    """Epochs, validation accuracies and seconds of training of a run that trained its encoder; none of another."""
    return [(row["epoch"], row["validation_accuracy"], row["train_seconds"]) for row in rows if "epoch" in row]


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _seconds(row: Mapping[str, Any]) -> tuple[float, ...]:
    """Seconds of training until an evaluation: by the clock and, where they are known, of the processor."""
    return tuple(row[name] for name in ("train_seconds", "train_cpu_seconds") if name in row)


def _cost(summary: Mapping[str, Any], spent: Mapping[str, float | None]) -> dict[str, Any]:
    return {
        "wall_seconds": summary["wall_seconds"],
        **spent,
        "peak_memory_bytes": summary["peak_memory_bytes"],
        "trainable_parameters": summary["trainable_parameters"],
    }


def _own_cost(cost: Mapping[str, float | None], summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The cost of a classifier's cell, with how many images it encoded, and of how many the features were at hand.

    What it would have taken to encode those nobody knows, and so neither what the cell takes by itself.
    """
    counts = {name: summary[name] for name in ("images_encoded", "images_at_hand") if name in summary}
    unknown = dict.fromkeys(TAKEN) if counts.get("images_at_hand") else {}
    return {**cost, **unknown, **counts}


def _refuse_not_finite(folder: Path) -> None:
    """Refuse a run whose losses or returns left the numbers: what it ends with was not learned.

    Raises:
        RunError: naming the first such row.
    """
    for stream in ("metrics", "eval"):
        path = folder / f"{stream}.jsonl"
        for row in read_lines(path) if path.exists() else []:
            for name, value in row.items():
                # SB3 reports explained_variance as NaN where returns do not vary, which is no fault.
                watched = name.endswith("loss") or name == "mean"
                if watched and isinstance(value, float) and value - value != 0.0:
                    raise RunError(f"{name} is {value} at {_where(row)}.")


def _where(row: Mapping[str, Any]) -> str:
    return f"epoch {row['epoch']}" if "epoch" in row else f"step {row.get('step')}"


def main() -> int:
    """Run the cell on the first line of stdin, see `local.request`, and write its record.

    The pipe stays open as long as whoever started this lives: when it closes, this process ends, so that no cell goes
    on that a restarted benchmark would run a second time.
    """
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_pipe, daemon=True).start()
    try:
        with answering():
            ended = run_cell(Cell.from_json(asked["cell"]), Path(asked["runs"]), Trust(tuple(asked["trust"])))
    except Stop as stop:
        print(stop, file=sys.stderr)
        return stop.code
    Results(asked["address"]).write(ended)
    return 0 if ended.state == "done" else 1


def _end_with_the_pipe() -> None:
    sys.stdin.read()
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main())
