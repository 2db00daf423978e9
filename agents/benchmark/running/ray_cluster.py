"""Cells as tasks of a Ray cluster, which may have many machines and may lose some of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stillsight.agents.benchmark.running.local import RENDERING
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.benchmark.running.worker import failed, run_cell
from stillsight.agents.errors import RunError


def run_ray(
    jobs: Sequence[Mapping[str, Any]], results: Results, address: str | None = None, count: int | None = None
) -> Iterator[dict[str, Any]]:
    """Run `jobs` on a Ray cluster and yield the record of each as it ends.

    A task asks for as many CPUs as its cell has threads, and runs in a process of its own. The records come back to
    this process, which alone writes them; run folders stay where they were made, unless the benchmark's folder is one
    that all machines share. The cells of a node that is lost run again, from their beginning, on those that are left.

    Args:
        jobs: see `worker.job`.
        results: where records go.
        address: of the cluster; None starts one on this machine.
        count: cells side by side; None for as many as the cluster has CPUs for.

    Raises:
        RunError: Ray is not installed, or there is no cluster at `address`.
    """
    try:
        import ray
    except ImportError as error:
        raise RunError('Ray is not installed. Run: pip install "stillsight[ray]", or drop --engine ray.') from error
    if not ray.is_initialized():
        try:
            _reach(address)
            ray.init(address=address, log_to_driver=False)
        except (OSError, ValueError) as error:
            raise RunError(f"No Ray cluster answers at {address}: {error}. Start one with: ray start --head") from error
    # A task that raises has met a bug of ours, and meets it again; a node that goes takes its cells with it each time.
    remote = ray.remote(max_retries=-1, retry_exceptions=False, max_calls=1)(run_cell)
    waiting = [dict(job, runs=str(Path(job["runs"]).absolute())) for job in jobs]
    running: dict[Any, Mapping[str, Any]] = {}
    while waiting or running:
        while waiting and (count is None or len(running) < count):
            job = waiting.pop(0)
            threads = job["config"].get("threads") or 1
            environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)} | RENDERING}
            task = remote.options(num_cpus=threads, runtime_env=environment, name=job["key"])
            running[task.remote(job)] = job
        ended, _ = ray.wait(list(running), num_returns=1)
        for one in ended:
            done = running.pop(one)
            try:
                record: dict[str, Any] = ray.get(one)
            except ray.exceptions.RayError as error:
                record = failed(done, f"{type(error).__name__}: {error}")
            results.write(record)
            yield record


def _reach(address: str | None) -> None:
    """Raise `OSError` if nobody listens at host:port: Ray itself goes on trying for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()
