"""The errors of runs and checkpoints."""

from __future__ import annotations


class RunError(ValueError):
    """A user's mistake around runs, worded so that it can be printed as it stands."""


class CheckpointError(RunError):
    """A checkpoint that cannot be read or does not belong here, worded so that it can be printed as it stands."""
