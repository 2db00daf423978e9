"""How fast a run would go, beside stock SB3 and beside the floor: measured in turns, so that a busy machine is fair."""

from __future__ import annotations

from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from stillsight.agents.errors import RunError
from stillsight.agents.measure.measure_config import ThroughputConfig
from stillsight.agents.measure.process import ArmProcess
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.records import plain
from stillsight.agents.training.config import RlConfig
from stillsight.encoders.atomic import to_json

PARTS = ("environment", "encoder", "policy", "update", "rest")


def throughput(run: RlConfig, config: ThroughputConfig) -> dict[str, Any]:
    """Measure, print, and return the numbers.

    Each arm lives in a process of its own, so that none inherits another's memory; only one works at a time.

    Raises:
        RunError, EncoderError, EnvError: the run could not be started either.
    """
    config.check()
    run.check()
    if run.in_policy:
        raise RunError("throughput measures in-policy beside cached by itself. Drop --in-policy.")
    run = run.resolved()
    console = Console(highlight=False, stderr=config.json)
    running: dict[str, ArmProcess] = {name: ArmProcess(name, run) for name in config.arms}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in config.arms}
    try:
        for arm in running.values():
            arm.answer()  # that it is built: one after the other, since building works too
        for index in range(config.rounds):
            for name, arm in running.items():
                row = arm.ask(config.seconds)
                results[name].append(row)
                rate = f"{row['env_steps_per_s']:,.4g} env steps/s"
                console.print(f"round {index + 1}/{config.rounds}  {name:9}  {rate}", markup=False)
        facts = {name: arm.ask(None) for name, arm in running.items()}
    finally:
        for arm in running.values():
            arm.stop()
    found = {
        "run": plain(run),
        "machine": machine(),
        "rounds": config.rounds,
        "seconds": config.seconds,
        "arms": {name: _arm(rows) | facts[name] | {"rounds": rows} for name, rows in results.items()},
        "ratios": _ratios(results),
    }
    if config.json:
        print(to_json(plain(found), indent=2))
    else:
        _print(console, found)
    return found


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
    table = Table("", *names, box=None, pad_edge=False, header_style="bold")
    arms = [found["arms"][name] for name in names]

    def row(label: str, cells: list[str]) -> None:
        if any(cells):
            table.add_row(label, *cells)

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
    console.print(table)
    for name, ratio in found["ratios"].items():
        console.print(f"{name}: {ratio['median']:.3g}  ({ratio['least']:.3g} .. {ratio['most']:.3g})", markup=False)
