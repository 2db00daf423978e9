"""Random play knows nothing of the game: what it draws is not what the game draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from stillsight.envs import EnvOptions, GymnasiumVecEnv, make_env, make_vec, reference_returns
from stillsight.envs.random_play import action_seed, random_play
from stillsight.envs.vectorised.backends import GymnasiumLoop

COIN = "StillsightCoin-v0"


class Coin(gym.Env[Any, Any]):
    """A coin is tossed after the guess; a right one earns 1."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.zeros((32, 32, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros((32, 32, 3), np.uint8), float(action == self.np_random.integers(2)), False, False, {}


@pytest.fixture(autouse=True)
def _coin() -> Iterator[None]:
    gym.register(COIN, Coin, max_episode_steps=20, disable_env_checker=True)
    yield
    gym.registry.pop(COIN, None)


@pytest.mark.parametrize("seed", [0, 1])
def test_random_play_guesses_half_of_all_tosses(seed: int) -> None:
    score = reference_returns(COIN, 30, seed)["random"]
    assert 8.5 < score["mean"] < 11.5, "30 games of 20 tosses: 4 standard errors are 1.6"


@pytest.mark.parametrize("way", ["one process", "vectorised", "loop"])
def test_so_it_does_in_whatever_way_games_are_stepped(way: str) -> None:
    venv: Any
    if way == "loop":
        venv = GymnasiumLoop(COIN, EnvOptions(), seed=3)
    elif way == "vectorised":
        venv = GymnasiumVecEnv(SyncVectorEnv([Coin], autoreset_mode="SameStep"), seed=3)
    else:
        venv = make_vec(COIN, seed=3)
    venv.reset()
    draw = random_play(venv)
    right = [float(np.sum(venv.step(draw())[1])) for _ in range(200)]
    venv.close()
    assert 70 < sum(right) < 130, "200 tosses: 4 standard deviations are 28"


def test_every_copy_draws_actions_of_its_own_and_the_same_twice() -> None:
    drawn = []
    for seed in (0, 0, 1):
        env = make_env(COIN, seed=seed)
        drawn.append([int(env.action_space.sample()) for _ in range(40)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({action_seed(seed) for seed in (*range(1_000), 2**32 - 1)}) == 1_001
