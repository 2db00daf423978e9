"""The errors of runs and checkpoints."""

from __future__ import annotations


class RunError(ValueError):
    """A user's mistake around runs, worded so that it can be printed as it stands."""


class CheckpointError(RunError):
    """A checkpoint that cannot be read or does not belong here, worded so that it can be printed as it stands."""


class TrainingFault(RuntimeError):  # noqa: N818 - an error is the user's, a fault happened to them
    """Training whose numbers mean nothing, worded so that it can be printed as it stands; the exit code is 1."""
