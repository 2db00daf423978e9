"""ViZDoom scenarios behind the one door: their seeds, their ends, their buttons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from stillsight.envs import EnvError, EnvOptions, make_env, make_vec, resolve
from stillsight.envs.suites.doom import OPTIONS as DOOM

pytest.importorskip("vizdoom")
BASIC, HEALTH = "VizdoomBasic-v1", "VizdoomHealthGathering-v1"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """vizdoom leaves an empty folder where it runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stream(env: gym.Env[Any, Any], seed: int, steps: int = 40) -> tuple[NDArray[np.uint8], list[float]]:
    frames, rewards = [env.reset(seed=seed)[0]], []
    for step in range(steps):
        frame, reward, terminated, truncated, _ = env.step(np.asarray(step % 4))  # 0-d, as an agent's actions are
        frames.append(frame)
        rewards.append(float(reward))
        if terminated or truncated:
            frames.append(env.reset()[0])
    return np.stack(frames), rewards


def test_one_seed_gives_one_game_and_another_seed_another() -> None:
    env = make_env(HEALTH, training=False, seed=0)
    first, rewards = stream(env, 5)
    second, again = stream(env, 5)
    np.testing.assert_array_equal(first, second)
    assert rewards == again
    np.testing.assert_array_equal(stream(make_env(HEALTH, training=False, seed=1), 5)[0], first)
    assert (stream(env, 6)[0] != first).any()


def test_pixels_are_the_games_own_after_four_frames() -> None:
    env = make_env(BASIC, training=False, seed=0)
    raw = gym.make(BASIC, frame_skip=1, screen_resolution="RES_160X120")
    pixels, _ = env.reset(seed=4)
    screen = raw.reset(seed=4)[0]["screen"]
    for action in (1, 2, 2, 1, 3):
        np.testing.assert_array_equal(
            pixels, cv2.resize(screen, (64, 64), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
        )
        np.testing.assert_array_equal(env.render(), screen)
        pixels, reward, terminated, truncated, _ = env.step(np.asarray(action))
        assert (terminated, truncated) == (False, False)
        steps = [raw.step(action) for _ in range(4)]
        screen = steps[-1][0]["screen"]
        assert reward == sum(float(step[1]) for step in steps)


def test_the_end_of_the_clock_is_a_truncation_and_shows_the_last_frame() -> None:
    venv = make_vec(BASIC, 1, seed=0, options=DOOM.merge(kwargs={"episode_timeout": 40}), training=False)
    frame = venv.reset()
    done = False
    while not done:
        before = np.asarray(frame)[0]
        frame, _, dones, infos = venv.step(np.array([0]))
        done = bool(dones[0])
    assert infos[0]["TimeLimit.truncated"] is True
    assert infos[0]["terminal_observation"].max() > 0, "vizdoom's own is black"
    np.testing.assert_array_equal(infos[0]["terminal_observation"], before)
    venv.close()


def test_death_is_a_termination_and_is_filmed() -> None:
    env = make_env(HEALTH, training=False, seed=0)
    env.reset(seed=0)
    over, total = False, 0.0
    while not over:
        pixels, reward, terminated, truncated, info = env.step(0)
        over, total = terminated or truncated, total + float(reward)
    assert terminated
    assert not truncated
    assert info["episode"]["r"] == total
    film: Any = env.render()
    assert film.shape == (120, 160, 3)
    assert film.max() > 0
    assert pixels.max() > 0


def test_our_time_limit_replaces_the_scenarios_clock() -> None:
    env = make_env(BASIC, DOOM.merge(max_episode_steps=90), training=False)  # its own is 300 frames, 75 steps
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(90)]
    assert ends == [(False, False)] * 89 + [(False, True)]


def test_buttons_are_chosen_by_number_where_a_scenario_takes_speeds_too() -> None:
    env = make_env("VizdoomDeathmatch-v1", EnvOptions(size=64, frame_skip=4))
    assert isinstance(env.action_space, spaces.Discrete)
    last = []
    for action in range(int(env.action_space.n)):
        env.reset(seed=2)
        last.append([env.step(np.int64(action))[0] for _ in range(3)][-1])
    assert last[0].shape == (3, 64, 64)
    assert len({picture.tobytes() for picture in last}) > 5, "walking, turning, shooting, waiting"


def test_ids_without_a_row_are_shown_alike() -> None:
    row = resolve("VizdoomBasic-MultiBinary-v1")
    assert (row.options, row.actions, row.extra) == (DOOM, "unknown", "vizdoom")
    env = make_env("VizdoomBasic-MultiBinary-v1")
    assert env.action_space == spaces.MultiBinary(3)
    env.reset(seed=0)
    assert env.step(np.array([1, 0, 0]))[0].shape == (3, 64, 64)
    assert resolve("vizdoom.gymnasium_wrapper:VizdoomBasic-v1").options == DOOM


def test_games_side_by_side_are_those_played_alone_and_share_no_settings(elsewhere: Path) -> None:
    both, one = make_vec(BASIC, 2, seed=3), make_vec(BASIC, 1, seed=4)
    frames, single = np.asarray(both.reset()), np.asarray(one.reset())
    for action in (1, 2, 3, 2):
        np.testing.assert_array_equal(frames[1], single[0])
        assert (frames[0] != frames[1]).any()
        frames, single = np.asarray(both.step(np.full(2, action))[0]), np.asarray(one.step(np.full(1, action))[0])
    both.close()
    one.close()
    assert not list(elsewhere.rglob("*.ini")), "vizdoom would write its settings here, for the next game to read"


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"frame_skip": 2}, "'frame_skip' is set by stillsight: use --frame-skip"),
        ({"epsiode_timeout": 3}, "VizdoomBasic-v1 has no setting 'epsiode_timeout'"),
        ({"screen_resolution": "160x120"}, "has no screen_resolution '160x120'; it is written RES_WIDTHXHEIGHT"),
    ],
)
def test_settings_that_vizdoom_would_pass_over_are_sentences(kwargs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence):
        make_env(BASIC, DOOM.merge(kwargs=kwargs))
