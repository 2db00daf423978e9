"""The flags of `throughput` and `replay`; they are checked before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from stillsight.agents.errors import RunError

Name = Literal["stock", "in-policy", "cached", "floor"]
NAMES: tuple[Name, ...] = ("stock", "in-policy", "cached", "floor")
SPIN = "GOMP_SPINCOUNT"
"""The environment variable that says how long OpenMP's threads (GNU's, in torch for Linux) spin."""


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig:
    """How to measure; all other flags are those of `stillsight rl`, and describe the run that is measured."""

    GROUPS: ClassVar[Mapping[str, str]] = {"arms": "measurement"}

    arms: tuple[Name, ...] = NAMES
    """What to measure. stock: the backbone as a features extractor in plain SB3. in-policy: ours, encoding in the
    policy. cached: ours. floor: stepping, encoding each new frame once and updating the head, each alone."""
    rounds: int = 3
    """Measurements of each arm, in turns."""
    seconds: float = 20.0
    """Length of one measurement; an arm whose single update takes longer takes as long as it takes."""
    json: bool = False
    """Print one JSON object instead of tables."""

    def check(self) -> None:
        """Raise `RunError` for counts that measure nothing."""
        if self.rounds < 1 or not self.seconds > 0:
            raise RunError("--rounds and --seconds must be above 0. Type, say: --rounds 3 --seconds 20.")


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Fill a replay memory to its last slot, sample from it, and say what both cost."""

    transitions: int = 1_000_000
    """Slots of the memory, in all environments together."""
    features: int = 512
    """Features of one frame."""
    frame_stack: int = 4
    """Frames in an observation."""
    n_envs: int = 1
    """Environments side by side."""
    batch: int = 256
    """Transitions in one sample."""
    dtype: Literal["float16", "float32"] = "float16"
    """How features are kept; they are sampled as float32."""
    repeats: int = 1_000
    """Samples to time."""
    threads: int | None = 1
    """CPU threads that torch may use; one, so that machines compare."""
    json: bool = False
    """Print one JSON object and nothing else on the standard output."""

    def check(self) -> None:
        """Raise `RunError` for numbers that measure nothing."""
        for name in ("transitions", "features", "frame_stack", "n_envs", "batch", "repeats"):
            value = getattr(self, name)
            if value < 1:
                raise RunError(f"--{name.replace('_', '-')} {value} measures nothing. Type a number from 1.")
