"""Runs of neighbouring seeds share no environment, and none of a run's purposes shares one with another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from stillsight.agents import RlConfig
from stillsight.agents.training.build import make_agent
from stillsight.agents.training.config import MOST_ENVS
from stillsight.agents.training.seeds import EVALUATION, PLAY, STANDARDISE, TUNING, env_seed
from stillsight.encoders.building import build
from stillsight.envs.vector import shown_by

Tiny = Callable[..., RlConfig]


def test_first_environments_lie_further_apart_than_a_run_has_environments() -> None:
    every = range(STANDARDISE + TUNING + 10_000)
    apart = [after - before for before, after in pairwise(sorted(map(env_seed, every)))]
    assert min(apart) > 40_000 > MOST_ENVS
    assert max(map(env_seed, every)) < 2**31


def test_no_environment_has_the_seed_by_which_its_run_draws_random_actions() -> None:
    every = range(STANDARDISE + TUNING + 10_000)
    assert not [seed for seed in every if 0 <= seed - env_seed(seed) < MOST_ENVS]


def test_the_failure_that_it_prevents_is_twelve_environments_in_place_of_forty() -> None:
    runs = [range(first, first + 8) for first in range(5)]
    assert len({seed for run in runs for seed in run}) == 12
    spread = [range(first, first + 8) for first in map(env_seed, range(5))]
    purposes = [range(first, first + 8) for run in range(5) for first in (env_seed(run + EVALUATION), PLAY)]
    seeds = [seed for run in (*spread, *purposes[::2]) for seed in run]
    assert len(set(seeds)) == len(seeds) == 80
    assert not set(seeds) & {seed for run in purposes[1::2] for seed in run}


def test_agents_of_neighbouring_seeds_begin_in_environments_of_their_own(tiny: Tiny) -> None:
    """SB3 seeds the environments too, one by one from the seed of the model: that would win."""
    begun = []
    for seed in (0, 1, 2):
        config = replace(tiny("ppo"), seed=seed, n_envs=3, standardise=0).resolved()
        agent = make_agent(config, build(config), n_envs=3)
        begun += list(shown_by(agent.venv.venv.reset()))
        agent.venv.close()
    frames = np.stack(begun)
    assert len(np.unique(frames.reshape(9, -1), axis=0)) == 9
