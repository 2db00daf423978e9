"""Crafter, highway-env, Gymnasium-Robotics, MiniWorld, stable-retro and Meta-World against their own packages."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import EnvError, EnvOptions, make_env, make_vec, resolve
from stillsight.envs.vector import WorkerVecEnv
from stillsight.envs.workers import workers_pay

CRAFTER, HIGHWAY, RETRO = "CrafterReward-v1", "highway-fast-v0", "retro/Airstriker-Genesis-v0"


def test_crafter_steps_as_its_package_does() -> None:
    crafter = pytest.importorskip("crafter")
    env = make_env(CRAFTER, training=False)
    frame, _ = env.reset(seed=4)
    seed = env.unwrapped._game._seed
    own = crafter.Env(seed=seed)
    np.testing.assert_array_equal(frame, own.reset().transpose(2, 0, 1))
    random = np.random.default_rng(0)
    for _ in range(9):  # before its creatures are counted, in an order that is memory's
        action = int(random.integers(17))
        frame, reward, terminated, truncated, info = env.step(np.asarray(action))
        picture, expected, done, own_info = own.step(action)
        np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))
        assert (reward, terminated or truncated) == (expected, done)
        assert info["achievements"] == own_info["achievements"]
    assert env.render().shape == (256, 256, 3)


def test_crafter_tells_death_from_the_end_of_its_clock() -> None:
    pytest.importorskip("crafter")
    env: Any = gym.make(make_env(CRAFTER).spec.id, length=2, disable_env_checker=True).unwrapped
    env.reset(seed=0)
    assert env.step(0)[2:4] == (False, False)
    assert env.step(0)[2:4] == (False, True)
    env.reset()
    env._game._player.health = 0
    assert env.step(0)[2:4] == (True, False)


CREATURES = """
import hashlib, numpy as np
junk = [object() for _ in range({junk})]
from stillsight.envs import make_env
env = make_env("CrafterReward-v1")
digest = hashlib.sha256(env.reset(seed=1)[0].tobytes())
for step in range(250):
    frame, _, over, cut, _ = env.step(np.asarray(step * 7 % 5))
    digest.update(frame.tobytes())
    if over or cut:
        break
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_crafter_plays_one_game_for_a_seed_wherever_its_creatures_lie_in_memory() -> None:
    pytest.importorskip("crafter")
    told = {
        subprocess.run(
            [sys.executable, "-c", CREATURES.replace("{junk}", str(junk))],
            env={**os.environ, "PYTHONHASHSEED": str(junk)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for junk in (1, 5_001, 77_777)
    }
    assert len(told) == 1
    assert len(told.pop().strip()) == hashlib.sha256().digest_size * 2


@pytest.mark.parametrize("env_id", [HIGHWAY, pytest.param("racetrack-v1", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_highway_draws_and_steps_as_its_package_does_with_that_config(env_id: str) -> None:
    pytest.importorskip("highway_env")
    env = make_env(env_id, training=False)
    config = {**dict(resolve(env_id).options.kwargs), "offscreen_rendering": True}
    own = gym.make(env_id, config=config, render_mode="rgb_array", disable_env_checker=True)
    frame, _ = env.reset(seed=2)
    own.reset(seed=2)
    own.action_space.seed(0)
    for _ in range(4):
        picture: Any = own.render()
        np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))
        action = own.action_space.sample()
        frame, *step = env.step(action)
        _, *expected = own.step(action)
        assert step[:3] == expected[:3]


def test_settings_of_highway_are_those_of_its_config() -> None:
    pytest.importorskip("highway_env")
    env = make_env(HIGHWAY, resolve(HIGHWAY).options.merge(kwargs={"vehicles_count": 3}))
    assert env.get_wrapper_attr("config")["vehicles_count"] == 3
    assert env.observation_space.shape == (3, 64, 128)
    with pytest.raises(EnvError) as caught:
        make_env(HIGHWAY, EnvOptions(kwargs=(("vehicle_count", 3),)))
    assert str(caught.value).startswith(
        f"{HIGHWAY} has no setting 'vehicle_count'. Did you mean 'vehicles_count'? Settings are those of"
    )


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["FetchReach-v4", "PointMaze_UMaze-v3"])
def test_robotics_draws_and_steps_as_its_package_does(env_id: str) -> None:
    pytest.importorskip("gymnasium_robotics")
    env = make_env(env_id, training=False)
    own = gym.make(env_id, render_mode="rgb_array", width=84, height=84, disable_env_checker=True)
    frame, _ = env.reset(seed=2)
    own.reset(seed=2)
    own.action_space.seed(0)
    for _ in range(3):
        picture: Any = own.render()
        np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))
        action = own.action_space.sample()
        frame, *step = env.step(action)
        _, *expected = own.step(action)
        assert step[:3] == expected[:3]
    env.close()
    own.close()


@pytest.mark.slow
def test_miniworld_shows_what_its_package_observes() -> None:
    pytest.importorskip("miniworld")
    env = make_env("MiniWorld-OneRoom-v0", training=False)
    own = gym.make("MiniWorld-OneRoom-v0", render_mode="rgb_array", disable_env_checker=True)
    frame, _ = env.reset(seed=2)
    picture, _ = own.reset(seed=2)
    for action in (0, 2, 1, 2, 2):
        np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))
        frame, *step = env.step(np.asarray(action))
        picture, *expected = own.step(action)
        assert step[:3] == expected[:3]
    env.close()


def test_a_console_s_game_steps_as_its_package_does() -> None:
    retro = pytest.importorskip("stable_retro")
    env = make_env(RETRO, EnvOptions(), training=False)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(40)]
    frames, rewards = [env.reset(seed=0)[0]], []
    for action in actions:
        frame, reward, *_ = env.step(action)
        frames.append(frame)
        rewards.append(reward)
    env.close()
    own = retro.make("Airstriker-Genesis-v0", render_mode="rgb_array")
    try:
        np.testing.assert_array_equal(frames[0], own.reset()[0].transpose(2, 0, 1))
        for action, frame, reward in zip(actions, frames[1:], rewards, strict=True):
            picture, expected, *_ = own.step(action)
            np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))
            assert reward == expected
    finally:
        own.close()


def test_consoles_get_a_process_each() -> None:
    pytest.importorskip("stable_retro")
    resolve(RETRO)
    assert workers_pay(RETRO, 1, EnvOptions()) is True
    venv = make_vec(RETRO, 2, seed=1)
    try:
        assert isinstance(venv, WorkerVecEnv)
        frames = np.asarray(venv.reset())
        assert frames.shape == (2, 3, 84, 84)
        np.testing.assert_array_equal(frames[0], frames[1])  # nothing in it is random
    finally:
        venv.close()


def test_a_game_without_its_rom_and_actions_that_there_are_not_are_sentences() -> None:
    pytest.importorskip("stable_retro")
    with pytest.raises(EnvError, match=r"needs the ROM of 1942-Nes-v0, .* type: python -m stable_retro\.import FOLDER"):
        make_env("retro/1942-Nes-v0")
    with pytest.raises(EnvError, match=r"has no actions='all-of-them'; it takes filtered, discrete, multi-discrete"):
        make_env(RETRO, EnvOptions(kwargs=(("actions", "all-of-them"),)))
    env = make_env(RETRO, EnvOptions(kwargs=(("actions", "discrete"),)))
    assert isinstance(env.action_space, gym.spaces.Discrete)
    env.close()


@pytest.mark.slow
def test_meta_world_draws_and_steps_as_its_package_does() -> None:
    pytest.importorskip("metaworld")
    env_id = "metaworld/reach-v3"
    env = make_env(env_id, EnvOptions(size=84), training=False)
    own = gym.make(
        "Meta-World/MT1",
        env_name="reach-v3",
        seed=0,
        camera_name="corner2",
        width=84,
        height=84,
        render_mode="rgb_array",
        disable_env_checker=True,
    )
    frame, _ = env.reset(seed=2)
    own.reset(seed=2)
    for _ in range(3):
        picture: Any = own.render()
        np.testing.assert_array_equal(frame, picture.transpose(2, 0, 1))
        frame, *step = env.step(np.zeros(4, np.float32))
        _, *expected = own.step(np.zeros(4, np.float32))
        assert step[:3] == expected[:3]
