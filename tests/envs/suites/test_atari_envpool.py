"""Atari in EnvPool beside the plain wrappers: the same game, frame for frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from stillsight.envs import EnvError, EnvOptions, NativeAtariVecEnv, make_vec, resolve

pytest.importorskip("ale_py")

from stillsight.envs.adapters import atari_envpool as module
from stillsight.envs.adapters.atari_envpool import EnvPoolAtariVecEnv

PONG, BREAKOUT, INVADERS = "ALE/Pong-v5", "ALE/Breakout-v5", "ALE/SpaceInvaders-v5"
ATARI = resolve(PONG).options
CERTAIN = ATARI.merge(noop_max=1, kwargs={"repeat_action_probability": 0.0})
"""One no-op at the start and no randomness: what the generators of the two would draw differently is switched off."""


@pytest.fixture
def _there() -> None:
    pytest.importorskip("envpool")


def array(observation: object) -> NDArray[np.uint8]:
    assert isinstance(observation, np.ndarray)
    return observation


def walk_together(env_id: str, options: EnvOptions, steps: int, n_envs: int = 1) -> list[dict[str, Any]]:
    """Step both alike, assert that all they say is equal, and return the last infos of the episodes that ended."""
    ours = make_vec(env_id, n_envs, options=options, native="envpool")
    plain = make_vec(env_id, n_envs, options=options, native=False)
    assert isinstance(ours, EnvPoolAtariVecEnv)
    assert isinstance(plain, DummyVecEnv)
    assert (ours.observation_space, ours.action_space) == (plain.observation_space, plain.action_space)
    assert list(map(str, ours.get_attr("seen"))) == list(map(str, plain.get_attr("seen")))
    np.testing.assert_array_equal(array(ours.reset()), array(plain.reset()))
    rng, ends = np.random.default_rng(0), []
    for step in range(steps):
        actions = rng.integers(0, plain.action_space.n, n_envs)  # type: ignore[attr-defined]
        frames, rewards, dones, infos = ours.step(actions)
        expected = plain.step(actions)
        np.testing.assert_array_equal(array(frames), array(expected[0]), err_msg=f"step {step}")
        np.testing.assert_array_equal(rewards, expected[1])
        np.testing.assert_array_equal(dones, expected[2])
        for info, other in zip(infos, expected[3], strict=True):
            assert (info["lives"], info["TimeLimit.truncated"]) == (other["lives"], other["TimeLimit.truncated"])
            if "episode" in other:
                np.testing.assert_array_equal(info["terminal_observation"], other["terminal_observation"])
                assert [info["episode"][key] for key in "rl"] == [other["episode"][key] for key in "rl"]
                ends.append(info)
    ours.close()
    ours.close()
    return ends


@pytest.mark.parametrize(
    ("env_id", "options", "steps", "n_envs", "ended"),
    [
        (BREAKOUT, CERTAIN, 400, 2, 2),  # games of uneven length: a new one leaves the other alone
        (PONG, CERTAIN.merge(size=0, frame_skip=3), 60, 1, 0),
        (INVADERS, CERTAIN.merge(size=32, frame_skip=6, max_episode_steps=33), 70, 2, 4),
        (PONG, CERTAIN.merge(frame_skip=1, kwargs={"full_action_space": True, "difficulty": 1}), 90, 1, 0),
        ("PongNoFrameskip-v4", ATARI.merge(noop_max=1), 60, 1, 0),
    ],
    ids=["Breakout", "Pong at its own size", "a limit of steps", "all actions, difficulty", "without sticky actions"],
)
@pytest.mark.usefixtures("_there")
def test_games_are_equal_step_by_step(env_id: str, options: EnvOptions, steps: int, n_envs: int, ended: int) -> None:
    assert len(walk_together(env_id, options, steps, n_envs)) >= ended


@pytest.mark.usefixtures("_there")
def test_signs_are_learned_from_and_true_returns_are_told() -> None:
    options = CERTAIN.merge(max_episode_steps=120)
    signs = make_vec(INVADERS, 1, options=options, native="envpool")
    true = make_vec(INVADERS, 1, options=options, training=False, native="envpool")
    signs.reset()
    true.reset()
    rewards = np.array([(signs.step(np.array([1]))[1][0], true.step(np.array([1]))[1][0]) for _ in range(119)])
    assert set(rewards[:, 0]) == {0.0, 1.0}
    assert rewards[:, 1].max() >= 5.0
    ends = [venv.step(np.array([1]))[3][0]["episode"]["r"] for venv in (signs, true)]
    assert ends[0] == ends[1] >= rewards[:, 1].sum()


@pytest.mark.usefixtures("_there")
def test_one_seed_gives_one_stream_and_games_begin_after_1_to_noop_max_no_ops() -> None:
    def stream(seed: int, n_envs: int = 2) -> NDArray[np.uint8]:
        venv = make_vec(PONG, n_envs, seed=seed, options=ATARI, native="envpool")
        frames = [array(venv.reset())] + [array(venv.step(np.full(n_envs, step % 6))[0]) for step in range(30)]
        venv.close()
        return np.stack(frames)

    first = stream(7)
    np.testing.assert_array_equal(first, stream(7))
    assert (first != stream(8)).any()
    np.testing.assert_array_equal(first[:, 1:], stream(8)[:, :1])  # copy i is the game of seed + i
    options = CERTAIN.merge(noop_max=5, frame_skip=1)
    freeway = "ALE/Freeway-v5"  # whose cars move in every frame
    plain = make_vec(freeway, 1, options=options.merge(noop_max=1), native=False)
    after = [array(plain.reset())[0]] + [array(plain.step(np.array([0]))[0])[0] for _ in range(5)]
    begun = array(make_vec(freeway, 24, options=options, native="envpool").reset())
    assert len({frame.tobytes() for frame in after}) == 6
    places = {next(k for k, frame in enumerate(after, 1) if np.array_equal(frame, one)) for one in begun}
    assert places == {1, 2, 3, 4, 5}


@pytest.mark.usefixtures("_there")
def test_it_is_taken_where_it_is_named_and_nowhere_else() -> None:
    assert type(make_vec(PONG, 1)) is NativeAtariVecEnv
    assert type(make_vec(PONG, 1, native=True)) is NativeAtariVecEnv
    venv: VecEnv = make_vec(PONG, 1, native="envpool", training=False)
    venv.reset()
    with pytest.raises(ValueError, match=r"The actions \[9\] were sent to ALE/Pong-v5; 0 to 5 exist"):
        venv.step(np.array([9]))


@pytest.mark.parametrize(
    ("env_id", "options", "sentence"),
    [
        (PONG, ATARI.merge(noop_max=0), r"it begins each game with a no-op at least \(noop_max=0\)"),
        (PONG, ATARI.merge(terminal_on_life_loss=True), "cannot play the no-op"),
        (
            PONG,
            ATARI.merge(kwargs={"max_num_frames_per_episode": 50}),
            "does not take the environment arguments max_num",
        ),
    ],
)
@pytest.mark.usefixtures("_there")
def test_what_it_cannot_do_is_a_sentence(env_id: str, options: EnvOptions, sentence: str) -> None:
    with pytest.raises(EnvError, match=f"EnvPool was asked for, and.*{sentence}"):
        make_vec(env_id, 2, options=options, native="envpool")


def test_no_other_tasks_of_it_are_taken() -> None:
    with pytest.raises(EnvError, match="'envpool' was asked for, and stillsight/Orchard-v0 has none"):
        make_vec("stillsight/Orchard-v0", native="envpool")
    assert "is no Atari game: of its other tasks" in str(
        EnvPoolAtariVecEnv.objection("stillsight/Orchard-v0", EnvOptions())
    )


def test_its_absence_is_one_sentence_and_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(EnvError, match=r'it is not found here \(pip install "stillsight\[envpool\]"\)'):
        make_vec(PONG, 1, native="envpool")
    assert type(make_vec(PONG, 1)) is NativeAtariVecEnv
