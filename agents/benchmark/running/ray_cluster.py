"""Execution on Ray: cells as tasks of a cluster, which may have many machines and may lose some of them."""

from __future__ import annotations

import socket
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from stillsight.agents.benchmark.grid.cell import Cell
from stillsight.agents.benchmark.running.local import RENDERING
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.benchmark.running.worker import run_cell
from stillsight.agents.errors import RunError
from stillsight.agents.runs.trust import NOTHING, Trust


def run_ray(
    cells: Sequence[Cell],
    results: Results,
    runs: Path,
    address: str | None = None,
    count: int | None = None,
    trust: Trust = NOTHING,
) -> Generator[Cell, None, None]:
    """Run planned cells on a Ray cluster and yield each as it ends.

    A task asks for as many CPUs as its cell has threads, and runs in a process of its own. The cells come back to
    this process, which alone writes them; run folders stay where they were made, unless the benchmark's folder is one
    that all machines share. The cells of a node that is lost run again, from their beginning, on those that are left.

    Args:
        cells: planned.
        results: where they are kept.
        runs: the folder of the run folders.
        address: of the cluster; None starts one on this machine.
        count: cells side by side; None for as many as the cluster has CPUs for.
        trust: what the cells may ask for.

    Raises:
        RunError: Ray is not installed, or there is no cluster at `address`.
    """
    try:
        import ray
    except ImportError as error:
        raise RunError('Ray is not installed. Run: pip install "stillsight[ray]", or drop --launcher ray.') from error
    if not ray.is_initialized():
        try:
            _reach(address)
            ray.init(address=address, log_to_driver=False)
        except (OSError, ValueError) as error:
            raise RunError(f"No Ray cluster answers at {address}: {error}. Start one with: ray start --head") from error
    # A task that raises has met a bug of ours, and meets it again; a node that goes takes its cells with it each time.
    remote: Any = ray.remote(max_retries=-1, retry_exceptions=False, max_calls=1)(run_cell)
    waiting, runs = list(cells), runs.absolute()
    running: dict[Any, Cell] = {}
    while waiting or running:
        while waiting and (count is None or len(running) < count):
            cell = waiting.pop(0)
            threads = cell.planned_work().threads
            environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)} | RENDERING}
            task = remote.options(num_cpus=threads, runtime_env=environment, name=cell.key)
            running[task.remote(cell, runs, trust)] = cell
        ready, _ = ray.wait(list(running), num_returns=1)
        for reference in ready:
            cell = running.pop(reference)
            try:
                ended: Cell = ray.get(reference)
            except ray.exceptions.RayError as error:
                ended = cell.failed(f"{type(error).__name__}: {error}")
            results.write(ended)
            yield ended


def _reach(address: str | None) -> None:
    """Raise `OSError` if nobody listens at host:port: Ray itself goes on trying for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()
