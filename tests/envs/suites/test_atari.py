"""The native Atari environment beside the plain wrappers: the same game, frame for frame."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from stillsight.envs import EnvError, EnvOptions, NativeAtariVecEnv, make_vec, resolve

ale_py = pytest.importorskip("ale_py")
from ale_py.vector_env import AtariVectorEnv  # noqa: E402 - needs the extra

PONG, BREAKOUT, INVADERS = "ALE/Pong-v5", "ALE/Breakout-v5", "ALE/SpaceInvaders-v5"
ATARI = resolve(PONG).options
CERTAIN = ATARI.merge(noop_max=0, kwargs={"repeat_action_probability": 0.0})
"""No randomness: what the generators of the two would draw differently is switched off."""


def array(observation: object) -> NDArray[np.uint8]:
    """SB3 types an observation as array, dict or tuple; here it is always the first."""
    assert isinstance(observation, np.ndarray)
    return observation


@contextmanager
def closing(*venvs: VecEnv) -> Iterator[None]:
    try:
        yield
    finally:
        for venv in venvs:
            venv.close()


def timeless(infos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Infos without what must differ (the clock) and what is compared apart (the terminal frame)."""
    infos = [{**info, "episode": dict(info["episode"])} if "episode" in info else dict(info) for info in infos]
    for info in infos:
        info.pop("terminal_observation", None)
        info.pop("seeds", None)
        if "episode" in info:
            assert info["episode"].pop("t") >= 0.0
    return infos


def walk_together(
    env_id: str, options: EnvOptions, steps: int, *, training: bool = True, n_envs: int = 1, seed: int = 0
) -> list[dict[str, Any]]:
    """Steps both alike, asserts that all they say is equal, and returns the last infos of the episodes that ended."""
    native = make_vec(env_id, n_envs, seed=seed, options=options, training=training, native=True)
    plain = make_vec(env_id, n_envs, seed=seed, options=options, training=training, native=False)
    assert isinstance(native, NativeAtariVecEnv)
    assert isinstance(plain, DummyVecEnv)
    ends = []
    with closing(native, plain):
        assert native.observation_space == plain.observation_space
        assert native.action_space == plain.action_space
        np.testing.assert_array_equal(array(native.reset()), array(plain.reset()))
        assert timeless(native.reset_infos) == timeless(plain.reset_infos)
        for step in range(steps):
            actions = np.array([plain.action_space.sample() for _ in range(n_envs)])
            frames, rewards, dones, infos = native.step(actions)
            expected = plain.step(actions)
            np.testing.assert_array_equal(array(frames), array(expected[0]), err_msg=f"step {step}")
            np.testing.assert_array_equal(rewards, expected[1])
            np.testing.assert_array_equal(dones, expected[2])
            assert [array(frames).dtype, rewards.dtype, dones.dtype] == [np.dtype(t) for t in ("u1", "f4", "?")]
            assert timeless(infos) == timeless(expected[3])
            assert timeless(native.reset_infos) == timeless(plain.reset_infos)
            for i in np.flatnonzero(dones):
                np.testing.assert_array_equal(infos[i]["terminal_observation"], expected[3][i]["terminal_observation"])
                ends.append(infos[i])
    return ends


@pytest.mark.parametrize(
    ("env_id", "options", "steps", "n_envs"),
    [
        (PONG, CERTAIN.merge(frame_skip=8, size=64), 560, 1),
        (BREAKOUT, CERTAIN, 260, 2),  # two that end apart: a new game of one leaves the other alone
        (INVADERS, CERTAIN.merge(size=32, frame_skip=6), 400, 1),
    ],
    ids=["Pong", "Breakout", "SpaceInvaders"],
)
def test_whole_games_are_equal_to_their_true_end(env_id: str, options: EnvOptions, steps: int, n_envs: int) -> None:
    ends = walk_together(env_id, options, steps, n_envs=n_envs)
    assert ends, "a game should have ended"
    assert not any(end["TimeLimit.truncated"] for end in ends)
    if env_id == PONG:
        assert all(end["episode"]["r"] <= -15.0 for end in ends)
    else:
        assert all(end["lives"] == 0 for end in ends)


@pytest.mark.parametrize(("env_id", "size"), [(PONG, 84), (BREAKOUT, 0)])
def test_episodes_cut_at_max_episode_steps_are_equal(env_id: str, size: int) -> None:
    ends = walk_together(env_id, CERTAIN.merge(max_episode_steps=33, size=size), 70, n_envs=2)
    assert [end["TimeLimit.truncated"] for end in ends] == [True] * 4
    assert [end["episode"]["l"] for end in ends] == [33] * 4


@pytest.mark.parametrize("native", [True, False])
def test_our_time_limit_replaces_ale_pys_of_frames(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    """An id is registered with 108,000 frames, by which a longer episode was cut; here with 40."""
    resolve(PONG)
    monkeypatch.setitem(gym.registry[PONG].kwargs, "max_num_frames_per_episode", 40)
    for options, length in ((CERTAIN.merge(max_episode_steps=15), 15), (CERTAIN, 10)):
        venv = make_vec(PONG, 1, options=options, native=native)
        with closing(venv):
            venv.reset()
            infos = [venv.step(np.zeros(1, np.int64))[3][0] for _ in range(length)]
        assert [info["episode"]["l"] for info in infos if "episode" in info] == [length]
        assert infos[-1]["TimeLimit.truncated"]


@pytest.mark.parametrize("frame_skip", [1, 3, 4])
def test_games_cut_at_their_own_limit_of_frames_are_equal(frame_skip: int) -> None:
    options = CERTAIN.merge(frame_skip=frame_skip, kwargs={"max_num_frames_per_episode": 50})
    ends = walk_together(PONG, options, 55)
    assert {end["TimeLimit.truncated"] for end in ends} == {True}
    assert {end["episode"]["l"] for end in ends} == {-(-50 // frame_skip)}


@pytest.mark.parametrize(
    ("env_id", "options", "training"),
    [
        (PONG, CERTAIN.merge(kwargs={"full_action_space": True}), True),
        (PONG, CERTAIN.merge(kwargs={"max_num_frames_per_episode": None}), True),
        (PONG, CERTAIN.merge(terminal_on_life_loss=True), False),
        ("Pong-v4", CERTAIN.merge(kwargs={}), True),
        ("BreakoutNoFrameskip-v4", CERTAIN.merge(kwargs={}), True),
        ("ale_py:ALE/Pong-v5", CERTAIN, True),
        ("ALE/AirRaid-v5", CERTAIN.merge(size=0), True),  # 250 lines in place of 210
    ],
)
def test_other_ids_and_arguments_are_equal(env_id: str, options: EnvOptions, training: bool) -> None:
    walk_together(env_id, options, 40, training=training)


@given(
    size=st.sampled_from([0, 8, 31, 84, 210]),
    frame_skip=st.integers(1, 6),
    max_episode_steps=st.integers(0, 12),
    clip_rewards=st.booleans(),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=6, deadline=None)
def test_any_options_are_equal(
    size: int, frame_skip: int, max_episode_steps: int, clip_rewards: bool, seed: int
) -> None:
    options = CERTAIN.merge(
        size=size, frame_skip=frame_skip, max_episode_steps=max_episode_steps, clip_rewards=clip_rewards
    )
    walk_together(BREAKOUT, options, 15, seed=seed)


def play(venv: VecEnv, steps: int, *, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Frames and rewards of a fixed random play after a reset."""
    random = np.random.default_rng(seed)
    frames, rewards = [array(venv.reset())], []
    for _ in range(steps):
        frame, reward, _, _ = venv.step(random.integers(venv.action_space.n, size=venv.num_envs))  # type: ignore[attr-defined]
        frames.append(array(frame))
        rewards.append(reward)
    return np.stack(frames), np.stack(rewards)


def test_sticky_actions_are_those_of_the_plain_wrappers_where_both_can_have_one_seed() -> None:
    # A native seed has no highest bit, so about half of the seeds reach the game unchanged.
    seed = next(s for s in range(99) if np.random.SeedSequence(s).generate_state(2)[1] < 2**31)
    ends = walk_together(PONG, ATARI.merge(noop_max=0, max_episode_steps=50), 80, seed=seed)
    assert len(ends) == 1
    streams = []
    for options in (ATARI.merge(noop_max=0), CERTAIN):
        venv = make_vec(PONG, 1, seed=seed, options=options, native=True)
        streams.append(play(venv, 60)[0])
        venv.close()
    assert (streams[0] != streams[1]).any(), "by default a quarter of the actions stick"


def test_games_start_after_a_random_number_of_noops() -> None:
    venv = make_vec(PONG, 4, seed=1, options=ATARI.merge(size=8))
    begun: set[int] = set()
    with closing(venv):
        for _ in range(25):
            venv.reset()
            begun |= {info["episode_frame_number"] for info in venv.reset_infos}
    assert begun <= set(range(30))
    assert len(begun) > 20


def test_one_seed_gives_one_stream_and_another_seed_another() -> None:
    options = ATARI.merge(max_episode_steps=25)
    streams = []
    for seed in (7, 7, 8):
        venv = make_vec(PONG, 2, seed=seed, options=options)
        assert isinstance(venv, NativeAtariVecEnv)
        streams.append(play(venv, 60)[0])
        venv.close()
    np.testing.assert_array_equal(streams[0], streams[1])
    assert (streams[0] != streams[2]).any()
    assert (streams[0][:, 0] != streams[0][:, 1]).any(), "copies play their own games"


def test_copy_i_is_the_single_environment_of_seed_plus_i() -> None:
    both, alone = make_vec(PONG, 2, seed=7), make_vec(PONG, 1, seed=8)
    with closing(both, alone):
        frames, single = array(both.reset()), array(alone.reset())
        for step in range(60):
            np.testing.assert_array_equal(frames[1], single[0])
            frames = array(both.step(np.full(2, step % 6))[0])
            single = array(alone.step(np.full(1, step % 6))[0])
        spaces = [*both.get_attr("action_space"), alone.action_space]
        draws = [[space.sample() for _ in range(30)] for space in spaces]
        assert draws[1] == draws[2] != draws[0]


def test_seeding_again_repeats_a_game_and_resetting_goes_on_to_the_next() -> None:
    venv = make_vec(PONG, 2, seed=3)
    with closing(venv):
        first, second = play(venv, 40)[0], play(venv, 40)[0]
        assert (first != second).any()
        venv.seed(3)
        np.testing.assert_array_equal(play(venv, 40)[0], first)
        np.testing.assert_array_equal(play(venv, 40)[0], second)


def test_a_reset_begins_a_new_count_of_reward_and_steps() -> None:
    venv = make_vec(BREAKOUT, 1, options=CERTAIN.merge(max_episode_steps=20))
    with closing(venv):
        play(venv, 15)
        play(venv, 19)
        _, _, dones, infos = venv.step(np.array([0]))
        assert dones[0]
        assert infos[0]["episode"]["l"] == 20


def test_returns_are_true_while_rewards_are_signs_and_defaults_would_hide_them() -> None:
    """The native defaults clip rewards and tell nobody; the same play shows what they would hide."""
    options = CERTAIN.merge(max_episode_steps=200)
    signs = make_vec(INVADERS, 1, options=options, native=True)
    true = make_vec(INVADERS, 1, options=options, training=False, native=True)
    hidden = AtariVectorEnv("space_invaders", 1, noop_max=0, use_fire_reset=False)
    random = np.random.default_rng(0)
    clipped = scored = defaults = 0.0
    with closing(signs, true):
        signs.reset(), true.reset(), hidden.reset(seed=0)
        for _ in range(200):
            action = random.integers(6, size=1)
            clipped += float(signs.step(action)[1][0])
            _, reward, dones, infos = true.step(action)
            scored += float(reward[0])
            defaults += float(hidden.step(action)[1][0])
    assert dones[0]
    assert infos[0]["episode"]["r"] == scored > clipped == defaults > 0


def test_a_cut_at_the_native_limit_would_show_a_stale_frame() -> None:
    """Why the adapter counts max_episode_steps itself: natively the last frame is mixed with an earlier one."""
    # 60 steps at 4 frames a step: the ball of Pong is in play, so frames differ.
    ours = make_vec(PONG, 1, options=CERTAIN.merge(max_episode_steps=60), native=True)
    theirs = AtariVectorEnv(
        "pong", 1, grayscale=False, stack_num=1, noop_max=0, use_fire_reset=False, max_num_frames_per_episode=240
    )
    with closing(ours):
        ours.reset(), theirs.reset(seed=0)
        for step in range(60):
            action = np.array([2 + step % 2])
            before = theirs.step(action)
            infos = ours.step(action)[3]
    assert before[3][0]
    assert (infos[0]["terminal_observation"] != before[0][0, 0].transpose(2, 0, 1)).any()


def test_what_was_given_out_is_not_written_again() -> None:
    venv = make_vec(PONG, 2, options=CERTAIN.merge(max_episode_steps=3))
    with closing(venv):
        given_out = [array(venv.reset())]
        copies = [given_out[0].copy()]
        for _ in range(7):
            frames, _, dones, infos = venv.step(np.array([2, 3]))
            given_out.append(array(frames))
            given_out += [info["terminal_observation"] for info in infos if dones.all()]
            copies += [one.copy() for one in given_out[len(copies) :]]
        for one, copy in zip(given_out, copies, strict=True):
            np.testing.assert_array_equal(one, copy)


def test_frames_to_film_are_the_last_observations() -> None:
    venv = make_vec(PONG, 2, options=ATARI.merge(max_episode_steps=4))
    with closing(venv):
        venv.reset()
        for _ in range(9):  # across two ends
            frames = array(venv.step(np.array([2, 3]))[0])
            images = np.stack([image for image in venv.get_images() if image is not None])
            np.testing.assert_array_equal(images.transpose(0, 3, 1, 2), frames)
        tiled = venv.render()
        assert tiled is not None
        np.testing.assert_array_equal(tiled[:84], images[0])


def test_attributes_belong_to_copies_and_there_are_no_methods() -> None:
    venv = make_vec(PONG, 2)
    with closing(venv):
        assert venv.render_mode == "rgb_array"
        assert [spec.id for spec in venv.get_attr("spec")] == [PONG] * 2
        venv.set_attr("note", "mine", indices=[1])
        assert venv.get_attr("note", 1) == ["mine"]
        assert not venv.has_attr("note")
        assert not venv.has_attr("oracle_action")
        with pytest.raises(AttributeError, match="oracle_action"):
            venv.env_method("oracle_action")
        assert venv.env_is_wrapped(Monitor) == [True] * 2
        assert venv.env_is_wrapped(gym.wrappers.TimeLimit, indices=0) == [False]


def test_evaluate_policy_scores_true_returns_as_behind_a_monitor() -> None:
    class Shooter:
        def predict(self, observation: Any, **_: Any) -> tuple[NDArray[np.int64], None]:
            return np.ones(len(observation), np.int64), None

    venv = make_vec(INVADERS, 1, options=CERTAIN.merge(max_episode_steps=120), native=True)
    with closing(venv):
        score, _ = evaluate_policy(Shooter(), venv, 1)  # type: ignore[arg-type]
        signs, done = 0.0, False
        venv.reset()
        while not done:
            _, rewards, dones, infos = venv.step(np.array([1]))
            signs, done = signs + float(rewards[0]), bool(dones[0])
    assert score == infos[0]["episode"]["r"] > signs > 0


def test_an_action_that_does_not_exist_is_refused_before_it_stalls_the_threads() -> None:
    venv = make_vec(PONG, 2)
    with closing(venv):
        venv.reset()
        for wrong in (-1, 6):
            with pytest.raises(ValueError, match=rf"actions \[0, {wrong}\] were sent to ALE/Pong-v5; 0 to 5 exist"):
                venv.step(np.array([0, wrong]))
        venv.step(np.array([0, 5]))  # nothing was broken


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_closing_ends_the_threads_and_can_be_repeated() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/task"))

    venv = make_vec(PONG, 2)
    venv.reset()
    running = count()
    venv.close()
    assert count() < running
    venv.close()


class Worker(DummyVecEnv):
    """Stands for WorkerVecEnv, whose process would be seconds in starting."""

    def __init__(self, _env_id: str, makers: Any, *_: Any) -> None:
        super().__init__(makers)


@pytest.mark.parametrize(
    ("env_id", "arguments", "kind"),
    [
        (PONG, {}, NativeAtariVecEnv),
        (PONG, {"native": False}, DummyVecEnv),
        (PONG, {"training": False}, DummyVecEnv),
        (PONG, {"training": False, "native": True}, NativeAtariVecEnv),
        (PONG, {"workers": 1}, Worker),
        (PONG, {"options": ATARI.merge(terminal_on_life_loss=True)}, DummyVecEnv),
        (PONG, {"options": ATARI.merge(kwargs={"difficulty": 1})}, DummyVecEnv),
        ("stillsight/Orchard-v0", {}, DummyVecEnv),
    ],
)
def test_native_is_chosen_where_it_can_do_what_is_asked(
    env_id: str, arguments: dict[str, Any], kind: type[VecEnv], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillsight.envs.vector.WorkerVecEnv", Worker)
    venv = make_vec(env_id, 1, **arguments)
    with closing(venv):
        assert type(venv) is kind


@pytest.mark.parametrize(
    ("env_id", "arguments", "sentence"),
    [
        ("stillsight/Orchard-v0", {}, "stillsight/Orchard-v0 is no Atari game. Give native=None or False"),
        (PONG, {"workers": 2}, "2 workers, and it runs threads of its own. Give workers=0 or native=False"),
        (
            PONG,
            {"options": ATARI.merge(terminal_on_life_loss=True)},
            r"cannot play the no-op .*\(terminal_on_life_loss\)",
        ),
        (PONG, {"options": ATARI.merge(kwargs={"mode": 1, "difficulty": 0})}, "arguments difficulty=0, mode=1. Give"),
        ("Limited-v0", {}, "Limited-v0 was registered with wrappers or a time limit of its own"),
    ],
)
def test_what_native_cannot_do_is_a_sentence(
    env_id: str, arguments: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = gym.envs.registration.EnvSpec(
        "Limited-v0", "ale_py.env:AtariEnv", max_episode_steps=9, kwargs={"game": "pong"}
    )
    monkeypatch.setitem(gym.registry, "Limited-v0", limited)
    with pytest.raises(EnvError, match=f"The native Atari environment was asked for.*{sentence}"):
        make_vec(env_id, 2, native=True, **arguments)


def test_an_older_ale_py_is_a_sentence_and_trains_through_the_plain_wrappers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ale_py, "__version__", "0.10.2")
    with pytest.raises(EnvError, match=r"needs ale-py 0\.12\.1 where this is 0\.10\.2 \(pip install -U ale-py\)"):
        make_vec(PONG, native=True)
    venv = make_vec(PONG)
    with closing(venv):
        assert isinstance(venv, DummyVecEnv)


def test_a_mistake_in_the_arguments_is_the_sentence_of_the_plain_wrappers() -> None:
    with pytest.raises(EnvError, match="The environment argument 'frameskip' is set by stillsight"):
        make_vec(PONG, options=ATARI.merge(kwargs={"frameskip": 2}))
