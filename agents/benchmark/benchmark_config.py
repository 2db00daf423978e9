"""The flags of `stillsight benchmark` and `stillsight report`; importing them costs neither torch nor scipy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stillsight.agents.benchmark.grid.cell import slug
from stillsight.agents.errors import RunError
from stillsight.agents.runs.trust import Trust

ENCODERS, ALGOS, STEPS, SEEDS = ("retina",), ("ppo",), 100_000, 5
"""What is compared where neither a SPEC.toml nor flags say."""
DESCRIBING = {
    "env": "[[task]] env = ...",
    "encoder": "[[encoder]] encoder = ...",
    "tap": "[[encoder]] taps = [...]",
    "algo": "algos = [...]",
    "steps": "[rl] steps = ...",
    "seeds": "seeds = ...",
    "shifts": "shifts = [...]",
}
"""Flags that a SPEC.toml stands for, and where it says the same."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Run every cell of a benchmark that was not run yet, then report."""

    env: tuple[str, ...] = ()
    """Without a SPEC.toml: environments to compare in."""
    encoder: tuple[str, ...] = ()
    """Without a SPEC.toml: encoders to compare, each with its controls; retina by default."""
    tap: tuple[str, ...] = ()
    """Without a SPEC.toml: taps of the encoders; by default each one's own."""
    algo: tuple[str, ...] = ()
    """Without a SPEC.toml: algorithms; ppo by default."""
    steps: int | None = None
    """Without a SPEC.toml: environment steps of each cell; 100,000 by default."""
    seeds: int | None = None
    """Without a SPEC.toml: seeds of each cell; 5 by default, the fewest that a verdict is given on."""
    shifts: tuple[str, ...] = ()
    """Without a SPEC.toml: visual shifts to play under, as `evaluate --shift` takes them."""
    out: Path | None = None
    """The benchmark's folder; results/benchmarks/<name> by default."""
    address: str | None = None
    """Where the cells' records go instead of the folder: any address of fsspec, say s3://bucket/name."""
    jobs: int | None = None
    """Cells side by side; one a core by default."""
    launcher: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: tasks of a Ray cluster (extra ray)."""
    ray_address: str | None = None
    """Of the Ray cluster, say auto or ray://host:10001; by default one is started here."""
    retry: bool = False
    """Run cells that failed again."""
    plan: bool = False
    """Say what would run, how long it would take and what it would fill, and stop."""
    trial: bool = True
    """Try an agent's cell of each kind that has not run, about half a minute each, to tell how long the benchmark
    takes; --no-trial goes by what has run."""
    trust: tuple[str, ...] = ()
    """What SPEC.toml asks for and stillsight does not know of itself, as the refusal names it: code (module:name), a
    Gymnasium id, a NAME=VALUE, or a folder to write into."""

    @property
    def trusted(self) -> Trust:
        """What the cells may ask for: what was typed, here and by flags that stand for a SPEC.toml."""
        pictures = [path for shift in self.shifts if (path := shift.partition("@")[2])]
        return Trust((*self.trust, *self.env, *self.encoder, *self.algo, *pictures))

    def check(self) -> None:
        """Refuse flags without effect, before anything heavy is imported.

        Raises:
            RunError: what was given, why nothing would come of it, and what to type.
        """
        if self.ray_address is not None and self.launcher != "ray":
            raise RunError(
                f"--ray-address {self.ray_address} has no effect with --launcher {self.launcher}. Type --launcher ray, "
                "or drop it."
            )
        if self.jobs is not None and self.jobs < 1:
            raise RunError(f"--jobs {self.jobs} runs nothing. Type a number from 1.")

    def check_beside(self, path: Path) -> None:
        """Refuse what SPEC.toml says instead.

        Args:
            path: of the SPEC.toml that was given.

        Raises:
            RunError: a flag that describes the benchmark was given too.
        """
        for name, key in DESCRIBING.items():
            value = getattr(self, name)
            if value not in ((), None):
                shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
                raise RunError(
                    f"--{name} {shown} has no effect beside {path}, which says what is compared. Drop it, and type "
                    f"{key} there, or give no SPEC.toml."
                )

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
        seeds, steps = SEEDS if self.seeds is None else self.seeds, STEPS if self.steps is None else self.steps
        name = "-".join(map(slug, self.env))
        lines = [f"name = {json.dumps(name)}", f"seeds = {seeds}", f"algos = {_array(self.algo or ALGOS)}"]
        lines += [f"shifts = {_array(self.shifts)}", "", "[rl]", f"steps = {steps}"]
        for env in self.env:
            lines += ["", "[[task]]", f"env = {json.dumps(env)}"]
        for encoder in self.encoder or ENCODERS:
            lines += [
                "",
                "[[encoder]]",
                f"encoder = {json.dumps(encoder)}",
                *([f"taps = {_array(self.tap)}"] if self.tap else []),
            ]
        return "\n".join(lines) + "\n"


def _array(words: Sequence[str]) -> str:
    return f"[{', '.join(map(json.dumps, words))}]"  # JSON's strings are TOML's too


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write the tables, figures and HTML page of a benchmark from the cells in its folder."""

    out: Path | None = None
    """Where report.md, index.html, summary.json and figures/ go; the benchmark's own folder by default."""
    trust: tuple[str, ...] = ()
    """Code that SPEC.toml asks for, as the refusal names it (module:name)."""
