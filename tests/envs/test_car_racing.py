"""CarRacing: seeds, colours drawn anew as a shift of its own, laps and the clock."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import make_env, resolve

pytest.importorskip("Box2D")
CAR = "CarRacing-v3"
GAS = np.array([0.0, 0.5, 0.0], np.float32)


def test_one_seed_gives_one_track_and_another_seed_another() -> None:
    env = make_env(CAR, training=False)
    streams = []
    for seed in (4, 4, 5):
        frames = [env.reset(seed=seed)[0]] + [env.step(GAS)[0] for _ in range(30)]
        streams.append(np.stack(frames))
    np.testing.assert_array_equal(streams[0], streams[1])
    assert (streams[0] != streams[2]).any()
    env.close()


def test_domain_randomize_draws_the_colours_of_track_and_grass_anew_by_the_seed() -> None:
    env = make_env(CAR, resolve(CAR).options.merge(kwargs={"domain_randomize": True}), training=False)
    plain = make_env(CAR, training=False)
    looks = {}
    for name, made, seed in (("one", env, 1), ("same", env, 1), ("other", env, 2), ("a", plain, 1), ("b", plain, 2)):
        made.reset(seed=seed)
        # The bottom line of the picture is black; colours are those of the first frame after the zoom in.
        frame = [made.step(np.zeros(3, np.float32))[0] for _ in range(30)][-1]
        looks[name] = (frame, {tuple(pixel) for pixel in frame[:, :80].reshape(3, -1).T.tolist()})
    np.testing.assert_array_equal(looks["one"][0], looks["same"][0])
    assert looks["a"][1] & looks["b"][1] >= {(100, 202, 100)}, "the grass of every plain track"
    assert (100, 202, 100) not in looks["one"][1] | looks["other"][1]
    assert looks["one"][1] != looks["other"][1]
    env.close()
    plain.close()


def test_the_clock_truncates_and_a_finished_lap_terminates() -> None:
    env = make_env(CAR, training=False)
    wrappers: list[Any] = [env]
    while not isinstance(wrappers[-1], gym.wrappers.TimeLimit):
        wrappers.append(wrappers[-1].env)
    env.reset(seed=0)
    wrappers[-1]._elapsed_steps = 994  # of the id's own 1000 frames, two an action
    assert [env.step(np.zeros(3, np.float32))[2:4] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]
    env.reset(seed=0)
    car: Any = env.unwrapped
    car.tile_visited_count, car.new_lap = len(car.track), True  # as its own contact listener leaves it
    _, _, terminated, truncated, info = env.step(np.zeros(3, np.float32))
    assert (terminated, truncated, info["lap_finished"]) == (True, False, True)
    env.close()


def test_film_is_larger_than_what_the_agent_sees() -> None:
    env = make_env(CAR, training=False)
    assert isinstance(env.observation_space, gym.spaces.Box)
    assert env.observation_space.shape == (3, 96, 96)
    film: Any = env.render()
    assert film.shape == (400, 600, 3)
    env.close()
