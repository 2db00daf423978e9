"""The flags of `stillsight gpu`; they are checked before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stillsight.agents.errors import RunError

PartName = Literal["tests", "ppo", "encoders", "sac", "cifar-finetune", "dqn", "cifar-frozen"]
SHARES: dict[PartName, float] = {
    "tests": 125.0,
    "ppo": 70.0,
    "encoders": 120.0,
    "sac": 65.0,
    "cifar-finetune": 50.0,
    "dqn": 55.0,
    "cifar-frozen": 40.0,
}
"""Part -> its share of the time, as seconds of the default; the most important first. What one leaves over is the
others'."""


@dataclass(frozen=True, kw_only=True)
class GpuConfig:
    """Do all that only a CUDA GPU can show, and write it into one folder to publish: JSON, and gpu.md made of it alone.

    tests: those marked gpu (engines, copies, bf16, two processes, frozen hashes). ppo, dqn, sac: a run beside stock
    Stable-Baselines3 and the floor. encoders: images/s by encoder, precision, engine and resolution. cifar-finetune and
    cifar-frozen: training, and heads on frozen features, beside a plain loop. Each part is a process of its own with a
    share of the time; one that fails or is late keeps what it has, with its reason, and the others go on. Nothing is
    downloaded. `make gpu` runs this on a checkout that is not installed.
    """

    out: Path | None = None
    """The folder; results/runs/gpu-DATE by default."""
    parts: tuple[PartName, ...] = tuple(SHARES)
    """What to do, in this order."""
    seconds: float = sum(SHARES.values())
    """For everything, with a hard stop at the end."""
    data: Path | None = None
    """Folder with CIFAR-10; without it images are noise of its shape, which costs the same."""
    small: bool = False
    """A moment of each part on whatever there is, a CPU too: whether the command works, and no measurement."""
    commit: str = ""
    """What ran, where the checkout came without its git."""

    def check(self) -> None:
        """Refuse what shows nothing.

        Raises:
            RunError: too little time, a part that was named twice, or a folder that is taken.
        """
        if not 1 <= self.seconds <= 86_400:
            raise RunError(f"--seconds {self.seconds:g} is no time for this. Type a number from 1 to 86_400, say 525.")
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise RunError(f"--parts names each part once. Parts are: {', '.join(SHARES)}.")
        if self.out is not None and self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise RunError(f"{self.out} is there already. Give --out a new folder, or remove it.")
