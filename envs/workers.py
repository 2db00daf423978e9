"""Worker processes: whether they make environments faster here, by stepping them both ways."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from statistics import fmean

from stable_baselines3.common.vec_env import DummyVecEnv

from stillsight.envs.errors import EnvError, EnvFault
from stillsight.envs.options import EnvOptions
from stillsight.envs.registry import suite_of
from stillsight.envs.vector import make_vec
from stillsight.envs.vectorised.step_times import Steps, step_times

LIGHT = 5e-4
"""Seconds an environment step below which processes are not tried: sending an image to and fro takes as long."""

SECONDS = 1.5
"""How long each way is timed, after the first steps."""


def workers_pay(
    env_id: str, n_envs: int, options: EnvOptions, *, seed: int = 0, native: bool | str | None = None
) -> bool:
    """Whether `n_envs` training environments step faster in a process each than all in this one.

    Both ways show the same pixels, so what is found changes the speed of a run and nothing else. Light environments are
    told by a few steps; native ones step in threads already. Where worker processes cannot play the environment, they
    do not pay, which is said on stderr, once.

    Raises:
        EnvError: see `make_vec`.
    """
    if suite_of(env_id).one_a_process:
        return True
    if n_envs < 2 or (os.cpu_count() or 1) < 2:
        return False
    here = make_vec(env_id, n_envs, seed=seed, options=options, native=native)
    if type(here) is not DummyVecEnv or seconds_per_step(here, 0.0) < LIGHT:
        here.close()
        return False
    alone = seconds_per_step(here, SECONDS)
    here.close()
    try:
        there = make_vec(env_id, n_envs, seed=seed, options=options, workers=n_envs)
        with contextlib.closing(there):
            together = seconds_per_step(there, SECONDS)
    except (EnvError, EnvFault, OSError) as error:  # of a system that has no more processes, pipes or memory
        _say(f"stillsight: {env_id} is stepped in one process. {error}")
        return False
    return together < alone


@functools.cache
def _say(sentence: str) -> None:
    """Print a sentence on stderr, the first time."""
    print(sentence, file=sys.stderr)


def seconds_per_step(venv: Steps, seconds: float) -> float:
    """Mean seconds of one environment step under random actions, over `seconds` and five steps of all at least.

    The mean and not the median: on a busy machine most short steps pass between two interruptions and no long one does,
    so that medians call ways to step that take more environments at once slower than they are.
    """
    return fmean(step_times(venv, seconds)) / venv.num_envs
