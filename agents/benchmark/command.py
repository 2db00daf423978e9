"""The benchmark command, read from top to bottom: what was asked for, the plan, the cells, the report."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from stillsight.agents.benchmark.analysis.claims import SEEDS
from stillsight.agents.benchmark.benchmark_config import BenchmarkConfig, ReportConfig
from stillsight.agents.benchmark.grid.cell import Cell, slug
from stillsight.agents.benchmark.grid.parse import parse_spec, read_spec
from stillsight.agents.benchmark.grid.spec import Spec, learned_as_planned
from stillsight.agents.benchmark.report.report import report
from stillsight.agents.benchmark.running.local import run_local
from stillsight.agents.benchmark.running.plan import plan
from stillsight.agents.benchmark.running.ray_cluster import run_ray
from stillsight.agents.benchmark.running.reference import measure_references
from stillsight.agents.benchmark.running.results import WHAT, Results
from stillsight.agents.runs.lock import LOCK_FILE, Lock
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.encoders.atomic import writing
from stillsight.encoders.system.plain_file import below
from stillsight.encoders.system.stopping import Stop

BENCHMARKS = Path("results/benchmarks")
"""Where benchmark folders go by default."""


def benchmark(path: Path | None, config: BenchmarkConfig) -> int:
    """Run the benchmark of the SPEC.toml at `path`, or of the flags; returns the exit code.

    Returns:
        0; 1 if a cell failed, is missing, or cannot be pooled with the others of its arm.

    Raises:
        RunError, EncoderError, EnvError: a user's mistake; nothing was run.
    """
    config.check()
    if path is not None:
        config.check_beside(path)
    trust = config.trusted
    spec = parse_spec(config.spec_text(), trust=trust) if path is None else read_spec(path, trust=trust)
    folder = config.out or BENCHMARKS / slug(spec.name)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    results = Results(config.address or folder)
    display = ProgressDisplay()
    with _alone(folder, results):
        bad = failed(spec, results)
        again = bad if config.retry else []
        cells = [*again, *missing(spec, results)]
        side_by_side = config.jobs or cores(cells)
        rows = plan(
            *(spec, results, cells, folder, side_by_side, display),
            failed=len(bad) - len(again),
            trial=config.trial,
            fewest=SEEDS,
            trust=trust,
        )
        display.card(f"benchmark {spec.name}", rows)
        if config.plan:  # which leaves what has run as it is
            return 0
        results.put("SPEC.toml", spec.text)
        for cell in again:
            results.remove(cell.key)
        try:
            run(spec, results, folder, config, display)
        except Stop as stop:
            ended = sum(results.read(key) is not None for key in spec.expected())
            stop.sentence = (
                f"Stopped by {stop.name}: {ended} of {len(spec.expected())} cells have ended and are kept. The same "
                "command goes on from here."
            )
            raise
        finally:
            display.close()
        if config.address is not None:
            _fetch(results, spec, Results(folder), display)
    return report(folder, ReportConfig(trust=trust.names))


def run(spec: Spec, results: Results, folder: Path, config: BenchmarkConfig, display: ProgressDisplay) -> None:
    """Run what is missing, until nothing new can be said: cells whose rate is tuned follow those that tune it."""
    measure_references(spec, results, display)
    runs = below(folder, "runs", what=WHAT)
    tried: set[str] = set()
    while True:
        cells = [cell for cell in missing(spec, results) if cell.key not in tried]
        if not cells:
            return
        tried |= {cell.key for cell in cells}
        if config.launcher == "ray":
            ended = run_ray(cells, results, runs, config.ray_address, config.jobs, config.trusted)
        else:
            ended = run_local(cells, results, runs, config.jobs or cores(cells), gpus(), config.trusted)
        with contextlib.closing(ended):  # its workers end with it, whatever happens here
            for done, cell in enumerate(ended, 1):
                outcome = cell.error or f"score {cell.score:.4g}"
                display.console.print(f"{cell.key}: {cell.state}, {outcome}", soft_wrap=True, markup=False)
                display.update("cell", done, len(cells))


def missing(spec: Spec, results: Results) -> list[Cell]:
    """The cells that can be run by now and have no record, or one of another rate than the one that is best by now."""
    read = functools.cache(results.read)
    ended = [(cell, read(cell.key)) for cell in spec.cells_after(read)]
    return [cell for cell, known in ended if known is None or not learned_as_planned(known, cell)]


def cores(cells: Sequence[Cell]) -> int:
    """How many cells fit side by side: a core for each thread of each."""
    threads = max((cell.planned_work().threads for cell in cells), default=1)
    # Where the system tells: a container or `taskset` may leave this process fewer cores than there are.
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, free // threads)


def gpus() -> int:
    """Number of CUDA devices."""
    import torch

    return torch.cuda.device_count()


def failed(spec: Spec, results: Results) -> list[Cell]:
    """The cells that were run and failed, as they are planned."""
    ended = [(cell, results.read(cell.key)) for cell in spec.all_cells()]
    return [cell for cell, known in ended if known is not None and known.state == "failed"]


def _fetch(results: Results, spec: Spec, here: Results, display: ProgressDisplay) -> None:
    """Copy the records from where they lie into the benchmark's folder, for the report.

    What lies in the folder alone is no cell of this benchmark by now, and may be all that somebody has of another: it
    is kept beside the records, where no report counts it.
    """
    for name in ("SPEC.toml", "references.json"):
        text = results.get(name)
        if text is not None:
            here.put(name, text)
    for key in spec.expected():
        cell = results.read(key)
        if cell is not None:
            here.write(cell)
        elif (kept := here.set_aside(key)) is not None:
            display.note(
                f"{key} has no record at {results.address}, so that of {here.address} does not count. It is kept as "
                f"{kept}."
            )


@contextlib.contextmanager
def _alone(folder: Path, results: Results) -> Iterator[None]:
    """Keep a second benchmark out of the folder, and remove what a killed one left half written.

    Raises:
        RunError: one works there already.
        DiskFault: the folder cannot be written.
    """
    lock = Lock(folder, "benchmark")
    with writing(folder / LOCK_FILE):
        lock.take()
    try:
        results.sweep()
        yield
    finally:
        lock.give_back()
