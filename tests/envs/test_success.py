"""Success of an episode, as environments say it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from stillsight.envs.adapters.metaworld_task import MetaWorldTask
from stillsight.envs.success import success, success_rate


@pytest.mark.parametrize(
    ("info", "found"),
    [
        ({}, None),
        ({"is_success": True}, True),
        ({"is_success": np.False_}, False),
        ({"is_success": np.float32(1.0)}, True),
        ({"success": 1.0}, True),
        ({"success": 0.0}, False),
        ({"is_success": False, "success": 1.0}, False),
        ({"is_success": 0.5, "success": 1}, True),
        ({"is_success": float("nan")}, None),
        ({"success": "yes"}, None),
        ({"success": np.array([True, False])}, None),
    ],
)
def test_success_is_what_the_last_info_says(info: dict[str, Any], found: bool | None) -> None:
    assert success(info) is found


def test_a_rate_takes_episodes_that_all_say() -> None:
    assert success_rate([True, False, False, True]) == 0.5
    assert success_rate([False]) == 0.0
    assert success_rate([]) is None
    assert success_rate([None, None]) is None
    assert success_rate([True, None]) is None, "a share of some of the episodes is no share of them"


class Passing(gym.Env[int, int]):
    """Is at its goal in the steps that it is told, and says so as Meta-World does."""

    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)

    def __init__(self, there: set[int]) -> None:
        self.there, self.steps = there, 0

    def reset(self, **_: Any) -> tuple[int, dict[str, Any]]:  # type: ignore[override]
        self.steps = 0
        return 0, {}

    def step(self, _: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return 0, 0.0, False, False, {"success": float(self.steps in self.there)}


def test_a_goal_that_was_left_again_was_reached_until_the_next_episode() -> None:
    env = MetaWorldTask(Passing({2}))
    env.reset()
    said = [env.step(0)[4] for _ in range(4)]
    assert [info["is_success"] for info in said] == [False, True, True, True]
    assert [info["success"] for info in said] == [0.0, 1.0, 0.0, 0.0], "what it says itself stays"
    assert success(said[-1]) is True
    env.reset()
    assert env.step(0)[4]["is_success"] is False
