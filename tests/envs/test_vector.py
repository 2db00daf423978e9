"""The one door: seeds, ends of episodes, workers, frames to film."""

from __future__ import annotations

from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from stillsight.envs import EnvError, EnvOptions, make_env, make_vec, reference_returns, resolve

ORCHARD = "stillsight/Orchard-v0"


def array(observation: object) -> NDArray[np.uint8]:
    """SB3 types an observation as array, dict or tuple; here it is always the first."""
    assert isinstance(observation, np.ndarray)
    return observation


def stream(venv: VecEnv, steps: int = 120) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """Pixels, rewards and ends of a fixed play, across the end of an episode."""
    frames = [array(venv.reset())]
    rewards, ends = [], []
    for _ in range(steps):
        frame, reward, done, _ = venv.step(np.array([venv.action_space.sample() for _ in range(venv.num_envs)]))
        frames.append(array(frame))
        rewards.append(reward)
        ends.append(done)
    venv.close()
    return np.stack(frames), np.stack(rewards), np.stack(ends)


def same(first: tuple[NDArray[np.generic], ...], second: tuple[NDArray[np.generic], ...]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("env_id", [ORCHARD, "stillsight/OrchardContinuous-v0", "ALE/Pong-v5", "CartPole-v1"])
def test_one_seed_gives_one_stream_and_another_seed_another(env_id: str) -> None:
    if find_spec({"ALE/Pong-v5": "ale_py", "CartPole-v1": "pygame"}.get(env_id, "numpy")) is None:
        pytest.skip(f"{env_id} needs an extra")
    steps = 120 if "Orchard" in env_id else 30
    first = stream(make_vec(env_id, 2, seed=7), steps)
    assert same(first, stream(make_vec(env_id, 2, seed=7), steps))
    assert not same(first, stream(make_vec(env_id, 2, seed=8), steps))
    if "Orchard" in env_id:
        assert first[2].any(), "the stream should cross the end of an episode"


def test_copy_i_is_the_single_environment_of_seed_plus_i() -> None:
    both = make_vec(ORCHARD, 2, seed=7)
    one = make_vec(ORCHARD, 1, seed=8)
    frames, single = array(both.reset()), array(one.reset())
    assert (frames[0] != frames[1]).any()
    for step in range(130):
        np.testing.assert_array_equal(frames[1], single[0])
        frames = array(both.step(np.full(2, step % 3))[0])
        single = array(one.step(np.full(1, step % 3))[0])


def test_each_copy_draws_its_own_random_actions() -> None:
    first, second = make_vec(ORCHARD, 2, seed=7).get_attr("action_space")
    alone = make_vec(ORCHARD, 1, seed=8).action_space
    draws = [[space.sample() for _ in range(30)] for space in (first, second, alone)]
    assert draws[1] == draws[2]
    assert draws[0] != draws[1]


def test_the_first_reset_can_be_repeated_by_seeding_again() -> None:
    venv = make_vec(ORCHARD, 2, seed=3)
    first = array(venv.reset())
    assert (array(venv.reset()) != first).any()
    venv.seed(3)
    np.testing.assert_array_equal(array(venv.reset()), first)


def test_workers_give_the_same_stream() -> None:
    workers = make_vec(ORCHARD, 2, seed=7, workers=2)
    assert isinstance(workers, SubprocVecEnv)
    in_process = make_vec(ORCHARD, 2, seed=7)
    assert isinstance(in_process, DummyVecEnv)
    assert same(stream(workers), stream(in_process))


def test_a_truncated_episode_says_so_and_keeps_its_last_frame() -> None:
    venv = make_vec(ORCHARD, 1, seed=0, options=EnvOptions(size=0, max_episode_steps=5))
    alone = make_vec(ORCHARD, 1, seed=0)
    venv.reset()
    alone.reset()
    for step in range(5):
        frames, _, dones, infos = venv.step(np.array([2]))
        expected = array(alone.step(np.array([2]))[0])
        assert dones[0] == (step == 4)
    assert infos[0]["TimeLimit.truncated"] is True
    np.testing.assert_array_equal(infos[0]["terminal_observation"], expected[0])
    assert (array(frames)[0] != expected[0]).any(), "the next episode has begun"
    assert infos[0]["episode"]["l"] == 5


def test_a_terminated_episode_is_not_truncated_and_reports_its_return() -> None:
    venv = make_vec(ORCHARD, 1, seed=0)
    venv.reset()
    total, done = 0.0, False
    while not done:
        _, rewards, dones, infos = venv.step(np.array(venv.env_method("oracle_action")))
        total, done = total + float(rewards[0]), bool(dones[0])
    assert infos[0]["TimeLimit.truncated"] is False
    assert infos[0]["episode"]["r"] == total == 6.0
    assert infos[0]["terminal_observation"].shape == (3, 48, 48)


def test_frames_to_film_are_native() -> None:
    venv = make_vec(ORCHARD, 2, options=EnvOptions(size=32))
    assert array(venv.reset()).shape == (2, 3, 32, 32)
    images = venv.get_images()
    assert [image.shape for image in images if image is not None] == [(192, 192, 3)] * 2
    tiled = venv.render()
    assert tiled is not None
    assert tiled.shape == (2 * 192, 192, 3)


@pytest.mark.parametrize(
    ("n_envs", "workers", "sentence"),
    [
        (0, 0, "0 environments were asked for; it takes at least 1"),
        (4, 3, r"3 workers were asked for 4 environments; .* Give 0 \(all in this process\) or 4"),
        (4, -1, "-1 workers were asked for"),
    ],
)
def test_counts_out_of_range_are_sentences(n_envs: int, workers: int, sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence):
        make_vec(ORCHARD, n_envs, workers=workers)


@pytest.mark.parametrize("seed", [-1, 2**32 - 1])
def test_seeds_that_some_generator_does_not_take_are_sentences(seed: int) -> None:
    """Gymnasium's and numpy's own errors came with a traceback, and those from 2**32 on in dm_control alone."""
    with pytest.raises(EnvError) as caught:
        make_vec(ORCHARD, 2, seed=seed)
    assert str(caught.value) == f"The seed {seed} is out of range. Give a number from 0 to 4_294_967_294, say seed=1."
    if seed < 0:
        with pytest.raises(
            EnvError, match=r"^The seed -1 is out of range\. Give a number from 0 to 4_294_967_295, say"
        ):
            make_env(ORCHARD, seed=seed)
    else:
        assert make_env(ORCHARD, seed=seed).reset()[0].shape == (3, 48, 48)


def test_one_environment_is_not_stepped_as_two_copies() -> None:
    resolve(ORCHARD)  # which registers it
    only = gym.make(ORCHARD)
    gym.register("StillsightOnly-v0", lambda render_mode=None: only)  # noqa: ARG005
    try:
        with pytest.raises(EnvError) as caught:
            make_vec("StillsightOnly-v0", 3)
        make_vec("StillsightOnly-v0", 1).reset()
    finally:
        gym.registry.pop("StillsightOnly-v0")
    assert str(caught.value) == (
        "StillsightOnly-v0 was made 3 times, and its entry point gave one and the same environment more than once: a "
        "step of one copy would be one of another. Have it make a new one each time, or type --workers on, which gives "
        "each copy a process of its own."
    )


def test_an_unknown_id_is_a_sentence_before_any_worker_starts() -> None:
    with pytest.raises(EnvError, match="Did you mean 'stillsight/Orchard-v0'"):
        make_vec("stillsight/Orchard-v9", 2, workers=2)


def test_a_mistake_in_the_options_is_a_sentence_before_any_worker_starts() -> None:
    with pytest.raises(EnvError, match="is no Atari game"):
        make_vec(ORCHARD, 2, workers=2, options=EnvOptions(noop_max=3))


def test_reference_returns_of_an_environment_without_an_oracle() -> None:
    pytest.importorskip("pygame")
    scores = reference_returns("CartPole-v1", 3, seed=1, options=EnvOptions(size=16))
    assert list(scores) == ["random"]
    assert 8 <= scores["random"]["mean"] <= 80
    assert scores["random"]["episodes"] == 3
    with pytest.raises(EnvError, match="0 episodes were asked for"):
        reference_returns(ORCHARD, 0)
