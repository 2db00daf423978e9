"""Coverage of the bootstrap's intervals: how often they hold the true value where scores are normal.

python results/published/benchmark/coverage.py > results/published/benchmark/coverage.json

The true IQM of a normal distribution is its mean, and so is the difference of two that are alike 0.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np

from stillsight.agents.benchmark.analysis.stats import difference, interval

TRIALS, RESAMPLES, SEED = 2_000, 2_000, 0


def coverage(seeds: int, draw: np.random.Generator) -> dict[str, float]:
    """Share of the trials in which the interval of an IQM, and that of a difference of two, hold the true value."""
    held = {"iqm": 0, "difference": 0}
    for _ in range(TRIALS):
        one, other = draw.normal(size=(2, seeds))
        for name, found in (
            ("iqm", interval(one, resamples=RESAMPLES)),
            ("difference", difference(one, other, resamples=RESAMPLES)),
        ):
            held[name] += found.low <= 0.0 <= found.high
    return {name: count / TRIALS for name, count in held.items()}


draw = np.random.default_rng(SEED)
told = {str(seeds): coverage(seeds, draw) for seeds in (3, 5, 8, 10, 20)}
about = {"trials": TRIALS, "resamples": RESAMPLES, "seed": SEED, "numpy": np.__version__}
print(json.dumps({"date": datetime.now(UTC).date().isoformat(), **about, "coverage": told}, indent=2))
