"""The benchmark command, read from top to bottom: what was asked for, the plan, the cells, the report."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stillsight.agents.benchmark.grid.parse import parse_spec, read_spec
from stillsight.agents.benchmark.grid.spec import Spec, slug
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.errors import RunError

BENCHMARKS = Path("results/benchmarks")
"""Where benchmark folders go by default."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Run every cell of a benchmark that was not run yet, then report."""

    env: tuple[str, ...] = ()
    """Without a SPEC.toml: environments to compare in."""
    encoder: tuple[str, ...] = ("retina",)
    """Without a SPEC.toml: encoders to compare, each with its controls."""
    tap: tuple[str, ...] = ()
    """Without a SPEC.toml: taps of the encoders; by default each one's own."""
    algo: tuple[str, ...] = ("ppo",)
    """Without a SPEC.toml: algorithms."""
    steps: int = 100_000
    """Without a SPEC.toml: environment steps of each cell."""
    seeds: int = 5
    """Without a SPEC.toml: seeds of each cell."""
    shifts: tuple[str, ...] = ()
    """Without a SPEC.toml: visual shifts to play under, see envs/shifts.py."""
    out: Path | None = None
    """The benchmark's folder; results/benchmarks/<name> by default."""
    address: str | None = None
    """Where the cells' records go instead of the folder: any address of fsspec, say s3://bucket/name."""
    jobs: int | None = None
    """Cells side by side; one a core by default."""
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: tasks of a Ray cluster (extra ray)."""
    ray_address: str | None = None
    """Of the Ray cluster, say auto or ray://host:10001; by default one is started here."""
    retry: bool = False
    """Run cells that failed again."""
    plan: bool = False
    """Say what would run, how long it would take and what it would fill, and stop."""
    trial: bool = True
    """Try each kind of cell for a moment to tell how long the benchmark takes; --no-trial goes by what has run."""

    def spec_text(self) -> str:
        """The SPEC.toml that the flags stand for.

        Raises:
            RunError: no environment was named.
        """
        if not self.env:
            raise RunError(
                "There is nothing to compare. Give a SPEC.toml, or type, say: stillsight benchmark --env "
                "stillsight/Orchard-v0 --encoder retina --seeds 5 --steps 50_000"
            )
        lines = [f'name = "{"-".join(map(slug, self.env))}"', f"seeds = {self.seeds}", f"algos = {_array(self.algo)}"]
        lines += [f"shifts = {_array(self.shifts)}", "", "[rl]", f"steps = {self.steps}"]
        for env in self.env:
            lines += ["", "[[task]]", f'env = "{env}"']
        for encoder in self.encoder:
            lines += [
                "",
                "[[encoder]]",
                f'encoder = "{encoder}"',
                *([f"taps = {_array(self.tap)}"] if self.tap else []),
            ]
        return "\n".join(lines) + "\n"


def _array(words: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


def benchmark(path: Path | None, config: BenchmarkConfig) -> int:
    """Run the benchmark of the SPEC.toml at `path`, or of the flags; returns the exit code.

    Returns:
        0; 1 if a cell failed, is missing, or cannot be pooled with the others of its arm.

    Raises:
        RunError, EncoderError, EnvError: a user's mistake; nothing was run.
    """
    from stillsight.agents.benchmark.report.report import ReportConfig, report
    from stillsight.agents.runs.progress import ProgressDisplay

    spec = parse_spec(config.spec_text()) if path is None else read_spec(path)
    folder = config.out or BENCHMARKS / slug(spec.name)
    if config.jobs is not None and config.jobs < 1:
        raise RunError(f"--jobs {config.jobs} runs nothing. Type a number from 1.")
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(config.address or folder)
    display = ProgressDisplay()
    with _alone(folder):
        results.put("SPEC.toml", spec.text)
        _forget(spec, results, retry=config.retry)
        if not _told_plan(spec, results, folder, config, display):
            return 0
        run(spec, results, folder, config, display)
    display.close()
    return report(folder if config.address is None else _fetched(results, spec, folder), ReportConfig())


def run(spec: Spec, results: Results, folder: Path, config: BenchmarkConfig, display: Any) -> None:
    """Run what is missing, until nothing new can be said: cells whose rate is tuned follow those that tune it."""
    from stillsight.agents.benchmark.running.local import run_local
    from stillsight.agents.benchmark.running.reference import refer

    refer(spec, results, display)
    tried: set[str] = set()
    while True:
        jobs = [one for one in missing(spec, results, folder) if one["key"] not in tried]
        if not jobs:
            return
        tried |= {one["key"] for one in jobs}
        if config.engine == "ray":
            from stillsight.agents.benchmark.running.ray_cluster import run_ray

            ended = run_ray(jobs, results, config.ray_address, config.jobs)
        else:
            ended = run_local(jobs, results, config.jobs or cores(jobs), gpus())
        for done, record in enumerate(ended, 1):
            told = record["error"] or f"score {score(record):.4g}"
            display.console.print(f"{record['key']}: {record['state']}, {told}", soft_wrap=True, markup=False)
            display.update("cell", done, len(jobs))


def missing(spec: Spec, results: Results, folder: Path) -> list[dict[str, Any]]:
    """Jobs of the cells that have no record and can be run by now."""
    from stillsight.agents.benchmark.running.worker import job

    records: dict[str, Mapping[str, Any] | None] = {}

    def known(key: str) -> float | None:
        if key not in records:
            records[key] = results.read(key)
        record = records[key]
        # A rate that fails is no rate: it must not win.
        return None if record is None else score(record) if record["state"] == "done" else float("-inf")

    cells = [cell for cell in spec.cells(known) if known(cell.key) is None]
    return [job(cell, spec, folder / "runs") for cell in cells]


def score(record: Mapping[str, Any]) -> float:
    """The mean of a finished cell's clean returns, or its accuracy."""
    clean = record["scores"]["clean"]
    return float(sum(clean) / len(clean))


def cores(jobs: Sequence[Mapping[str, Any]]) -> int:
    """How many cells fit side by side: a core for each thread of each."""
    threads = max((one["config"].get("threads") or 1 for one in jobs), default=1)
    # Where the system tells: a container or `taskset` may leave this process fewer cores than there are.
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, free // threads)


def gpus() -> int:
    """Number of CUDA devices."""
    import torch

    return torch.cuda.device_count()


def _forget(spec: Spec, results: Results, *, retry: bool) -> None:
    if retry:
        for cell in spec.cells(lambda _: 0.0):
            record = results.read(cell.key)
            if record is not None and record["state"] == "failed":
                results.remove(cell.key)


def _told_plan(spec: Spec, results: Results, folder: Path, config: BenchmarkConfig, display: Any) -> bool:
    """Print the plan; False if that was all that was asked for."""
    from stillsight.agents.benchmark.running.plan import plan

    jobs = missing(spec, results, folder)
    display.card(
        f"benchmark {spec.name}", plan(spec, results, jobs, folder, config.jobs or cores(jobs), trial=config.trial)
    )
    return not config.plan


def _fetched(results: Results, spec: Spec, folder: Path) -> Path:
    """The records in `folder`, fetched from where they lie, for the report."""
    here = Results(folder)
    for name in ("SPEC.toml", "references.json"):
        text = results.get(name)
        if text is not None:
            here.put(name, text)
    for key in spec.expected():
        record = results.read(key)
        if record is not None:
            here.write(record)
    return folder


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second benchmark out of the folder.

    Raises:
        RunError: one works there already.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"Another benchmark works in {folder}. Wait for it, or choose another: --out FOLDER."
            ) from error
        yield
