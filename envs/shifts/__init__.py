"""Visual shifts: one environment, seen otherwise than in training, to measure what an agent's eyes can bear."""

from stillsight.envs.shifts.rows import SHIFTS, SUITE_SHIFTS, find

__all__ = ["SHIFTS", "SUITE_SHIFTS", "find"]
