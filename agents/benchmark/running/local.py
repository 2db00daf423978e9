"""Local execution: cells in processes of this machine, as many side by side as there are cores for."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from stillsight.agents.benchmark.grid.cell import Cell
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.runs.trust import NOTHING, Trust
from stillsight.encoders.atomic import to_json, writing
from stillsight.encoders.system.stopping import SIGNALS

POLL = 0.05
"""Seconds between two looks at the processes."""
STOPPED = {code: name for number, name in SIGNALS.items() for code in (-number, 128 + number)}
"""Exit code of a worker that was asked to stop -> how."""
RENDERING = {"SDL_VIDEODRIVER": "offscreen"}
"""Workers draw into memory, also where a screen is at hand; by "dummy", the usual choice, highway-env draws nothing."""


class Running(NamedTuple):
    """A cell that is being run."""

    cell: Cell
    process: subprocess.Popen[str]
    log: IO[str]
    slot: int


def run_local(
    cells: Sequence[Cell], results: Results, runs: Path, count: int, gpus: int = 0, trust: Trust = NOTHING
) -> Generator[Cell, None, None]:
    """Run planned cells, `count` at a time, and yield each as it ends.

    Each has a process of its own: a crash, a leak or a killed process costs one cell. Two processes of one thread get
    more out of two cores than one of two threads does, since an agent's steps are too small to be shared out.

    Args:
        cells: planned.
        results: where workers write what came out.
        runs: the folder of the run folders and the workers' logs.
        count: processes side by side.
        gpus: graphics cards that this process sees, dealt out in turns; 0 leaves the choice to each worker.
        trust: what the cells may ask for.
    """
    waiting, free = list(cells), list(range(count))
    busy: list[Running] = []
    try:
        while waiting or busy:
            while waiting and free:
                busy.append(_start(waiting.pop(0), results, runs, free.pop(0), gpus, trust))
            ended = [one for one in busy if one.process.poll() is not None]
            for one in ended:
                busy.remove(one)
                free.append(one.slot)
                yield _end(one, results)
            if not ended:
                time.sleep(POLL)
    finally:
        for one in busy:
            _kill(one.process)
            one.log.close()


def _cards(gpus: int) -> list[str]:
    """The cards that this process sees, as CUDA_VISIBLE_DEVICES names them: by number, UUID or MIG instance.

    Where the user chose among them, the first is not number 0, and the others may be somebody else's.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(gpus)] if chosen is None else chosen.split(",")[:gpus]


def _kill(process: subprocess.Popen[str]) -> None:
    """End a worker and all that it started, which are in its session: a cell that is cut short begins anew anyway."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _start(cell: Cell, results: Results, runs: Path, slot: int, gpus: int, trust: Trust) -> Running:
    environment = os.environ | {"OMP_NUM_THREADS": str(cell.planned_work().threads)} | RENDERING
    if gpus:
        cards = _cards(gpus)
        environment["CUDA_VISIBLE_DEVICES"] = cards[slot % len(cards)]
    with writing(runs / f"{cell.key}.log"):
        runs.mkdir(parents=True, exist_ok=True)
        (runs / f"{cell.key}.log").unlink(missing_ok=True)  # which may be a link, or have a second name
        log = (runs / f"{cell.key}.log").open("x")
    process = subprocess.Popen(
        # -P: without the current folder before what is installed, where a torch.py of anybody's may lie.
        [sys.executable, "-P", "-m", "stillsight.agents.benchmark.running.worker"],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches the benchmark alone, which then ends its workers
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once, which `_end` will find
        process.stdin.write(request(cell, runs, results, trust))
        process.stdin.flush()  # and stays open: when this process ends, the worker ends
    return Running(cell, process, log, slot)


def request(cell: Cell, runs: Path, results: Results, trust: Trust = NOTHING) -> str:
    """The line of JSON that `worker.main` reads: a planned cell, the folder of its run folder, where its record goes,
    and what it may ask for."""
    asked = {"cell": cell.to_json(), "runs": str(runs), "address": results.address, "trust": list(trust.names)}
    return to_json(asked) + "\n"


def _end(one: Running, results: Results) -> Cell:
    """A cell whose process ended; one that left no record is put down as failed."""
    assert one.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        one.process.stdin.close()
    one.log.close()
    ended = results.read(one.cell.key)
    if ended is None:
        code = one.process.returncode
        if code in STOPPED:  # somebody stopped the worker, and mostly us too: it has not failed, and is to be run again
            return one.cell.failed(f"its process was stopped by {STOPPED[code]}")
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        ended = one.cell.failed(f"its process ended {how}, see runs/{one.cell.key}.log")
        results.write(ended)
    return ended
