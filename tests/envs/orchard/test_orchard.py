"""The orchard keeps its promises: scores, reach, seeds, pixels."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillsight.envs import BEST_RETURN, Orchard, reference_returns
from stillsight.envs.orchard import orchard as rules
from stillsight.envs.orchard import scenery

BOTH = pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])


def play(env: Orchard, seed: int) -> tuple[float, int, dict[str, Any]]:
    """The oracle's return, steps and last info."""
    env.reset(seed=seed)
    total, steps, over = 0.0, 0, False
    info: dict[str, Any] = {}
    while not over:
        _, reward, over, truncated, info = env.step(env.oracle_action())
        assert not truncated
        total, steps = total + reward, steps + 1
    return total, steps, info


@BOTH
def test_the_oracle_earns_the_best_return_with_every_seed(continuous: bool) -> None:
    env = Orchard(continuous=continuous)
    assert BEST_RETURN == 6.0
    for seed in range(200):
        total, steps, info = play(env, seed)
        assert total == BEST_RETURN
        assert 79 <= steps <= 99
        assert (info["caught"], info["stung"]) == (6, 0)


@BOTH
def test_gymnasium_accepts_it(continuous: bool) -> None:
    env_id = "stillsight/OrchardContinuous-v0" if continuous else "stillsight/Orchard-v0"
    check_env(gym.make(env_id, render_mode="rgb_array").unwrapped)


def test_both_ids_are_registered() -> None:
    assert isinstance(gym.make("stillsight/Orchard-v0").action_space, gym.spaces.Discrete)
    assert isinstance(gym.make("stillsight/OrchardContinuous-v0").action_space, gym.spaces.Box)


def test_importing_the_package_registers_both_and_resolving_does_not_import_it() -> None:
    code = "import gymnasium as gym, sys; before = set(gym.registry); import stillsight.envs.orchard; "
    code += "print(sorted(set(gym.registry) - before))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "['stillsight/Orchard-v0', 'stillsight/OrchardContinuous-v0']\n"
    code = "import sys, stillsight.envs as e; e.resolve('stillsight/Orchard-v0'); "
    code += "print('stillsight.envs.orchard' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), policy=st.integers(0, 2**31))
def test_any_play_is_scored_by_what_was_caught(seed: int, policy: int) -> None:
    env, actions = Orchard(), np.random.default_rng(policy)
    env.reset(seed=seed)
    total, over, fruits, objects = 0.0, False, 0, 1
    fruits += env.falling_fruit
    before = env.state[2]
    while not over:
        _, reward, over, _, info = env.step(int(actions.integers(3)))
        total += reward
        state = info["state"]
        assert (state[:3] >= 0).all()
        assert (state[:3] <= 1).all()
        assert state[3:].sum() == 1.0
        if state[2] < before:
            objects, fruits = objects + 1, fruits + env.falling_fruit
        before = state[2]
    assert (objects, fruits) == (10, 6)
    assert total == info["caught"] - info["stung"]
    assert rules.FRUITS - rules.OBJECTS <= total <= BEST_RETURN


def test_every_object_can_be_reached_from_the_far_side() -> None:
    # The worst case of all: basket at one wall, the fastest fruit at the other.
    env = Orchard()
    for start, column in ((rules.LEFT, rules.RIGHT), (rules.RIGHT, rules.LEFT)):
        env.reset(seed=0)
        env._basket, env._columns[0], env._falls[0], env._kinds[0] = start, int(column), rules.SHORTEST_FALL, 0
        rewards = [env.step(env.oracle_action())[1] for _ in range(rules.SHORTEST_FALL)]
        assert rewards == [0.0] * (rules.SHORTEST_FALL - 1) + [1.0]


def test_every_hazard_can_be_dodged_from_any_place() -> None:
    env = Orchard()
    for column in range(int(rules.LEFT), int(rules.RIGHT) + 1):
        env.reset(seed=column)
        env._basket, env._columns[0], env._falls[0] = float(column), column, rules.SHORTEST_FALL
        env._kinds[0] = scenery.KINDS.index("stone")
        assert sum(env.step(env.oracle_action())[1] for _ in range(rules.SHORTEST_FALL)) == 0.0


def test_actions_move_the_basket_by_what_they_say() -> None:
    env = Orchard()
    env.reset(seed=3)
    env._basket = 30.0
    for action, place in ((0, 25.0), (1, 25.0), (2, 30.0)):
        assert env.step(action)[4]["state"][0] == np.float32(place / 48)
    env = Orchard(continuous=True)
    env.reset(seed=3)
    env._basket = 30.0
    for velocity, place in ((-0.5, 27.5), (0.0, 27.5), (1.0, 32.5), (9.0, 37.5)):
        assert env.step(np.array([velocity], np.float32))[4]["state"][0] == np.float32(place / 48)


def stream(seed: int, steps: int = 150) -> NDArray[np.uint8]:
    env = Orchard()
    frames = [env.reset(seed=seed)[0]]
    for step in range(steps):
        frame, _, over, _, _ = env.step(step % 3)
        frames.append(env.reset()[0] if over else frame)
    return np.stack(frames)


def test_a_seed_fixes_every_pixel_and_another_changes_them() -> None:
    np.random.seed(1)
    first = stream(5)
    np.random.seed(2)
    assert (stream(5) == first).all()
    assert (stream(6)[0] != first[0]).mean() > 0.5


def test_episodes_differ_without_a_new_seed() -> None:
    env = Orchard()
    first, _ = env.reset(seed=0)
    second, _ = env.reset()
    assert (first != second).mean() > 0.5


def test_version_0_stays_what_it_is() -> None:
    # Scores are only comparable while these hold; a change here is a new version, Orchard-v1.
    env = Orchard()
    _, info = env.reset(seed=0)
    assert [scenery.KINDS[kind] for kind in env._kinds] == [
        "pear",
        "stone",
        "cherries",
        "wasp",
        "pear",
        "pear",
        "wasp",
        "cherries",
        "wasp",
        "cherries",
    ]
    assert env._columns.tolist() == [6, 10, 6, 30, 24, 29, 15, 28, 33, 19]
    np.testing.assert_allclose(info["state"][:3] * 48, [6.0, 6.0, 6.0], atol=1e-4)


def test_the_object_and_the_basket_are_where_the_state_says() -> None:
    env = Orchard()
    frame, info = env.reset(seed=4)
    changed = (frame != env._background).any(axis=2)
    rows, columns = np.nonzero(changed[:20])
    x, y = info["state"][1:3] * 48
    assert abs((rows.min() + rows.max()) / 2 - y) <= 1
    assert abs((columns.min() + columns.max()) / 2 - x) <= 1
    columns = np.nonzero(changed[36:].any(axis=0))[0]
    assert (columns.min() + columns.max()) / 2 == info["state"][0] * 48
    assert 12 <= np.ptp(columns) + 1 <= 14


def test_rendering_repeats_each_pixel_four_times() -> None:
    env = Orchard("rgb_array")
    frame, _ = env.reset(seed=1)
    film = env.render()
    assert film is not None
    assert film.shape == (192, 192, 3)
    assert (film[::4, ::4] == frame).all()
    assert (film[3::4, 3::4] == frame).all()
    assert Orchard().render() is None


def test_objects_stand_out_from_every_background() -> None:
    random = np.random.default_rng(0)
    for _ in range(10):
        background = scenery.background(random)
        for kind in range(len(scenery.KINDS)):
            for hue in range(len(scenery.HUES)):
                frame = background.copy()
                scenery.place(frame, scenery.sprites()[kind][hue], 20, 30)
                change = np.abs(frame.astype(int) - background).max(axis=2)
                # A third of the 121 pixels differ by a quarter of the range.
                assert (change > 64).sum() >= 35, (scenery.KINDS[kind], hue)


def test_sprites_mix_to_their_own_colour_where_solid_and_leave_the_rest() -> None:
    for sprite in (*sum(scenery.sprites(), ()), scenery.basket()):
        height, width = sprite.clear.shape[:2]
        black = np.zeros((height, width, 3), np.uint8)
        white = np.full((height, width, 3), 255, np.uint8)
        scenery.place(black, sprite, height // 2, width // 2)
        scenery.place(white, sprite, height // 2, width // 2)
        clear = sprite.clear[..., 0]
        assert (black[clear == 0] == white[clear == 0]).all()
        assert (white[clear == 255] == 255).all()
        assert (black[clear == 255] == 0).all()
        assert (clear == 0).sum() > 15
        assert (white >= black).all()


@pytest.mark.parametrize("env_id", ["stillsight/Orchard-v0", "stillsight/OrchardContinuous-v0"])
def test_reference_returns_know_the_oracle_and_random_play(env_id: str) -> None:
    scores = reference_returns(env_id, 30, seed=2)
    assert scores["oracle"] == {"mean": 6.0, "std": 0.0, "episodes": 30}
    assert -1.0 < scores["random"]["mean"] < 1.5
    assert 0.5 < scores["random"]["std"] < 2.5
    assert reference_returns(env_id, 30, seed=2) == scores
