"""Seed ranges: the episodes of training, evaluation, the first look and the benchmark, so that none meets another's."""

from __future__ import annotations

TUNING = 1_000
"""First seed of benchmark cells that choose a rate: no cell that is reported has it."""
EVALUATION = 10_000
"""Distance from a run's seed to those of its evaluations during training."""
PLAY = 20_000
"""Seed of the first episode of `evaluate`, `record` and a benchmark's last evaluation."""
STANDARDISE = 30_000
"""Distance from a run's seed to those of the random play that features are standardised by."""
