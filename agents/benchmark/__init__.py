"""The benchmark: a grid of runs, its statistics and its report."""
