"""Cells in processes of this machine, as many side by side as there are cores for."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.benchmark.running.worker import failed

POLL = 0.05
"""Seconds between two looks at the processes."""
RENDERING = {"SDL_VIDEODRIVER": "dummy"}
"""Workers draw into memory, also where a screen is at hand."""


class Running(NamedTuple):
    """A cell that is being run."""

    job: Mapping[str, Any]
    process: subprocess.Popen[str]
    log: IO[str]
    slot: int


def run_local(
    jobs: Sequence[Mapping[str, Any]], results: Results, count: int, gpus: int = 0
) -> Iterator[dict[str, Any]]:
    """Run `jobs`, `count` at a time, and yield the record of each as it ends.

    Each has a process of its own: a crash, a leak or a killed process costs one cell. Two processes of one thread get
    more out of two cores than one of two threads does, since an agent's steps are too small to be shared out.

    Args:
        jobs: see `worker.job`.
        results: where workers write their records.
        count: processes side by side.
        gpus: graphics cards, dealt out in turns; 0 leaves the choice to each worker.
    """
    waiting, free = list(jobs), list(range(count))
    busy: list[Running] = []
    try:
        while waiting or busy:
            while waiting and free:
                busy.append(_start(waiting.pop(0), results, free.pop(0), gpus))
            ended = [one for one in busy if one.process.poll() is not None]
            for one in ended:
                busy.remove(one)
                free.append(one.slot)
                yield _end(one, results)
            if not ended:
                time.sleep(POLL)
    finally:
        for one in busy:
            one.process.terminate()
        for one in busy:
            one.process.wait()
            one.log.close()


def _start(job: Mapping[str, Any], results: Results, slot: int, gpus: int) -> Running:
    threads = job["config"].get("threads") or 1
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | RENDERING
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
    path = Path(job["runs"]) / f"{job['key']}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "stillsight.agents.benchmark.running.worker"],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches the benchmark alone, which then ends its workers
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once, which `_end` will find
        process.stdin.write(json.dumps({**job, "address": results.address}) + "\n")
        process.stdin.flush()  # and stays open: when this process ends, the worker ends
    return Running(job, process, log, slot)


def _end(one: Running, results: Results) -> dict[str, Any]:
    """The record of a cell whose process ended; one that left none is put down as failed."""
    assert one.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        one.process.stdin.close()
    one.log.close()
    record = results.read(one.job["key"])
    if record is None:
        code = one.process.returncode
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        record = failed(one.job, f"its process ended {how}, see runs/{one.job['key']}.log")
        results.write(record)
    return record
