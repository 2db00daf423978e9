"""How fast a run would go, beside stock SB3 and beside the floor: measured in turns, so that a busy machine is fair."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from rich.console import Console

from stillsight.agents.columns import Columns
from stillsight.agents.command_line.json_output import print_json
from stillsight.agents.errors import RunError
from stillsight.agents.measure.encoder_speed import encoder_speed
from stillsight.agents.measure.env_speed import env_speed
from stillsight.agents.measure.measure_config import ThroughputConfig
from stillsight.agents.measure.process import ArmProcess
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.records import plain
from stillsight.agents.training.config import RlConfig
from stillsight.encoders.atomic import to_json

PARTS = ("environment", "encoder", "policy", "update", "rest")


Show = Callable[[str, dict[str, Any]], object]
"""Called with an arm's name and a measurement of it."""


def throughput(run: RlConfig, config: ThroughputConfig) -> dict[str, Any]:
    """Measure, print, and return the numbers: of a run, see `compare`, of encoders alone, see `encoder_speed`, or of
    environments alone, see `env_speed`.

    Raises:
        RunError, EncoderError, EnvError: the run could not be started either.
    """
    config.check()
    if config.envs:
        return env_speed(run, config)
    if config.encoders:
        return encoder_speed(run, config)
    console = Console(highlight=False, stderr=config.json)
    counts: dict[str, int] = dict.fromkeys(config.arms, 0)

    def show(name: str, row: dict[str, Any]) -> None:
        counts[name] += 1
        rate = f"{row['env_steps_per_s']:,.4g} env steps/s"
        console.print(f"round {counts[name]}/{config.rounds}  {name:9}  {rate}", markup=False)

    result = compare(run, config, show)
    if config.json:
        print_json(to_json(plain(result), indent=2))
    else:
        _print(console, result)
    return result


def compare(
    run: RlConfig,
    config: ThroughputConfig,
    show: Show = lambda *_: None,
    broken: Callable[[str, Exception], object] | None = None,
    left: Callable[[], float] = lambda: math.inf,
) -> dict[str, Any]:
    """Measure a run in every arm, in turns.

    Each arm lives in a process of its own, so that none inherits another's memory; only one works at a time.

    Args:
        run: what is measured.
        config: in which arms, how often, how long.
        show: called after each measurement.
        broken: called with an arm's name and its error, and the others go on; without it the error is raised.
        left: seconds until the measurement must be done: no round is begun that would not end by then, but the first.

    Raises:
        RunError, EncoderError, EnvError: the run could not be started either.
    """
    run.check()
    if run.in_policy:
        raise RunError("throughput measures in-policy beside cached by itself. Drop --in-policy.")
    run = run.resolved()
    running: dict[str, ArmProcess] = {name: ArmProcess(name, run) for name in config.arms}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in config.arms}
    facts: dict[str, dict[str, Any]] = {}

    def each(work: Callable[[str, ArmProcess], object]) -> None:
        for name, arm in list(running.items()):
            try:
                work(name, arm)
            except Exception as error:
                if broken is None:
                    raise
                broken(name, error)
                running.pop(name).stop()
                results.pop(name)

    def once(name: str, arm: ArmProcess) -> None:
        row = arm.ask(config.length)
        results[name].append(row)
        show(name, row)

    try:
        each(lambda _, arm: arm.answer())  # that it is built: one after the other, since building works too
        longest = 0.0
        for turn in range(config.rounds):
            if turn and left() < longest:
                break
            began = time.perf_counter()
            each(once)
            longest = max(longest, time.perf_counter() - began)
        each(lambda name, arm: facts.update({name: arm.ask(None)}))
    finally:
        for arm in running.values():
            arm.stop()
    return {
        "run": plain(run),
        "machine": machine(),
        "rounds": config.rounds,
        "seconds": config.length,
        "arms": {name: _arm(rows) | facts[name] | {"rounds": rows} for name, rows in results.items()},
        "ratios": _ratios(results),
    }


def _arm(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, with the range of the rate."""
    rates = [row["env_steps_per_s"] for row in rows]
    found: dict[str, Any] = {"env_steps_per_s": median(rates), "env_steps_per_s_range": [min(rates), max(rates)]}
    for key in ("shares", "seconds_per_env_step"):
        if key in rows[0]:
            parts = {part for row in rows for part in row[key]}
            found[key] = {part: median(row[key].get(part, 0.0) for row in rows) for part in PARTS if part in parts}
    if "images_encoded_per_env_step" in rows[0]:
        found["images_encoded_per_env_step"] = median(row["images_encoded_per_env_step"] for row in rows)
    return found


def _ratios(results: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Ratios of rates within each round, which a change of the machine's load between rounds does not touch."""
    found = {}
    for other in ("stock", "in-policy", "floor"):
        if other in results and "cached" in results:
            pairs = zip(results["cached"], results[other], strict=True)
            ratios = [ours["env_steps_per_s"] / theirs["env_steps_per_s"] for ours, theirs in pairs]
            found[f"cached / {other}"] = {"median": median(ratios), "least": min(ratios), "most": max(ratios)}
    return found


def _part(arm: dict[str, Any], part: str) -> str:
    if part in arm.get("shares", {}):
        return f"{arm['shares'][part]:.0%}"
    alone = arm.get("seconds_per_env_step", {})
    return f"{1e3 * alone[part]:.3g} ms" if part in alone else ""


def _print(console: Console, found: dict[str, Any]) -> None:
    names = list(found["arms"])
    table = Columns("", *names)
    arms = [found["arms"][name] for name in names]

    def row(label: str, cells: list[str]) -> None:
        if any(cells):
            table.add(label, *cells)

    row("env steps/s", [f"{arm['env_steps_per_s']:,.4g}" for arm in arms])
    row("  least .. most", ["{:,.4g} .. {:,.4g}".format(*arm["env_steps_per_s_range"]) for arm in arms])
    images = "images_encoded_per_env_step"
    row("images encoded / env step", [f"{arm[images]:,.2f}" if images in arm else "" for arm in arms])
    for part in PARTS:
        row(f"  {part}", [_part(arm, part) for arm in arms])
    for label, key in (
        ("buffer", "buffer_bytes"),
        ("checkpoint, to go on", "checkpoint_bytes"),
        ("checkpoint, to play", "playing_checkpoint_bytes"),
        ("peak memory", "peak_memory_bytes"),
    ):
        row(label, [f"{arm[key] / 1e6:,.1f} MB" if key in arm else "" for arm in arms])
    row("engine", [arm.get("engine", "") for arm in arms])
    table.show(console)
    for name, ratio in found["ratios"].items():
        console.print(f"{name}: {ratio['median']:.3g}  ({ratio['least']:.3g} .. {ratio['most']:.3g})", markup=False)
