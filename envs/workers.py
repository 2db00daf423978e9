"""Worker processes: whether they make environments faster here, by stepping them both ways."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from stillsight.envs.errors import EnvError, EnvFault
from stillsight.envs.options import EnvOptions
from stillsight.envs.random_play import action_seed, random_play
from stillsight.envs.registry import suite_of
from stillsight.envs.vector import make_vec
from stillsight.envs.vectorised.step_times import Steps, step_times
from stillsight.envs.wrappers.layout import alike

LIGHT = 5e-4
"""Seconds an environment step below which processes are not tried: sending an image to and fro takes as long."""

SECONDS = 1.5
"""How long each way is timed, after the first steps."""

COMPARED = 3
"""Steps of new episodes in which both ways must show and pay the same."""


def workers_pay(
    env_id: str, n_envs: int, options: EnvOptions, *, seed: int = 0, native: bool | str | None = None
) -> bool:
    """Whether `n_envs` training environments step faster in a process each than all in this one.

    What is found is to change the speed of a run and nothing else, so the first steps are compared too: where worker
    processes play another game of the same seed than this process does twice, or cannot play the environment, they do
    not pay, which is said on stderr, once. Light environments are told by a few steps; native ones step in threads
    already.

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
    played = beginning(here, seed)
    here.close()
    try:
        there = make_vec(env_id, n_envs, seed=seed, options=options, workers=n_envs)
        with contextlib.closing(there):
            together = seconds_per_step(there, SECONDS)
            if together >= alone:
                return False
            if same(played, beginning(there, seed)):
                return True
        # Or the game differs from one time to the next, wherever it is played.
        with contextlib.closing(make_vec(env_id, n_envs, seed=seed, options=options, native=native)) as anew:
            steady = same(played, beginning(anew, seed))
    except (EnvError, EnvFault, OSError) as error:  # of a system that has no more processes, pipes or memory
        _say(f"stillsight: {env_id} is stepped in one process. {error}")
        return False
    if steady:
        _say(
            f"stillsight: {env_id} is stepped in one process. In worker processes it is another game of the same seed: "
            "they import what the main script imports, and not what stands under its main guard or was changed since. "
            "Put that into a module, --env module:Id, or type --workers on for the game that is played there."
        )
    return not steady


def beginning(venv: VecEnv, seed: int) -> list[Any]:
    """What random play meets in the first steps of a seed's episodes: observations, rewards and ends."""
    venv.seed(seed)
    venv.action_space.seed(action_seed(seed))
    met: list[Any] = [venv.reset()]
    draw = random_play(venv)
    for _ in range(COMPARED):
        observations, rewards, dones, _ = venv.step(draw())
        met += [observations, np.asarray(rewards, np.float32), dones]
    return met


def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two beginnings are equal to the bit."""
    return all(map(alike, one, other))


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
