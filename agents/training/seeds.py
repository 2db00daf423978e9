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
CHOICE = 40_000
"""Seed of the first episode by which a benchmark chooses a rate: what is chosen by is not what is reported."""
RESUMED = 1_000_000
"""Distance from a run's seed, its steps added, to that of the episodes that begin anew where it is resumed."""

_GOLDEN = 1_327_217_885
"""2**31 divided by the golden ratio, made odd: its multiples modulo 2**31 lie as evenly as any (Fibonacci hashing,
Knuth, The Art of Computer Programming 3, section 6.4)."""


def env_seed(seed: int) -> int:
    """Seed, 0 to 2**31 - 1, of the first environment of a run with this seed; its others follow, one by one.

    Counted on from the run's own seed, environment 1 of seed 0 would be environment 0 of seed 1: five runs of eight
    environments would learn in twelve in place of forty, and not be independent. From seeds up to 41,000, which are
    those of benchmarks and of their evaluations, first environments are at least 40,000 apart. None has the run's own
    seed, by which SB3 draws the random actions before an off-policy algorithm learns: a game that draws in step with
    them would draw the same (`action_seed`).
    """
    return (seed + 1) * _GOLDEN % 2**31
