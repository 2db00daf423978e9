"""Suites of environments, one file each. This list is the one place where a new suite is entered."""

from stillsight.envs.suites import atari, classic, doom, mujoco, orchard_suite, racing
from stillsight.envs.suites.suite import Suite

SUITES: tuple[Suite, ...] = (orchard_suite.SUITE, atari.SUITE, doom.SUITE, racing.SUITE, classic.SUITE, mujoco.SUITE)
"""In the order in which their rows are listed; an id is of the first suite that it fits."""
