"""The flags of `stillsight benchmark` and `stillsight report`; importing them costs neither torch nor scipy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stillsight.agents.benchmark.grid.cell import slug
from stillsight.agents.errors import RunError


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


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write the tables, figures and HTML page of a benchmark from the cells in its folder."""

    out: Path | None = None
    """Where report.md, index.html, summary.json and figures/ go; the benchmark's own folder by default."""
