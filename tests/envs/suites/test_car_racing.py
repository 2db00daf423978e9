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


@pytest.mark.parametrize("kwargs", [{}, {"domain_randomize": True}])
def test_what_is_drawn_is_gymnasiums_own_picture_to_the_bit(kwargs: dict[str, Any]) -> None:
    ours = make_env(CAR, resolve(CAR).options.merge(frame_skip=3, kwargs=kwargs), training=False)
    stock = gym.make(CAR, **kwargs)
    rng = np.random.default_rng(0)
    seen = [(ours.reset(seed=7)[0], stock.reset(seed=7)[0])]
    total = [0.0, 0.0]
    for _ in range(25):
        action = rng.uniform([-1, 0, 0], [1, 1, 0.2]).astype(np.float32)
        observation, reward, *_ = ours.step(action)
        for _ in range(3):
            frame, own, *_ = stock.step(action)
            total[1] += float(own)
        total[0] += float(reward)
        seen.append((observation, frame))
    for left, right in seen:
        np.testing.assert_array_equal(left, right.transpose(2, 0, 1))
    assert len({left.tobytes() for left, _ in seen}) == len(seen), "the car moves"
    assert total[0] == pytest.approx(total[1])
    ours.close()
    stock.close()


def test_an_id_with_a_module_before_it_is_the_same_game() -> None:
    plain, other = (make_env(name, training=False) for name in (CAR, f"gymnasium.envs.box2d:{CAR}"))
    np.testing.assert_array_equal(plain.reset(seed=3)[0], other.reset(seed=3)[0])
    assert type(plain.unwrapped) is type(other.unwrapped)
    plain.close()
    other.close()


def test_another_class_is_left_as_it_is() -> None:
    from gymnasium.envs.box2d.car_racing import CarRacing

    class Slippery(CarRacing):
        """Somebody's own car, which may draw otherwise."""

    gym.register("Slippery-v0", entry_point=Slippery)
    try:
        env = make_env("Slippery-v0", training=False)
        assert type(env.unwrapped) is Slippery
        assert env.reset(seed=0)[0].any(), "it draws itself"
        env.close()
    finally:
        del gym.registry["Slippery-v0"]


def test_frames_that_a_skip_throws_away_are_not_drawn_and_the_last_one_always_is() -> None:
    env = make_env(CAR, resolve(CAR).options.merge(frame_skip=4), training=False)
    game: Any = env.unwrapped
    drawn, draw = [], game.draw
    game.draw = lambda: drawn.append(game.t) or draw()
    env.reset(seed=0)
    before = game.t
    env.step(GAS)
    assert len(drawn) == 2, "one picture of the reset, one of four frames"
    assert drawn[1] == pytest.approx(before + 4 / 50)
    game.car.hull.position = (1e4, 0.0)  # beyond the field: the first of four frames ends the episode
    _, _, terminated, _, _ = env.step(GAS)
    assert terminated
    assert len(drawn) == 3
    assert drawn[2] == game.t == pytest.approx(before + 5 / 50), "the picture of the end, not of a frame before"
    env.close()


def test_polygons_out_of_sight_are_left_out_of_no_picture() -> None:
    """Wherever the car stands and looks, at the edge of the field too, after tiles have changed their colour."""
    from stillsight.envs.adapters.car_racing import Racing

    stock: Any = gym.make(CAR, render_mode="rgb_array").unwrapped
    ours = Racing(render_mode="rgb_array")
    rng = np.random.default_rng(1)
    for seed in (3, 4):
        for game in (stock, ours):
            game.reset(seed=seed)
            for _ in range(60):
                game.step(GAS)
        assert ours.tile_visited_count == stock.tile_visited_count > 3
        for _ in range(25):
            place, angle, age = rng.uniform(-340, 340, 2), rng.uniform(-7, 7), rng.uniform(0, 1.2)
            for game in (stock, ours):
                game.car.hull.position, game.car.hull.angle, game.t = tuple(place), angle, age
            ours._shown = ours.reward
            np.testing.assert_array_equal(ours.draw(), stock._render("state_pixels"))
        np.testing.assert_array_equal(ours.render(), stock.render())
    seen = ours._polygons.seen(ours.t, (0.0, 0.0), 0.0)
    assert len(seen) < len(ours._polygons.shapes), "something is left out"
    stock.close()
    ours.close()
