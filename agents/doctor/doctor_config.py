"""The flags of `doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check this machine, or a run folder, and say of each thing that it is ok or what to type."""

    json: bool = False
    """Print one JSON object and nothing else."""
