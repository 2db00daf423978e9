"""Environment steps a second by id and backend, measured in turns within one run."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from rich.console import Console

from stillsight.agents.columns import Columns
from stillsight.agents.command_line.json_output import print_json
from stillsight.agents.measure.measure_config import ThroughputConfig
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.records import plain
from stillsight.agents.training.config import RlConfig
from stillsight.encoders.atomic import to_json
from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions
from stillsight.envs.registry import check_shift, resolve
from stillsight.envs.vectorised.backends import LOOP, BackendProcess, backends

N_ENVS = 8
"""Environments side by side where no number was asked for."""


def env_speed(run: RlConfig, config: ThroughputConfig) -> dict[str, Any]:
    """Measure environments alone, print the table, and return the numbers: a row for each id and backend.

    The backends of an id work in turns, each in a process of its own; one that cannot is a row that says why.

    Raises:
        EnvError: nothing could be measured.
    """
    console = Console(highlight=False, stderr=config.json)
    rows: list[dict[str, Any]] = []
    for env_id in config.envs:
        rows += _measured(env_id, run, config, lambda line: console.print(line, markup=False, soft_wrap=True))
    result = {
        "machine": machine(),
        "n_envs": run.n_envs or N_ENVS,
        "rounds": config.rounds,
        "seconds": config.length,
        "rows": rows,
    }
    if config.json:
        print_json(to_json(plain(result), indent=2))
    else:
        _print(console, result)
    if not any("env_steps_per_s" in row for row in rows):
        raise EnvError(f"Nothing was measured: {rows[0]['refused']}")
    return result


def _measured(
    env_id: str, run: RlConfig, config: ThroughputConfig, show: Callable[[str], object]
) -> list[dict[str, Any]]:
    """The rows of one id."""
    n_envs = run.n_envs or N_ENVS
    try:
        options: EnvOptions = resolve(env_id).options.merge(
            size=run.size,
            frame_skip=run.frame_skip,
            pixels=run.pixels or None,
            state=run.state or None,
            shift=run.shift,
            shift_strength=run.shift_strength,
        )
        check_shift(env_id, options.shift)
        names = backends(env_id)
    except EnvError as error:
        show(f"{env_id}: {error}")
        return [{"env": env_id, "backend": "all", "refused": str(error)}]
    rows: dict[str, dict[str, Any]] = {name: {"env": env_id, "backend": name, "rounds": []} for name in names}
    running: dict[str, BackendProcess] = {}

    def each(work: Callable[[str], object], over: list[str]) -> None:
        for name in over:
            try:
                work(name)
            except EnvError as error:
                rows[name]["refused"] = str(error)
                show(f"{env_id} {name}: {error}")
                running.pop(name).stop()

    def start(name: str) -> None:
        running[name] = BackendProcess(env_id, name, n_envs, options, run.seed)
        running[name].built()
        rows[name] |= running[name].facts

    def once(name: str) -> None:
        found = running[name].measure(config.length)
        rows[name]["rounds"].append(found)
        show(f"{env_id} {name}: {found['env_steps_per_s']:,.4g} env steps/s")

    try:
        each(start, names)
        for _ in range(config.rounds):
            each(once, list(running))
    finally:
        for process in running.values():
            process.stop()
    loop = rows[LOOP]
    for row in rows.values():
        if "refused" in row:
            continue
        rates = [each["env_steps_per_s"] for each in row["rounds"]]
        row["env_steps_per_s"] = {"median": median(rates), "least": min(rates), "most": max(rates)}
        if "refused" not in loop:
            beside = [each["env_steps_per_s"] for each in loop["rounds"]]
            row["beside_loop"] = median(rate / other for rate, other in zip(rates, beside, strict=True))
    return list(rows.values())


def _print(console: Console, result: dict[str, Any]) -> None:
    host = result["machine"]
    told = f"{result['rounds']} rounds of {result['seconds']:g} s, in turns, {result['n_envs']} environments"
    console.print(
        f"env steps/s, medians of {told}, on {host['cpu']}, {host['cores']} cores",
        style="bold",
        markup=False,
        soft_wrap=True,
    )
    table = Columns(
        *("environment", "backend", "env steps/s", "least .. most", "beside the loop"),
        right=("env steps/s",),
        spare=("least .. most",),
        whole=("least .. most",),
    )
    notes: list[str] = []
    for row in result["rows"]:
        cells = [row["env"], row["backend"]]
        if "refused" in row:
            if row["refused"] not in notes:
                notes.append(row["refused"])
            cells += ["-", f"({notes.index(row['refused']) + 1})", ""]
        else:
            speed = row["env_steps_per_s"]
            beside = f"{row['beside_loop']:.2f}" if "beside_loop" in row else ""
            cells += [f"{speed['median']:,.0f}", f"{speed['least']:,.0f} .. {speed['most']:,.0f}", beside]
        table.add(*cells)
    table.show(console)
    for number, sentence in enumerate(notes, 1):
        console.print(f"({number}) {sentence}", markup=False, soft_wrap=True)
