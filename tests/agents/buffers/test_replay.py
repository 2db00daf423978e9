"""FrameReplayBuffer: each frame once, and what is sampled equals a plain buffer of whole stacks, to the bit."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from stillsight.agents import EncodedVecEnv, RlConfig, rl
from stillsight.agents.buffers.replay import FrameReplayBuffer
from stillsight.agents.errors import RunError
from stillsight.agents.runs import checkpoint
from stillsight.agents.training import algorithms, callbacks
from stillsight.agents.training.build import make_agent
from stillsight.agents.training.checkpointing import Savepoints
from stillsight.agents.training.model import make_model
from stillsight.agents.training.state import model_state as state
from stillsight.agents.training.summary import buffer_bytes
from stillsight.encoders import build
from stillsight.encoders.building import build as build_encoder
from stillsight.envs import make_vec

ACTIONS = spaces.Box(-1, 1, (1,), np.float32)
FIELDS = ("observations", "next_observations", "actions", "rewards", "dones")
RETURNS = (*FIELDS, "discounts")
# Few values, so that frames repeat by chance; the last ones are where "equal" and "the same bits" part.
FLOATS = np.array([1.5, -2.0, 0.1, 3e-5, 0.0, -0.0, np.nan], np.float32)

Row = dict[str, np.ndarray]
Rows = dict[tuple[int, int], Row]


def space(count: int, width: int = 3, pixels: bool = False) -> spaces.Box:
    if pixels:
        return spaces.Box(0, 255, (count, 1, width, 1), np.uint8)
    return spaces.Box(-np.inf, np.inf, (count, width), np.float32)


class Player:
    """Environments of random frames, and SB3's own buffer of whole stacks, large enough to keep all that is played.

    `step` plays on everywhere: 0 the episode goes on, 1 it ends by the rules, 2 by a time limit, 3 it goes on from a
    stack that has nothing to do with the one before, as where somebody else stepped the environment. Where frames are
    `still` all of them are one, so that every episode ends with what the next one begins with.
    """

    def __init__(self, box: spaces.Box, n_envs: int, seed: int = 0, still: bool = False) -> None:
        self.box, self.count, self.n_envs, self.still = box, box.shape[0], n_envs, still
        self.random = np.random.default_rng(seed)
        self.plain = ReplayBuffer(200 * n_envs, box, ACTIONS, "cpu", n_envs)
        self.stacks = np.stack([self._first() for _ in range(n_envs)])

    def _frames(self, number: int) -> np.ndarray:
        shape = (number, *self.box.shape[1:])
        if self.still:
            return np.full(shape, 2, self.box.dtype)
        if self.box.dtype == np.uint8:
            return self.random.integers(0, 3, shape, dtype=np.uint8)
        frames: np.ndarray = self.random.choice(FLOATS, shape)
        return frames

    def _first(self) -> np.ndarray:
        return np.repeat(self._frames(1), self.count, axis=0)

    def step(self, ends: list[int], *buffers: ReplayBuffer) -> None:
        following = np.stack([np.concatenate([stack[1:], self._frames(1)]) for stack in self.stacks])
        # The number of the step is its action, by which a test finds it again.
        action = np.full((self.n_envs, 1), self.plain.pos, np.float32)
        reward = self.random.standard_normal(self.n_envs).astype(np.float32)
        done = np.array([end in (1, 2) for end in ends])
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": end == 2} for end in ends]
        for buffer in (self.plain, *buffers):
            buffer.add(self.stacks.copy(), following.copy(), action.copy(), reward.copy(), done.copy(), infos)
        for env, end in enumerate(ends):
            goes_on = self._frames(self.count) if end == 3 else following[env]
            self.stacks[env] = self._first() if done[env] else goes_on

    def played(self, env: int, number: int) -> Row:
        """What SB3's buffer would give for step `number` of `env`."""
        plain = self.plain
        return {
            "observations": plain.observations[number, env],
            "next_observations": plain.next_observations[number, env],
            "actions": plain.actions[number, env],
            "rewards": plain.rewards[number, env : env + 1],
            "dones": (plain.dones * (1 - plain.timeouts))[number, env : env + 1],
        }


def rows(buffer: FrameReplayBuffer, places: np.ndarray) -> list[tuple[tuple[int, int], Row]]:
    batch = buffer._get_samples(places)
    found = [{name: getattr(batch, name)[index].numpy() for name in FIELDS} for index in range(len(places))]
    return [((int(p) % buffer.n_envs, int(row["actions"][0])), row) for p, row in zip(places, found, strict=True)]


def stored(buffer: FrameReplayBuffer) -> Rows:
    """All transitions that can be sampled, by environment and number of the step."""
    listed = rows(buffer, np.flatnonzero(buffer.valid))
    assert len(dict(listed)) == len(listed) == buffer.size(), "none twice, and counted right"
    return dict(listed)


def assert_same(found: Row, played: Row, dtype: str) -> None:
    for name, value in found.items():
        expected = played[name]
        if name.endswith("observations") and dtype == "float16":
            # numpy and torch write NaN with other spare bits when they convert it; everything else is the same bits.
            expected, value = (
                np.nan_to_num(frames, nan=7.0) for frames in (expected.astype(np.float16).astype(np.float32), value)
            )
        assert value.dtype == expected.dtype, name
        assert value.shape == expected.shape, name
        assert value.tobytes() == expected.tobytes(), name


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 4),
    n_envs=st.integers(1, 3),
    slots=st.integers(6, 40),
    over=st.integers(0, 2),
    dtype=st.sampled_from(["float16", "float32", "uint8"]),
    often=st.sampled_from([[0] * 40 + [1, 2], [0, 0, 0, 0, 1, 2], [0, 0, 0, 1, 2, 3], [1, 2]]),
    length=st.integers(1, 120),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_stored_equals_a_buffer_of_whole_stacks(
    count: int, n_envs: int, slots: int, over: int, dtype: str, often: list[int], length: int, seed: int
) -> None:
    """Any ends at any time, environments out of step, rings that wrap many times, episodes longer than a ring."""
    box = space(count, pixels=dtype == "uint8")
    kept = "float32" if dtype == "float32" else "float16"
    # A size that the environments do not divide is rounded down to whole rings.
    buffer = FrameReplayBuffer(slots * n_envs + min(over, n_envs - 1), box, ACTIONS, "cpu", n_envs, dtype=kept)
    assert len(buffer.frames) == slots
    player = Player(box, n_envs, seed)
    ends = np.random.default_rng(seed).choice(often, (length, n_envs))
    for row in ends.tolist():
        player.step(row, buffer)
        assert buffer.size() == buffer.valid.sum()
    found = stored(buffer)
    for (env, number), transition in found.items():
        assert_same(transition, player.played(env, number), dtype)
    for env in range(n_envs):
        numbers = sorted(number for found_env, number in found if found_env == env)
        # Nothing is given up that the ring still holds whole: what is kept is the end of what was played.
        assert numbers == list(range(length))[-len(numbers) :]
        # At most the history of the oldest, an episode's last frame and a strange stack take slots of their own.
        lost = sum({0: 0, 1: 1, 2: 1, 3: count}[end] for end in ends[-slots:, env].tolist())
        assert len(numbers) >= max(1, min(length, slots - count - lost))


def test_an_episode_longer_than_the_ring_keeps_its_end() -> None:
    buffer = FrameReplayBuffer(10, space(4), ACTIONS, "cpu", 1, dtype="float32")
    player = Player(space(4), 1)
    for step in range(100):
        player.step([0], buffer)
        # Ten slots: the newest frame, from which nothing leads on, and six transitions with three frames before them.
        oldest = 0 if step < 9 else step - 5
        assert sorted(number for _, number in stored(buffer)) == list(range(oldest, step + 1))
        for (env, number), row in stored(buffer).items():
            assert_same(row, player.played(env, number), "float32")


def test_a_time_limit_is_no_end_by_the_rules() -> None:
    buffer = FrameReplayBuffer(40, space(2), ACTIONS, "cpu", 3)
    player = Player(space(2), 3)
    player.step([0, 1, 2], buffer)
    player.step([0, 0, 0], buffer)
    assert {key: float(row["dones"][0]) for key, row in stored(buffer).items() if key[1] == 0} == {
        (0, 0): 0.0,
        (1, 0): 1.0,
        (2, 0): 0.0,
    }
    # Both kinds of end begin a new episode, whose first stack is one frame repeated.
    for env in (1, 2):
        stack = stored(buffer)[env, 1]["observations"]
        assert stack[0].tobytes() == stack[1].tobytes()


def test_sampling_draws_only_whole_transitions_and_all_of_them() -> None:
    buffer = FrameReplayBuffer(40, space(3), ACTIONS, "cpu", 2)
    player = Player(space(3), 2)
    for step in range(70):
        player.step([int(step % 7 == 6), 2 * int(step % 5 == 4)], buffer)
    whole = stored(buffer)
    asked: list[np.ndarray] = []

    class Watched(FrameReplayBuffer):
        def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> ReplayBufferSamples:
            asked.append(batch_inds)
            return super()._get_samples(batch_inds, env)

    buffer.__class__ = Watched
    np.random.seed(0)
    batch = buffer.sample(8000)
    assert batch.observations.shape == (8000, 3, 3)
    assert batch.rewards.shape == batch.dones.shape == (8000, 1)
    drawn = [key for key, _ in rows(buffer, asked[0])]
    assert set(drawn) == set(whole)
    # Uniformly: 8000 draws of some 30, each within five standard deviations of its share.
    share = 8000 / len(whole)
    assert max(abs(drawn.count(key) - share) for key in whole) < 5 * share**0.5


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("before", [0, 9, 30])
def test_what_is_forgotten_and_added_again_comes_to_the_same_memory(n_steps: int, before: int) -> None:
    """A run that is stopped in a rollout is saved as it stood before it: also where the ring is wrapped around."""
    one, other = (FrameReplayBuffer(40, space(3), ACTIONS, "cpu", 2, n_steps=n_steps) for _ in range(2))
    player = Player(space(3), 2)
    ends = [[int(step % 7 == 6), 2 * int(step % 5 == 4)] for step in range(before + 6)]
    for end in ends[:before]:
        player.step(end, one, other)
    mark, twin = one.mark(), copy.deepcopy(player)
    for end in ends[before:]:
        twin.step(end, one)
    one.rewind(mark)
    assert all(number < before for _, number in stored(one))
    if one.full:
        assert one.held <= other.held
    else:
        assert set(stored(one)) == set(stored(other))
    again = FrameReplayBuffer(40, space(3), ACTIONS, "cpu", 2, n_steps=n_steps)
    again.restore(one.state())
    for end in ends[before:]:
        player.step(end, again, other)
    first, second = again.state(), other.state()
    assert (first["pos"], again.held) == (second["pos"], other.held)
    for name, tensor in first["arrays"].items():
        assert tensor.numpy().tobytes() == second["arrays"][name].numpy().tobytes(), name


def test_an_environment_that_is_ahead_does_not_hide_the_others() -> None:
    """One ring is wrapped around and the other half empty: what was never written is never sampled."""
    buffer = FrameReplayBuffer(2 * 12, space(2), ACTIONS, "cpu", 2)
    player = Player(space(2), 2)
    for _ in range(7):  # episodes of one step take two slots each
        player.step([1, 0], buffer)
    assert buffer.full
    assert buffer.heads.tolist() == [2, 8]
    np.random.seed(0)
    assert not buffer.sample(500).actions.isnan().any()
    for (env, number), row in stored(buffer).items():
        assert_same(row, player.played(env, number), "float16")


def test_the_same_last_frame_is_not_the_same_history() -> None:
    """A reset in the middle of an episode, as a second `learn` makes it, where both frames look alike."""
    buffer = FrameReplayBuffer(20, space(2), ACTIONS, "cpu", 1, dtype="float32")
    black, white = np.zeros((1, 1, 3), np.float32), np.ones((1, 1, 3), np.float32)
    ended, began = np.concatenate([black, white], axis=1), np.concatenate([white, white], axis=1)
    step = (np.zeros((1, 1)), np.zeros(1), np.zeros(1, bool), [{}])
    buffer.add(np.concatenate([black, black], axis=1), ended, *step)
    buffer.add(began, began, *step)
    observations = buffer._get_samples(np.flatnonzero(buffer.valid)).observations
    np.testing.assert_array_equal(observations[1], began[0])


def test_a_first_frame_of_zeros_is_a_frame() -> None:
    """An empty memory is zeros too; taken for the frame before, the first one would never be written."""
    buffer = FrameReplayBuffer(20, space(2), ACTIONS, "cpu", 2)
    black, white = np.zeros((2, 2, 3), np.float32), np.ones((2, 2, 3), np.float32)
    buffer.add(black, white, np.zeros((2, 1)), np.zeros(2), np.zeros(2, bool), [{}, {}])
    for row in stored(buffer).values():
        np.testing.assert_array_equal(row["observations"], black[0])
        np.testing.assert_array_equal(row["next_observations"], [[0, 0, 0], [1, 1, 1]])


def test_frames_that_are_no_numbers_are_kept_once_too() -> None:
    """NaN is not equal to itself: compared by value, every step would look like the start of another trajectory."""
    buffer = FrameReplayBuffer(60, space(4), ACTIONS, "cpu", 1)
    stacks = np.full((1, 4, 3), np.nan, np.float32)
    for _ in range(30):
        buffer.add(stacks, stacks, np.zeros((1, 1)), np.zeros(1), np.zeros(1, bool), [{}])
    assert buffer.heads.tolist() == [31]


def test_a_trajectory_may_begin_in_the_middle_of_an_episode() -> None:
    """After a resume, or where somebody else stepped the environment, the first stack is no repeated frame."""
    buffer = FrameReplayBuffer(20, space(3), ACTIONS, "cpu", 1)
    first = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    second = np.concatenate([first[:, 1:], np.full((1, 1, 3), 50, np.float32)], axis=1)
    other = first + 100  # does not continue the second
    for number, (obs, following) in enumerate(((first, second), (other, other + 10))):
        buffer.add(obs, following, np.full((1, 1), number), np.zeros(1), np.zeros(1, bool), [{}])
    found = stored(buffer)
    np.testing.assert_array_equal(found[0, 0]["observations"], first[0])
    np.testing.assert_array_equal(found[0, 0]["next_observations"], second[0])
    np.testing.assert_array_equal(found[0, 1]["observations"], other[0])


def test_pixels_stay_bytes() -> None:
    pixels = spaces.Box(0, 255, (2, 3, 8, 8), np.uint8)
    buffer = FrameReplayBuffer(30, pixels, ACTIONS, "cpu", 1)
    obs = np.random.default_rng(0).integers(0, 256, (1, 2, 3, 8, 8), dtype=np.uint8)
    following = np.concatenate([obs[:, 1:], 255 - obs[:, 1:]], axis=1)
    buffer.add(obs, following, np.zeros((1, 1)), np.zeros(1), np.zeros(1, bool), [{}])
    batch = buffer.sample(4)
    assert batch.observations.dtype == torch.uint8
    assert (batch.observations.numpy() == obs).all()
    assert (batch.next_observations.numpy() == following).all()


@pytest.mark.parametrize("before", [0, 3, 17, 60])
def test_state_survives_a_round_trip(before: int) -> None:
    box = space(3)
    buffer, other = (FrameReplayBuffer(24, box, ACTIONS, "cpu", 2, dtype="float32") for _ in range(2))
    player = Player(box, 2)
    for step in range(before):
        player.step([int(step % 6 == 5), 0], buffer)
    other.restore(buffer.state())
    assert other.size() == buffer.size() == buffer.valid.sum()
    for step in range(9):  # and goes on in the same way, with nothing written twice
        player.step([int(step == 3), 0], buffer, other)
    found = stored(other)
    assert found.keys() == stored(buffer).keys()
    for (env, number), row in found.items():
        assert_same(row, player.played(env, number), "float32")
    assert other.heads.tolist() == buffer.heads.tolist()


def test_a_state_of_another_shape_is_refused() -> None:
    buffer = FrameReplayBuffer(24, space(3), ACTIONS, "cpu", 2)
    player = Player(space(3), 2)
    for _ in range(20):
        player.step([0, 0], buffer)
    state = buffer.state()
    with pytest.raises(ValueError, match=r"holds frames \(12, 2, 3\), not \(12, 2, 5\)"):
        FrameReplayBuffer(24, space(3, width=5), ACTIONS, "cpu", 2).restore(state)
    # A ring that is wrapped around would have its seam in the middle of a larger one, and stacks across it.
    for size in (20, 28):
        other = FrameReplayBuffer(size, space(3), ACTIONS, "cpu", 2)
        with pytest.raises(ValueError, match=f"holds 12 slots, not {size // 2}"):
            other.restore(state)
        assert not other.size()


def test_reset_forgets_everything() -> None:
    """What is played afterwards is sampled as from a new buffer, and nothing else is."""
    buffer, fresh = (FrameReplayBuffer(24, space(3), ACTIONS, "cpu", 2, dtype="float32") for _ in range(2))
    player = Player(space(3), 2)
    for step in range(30):  # until the ring has wrapped around
        player.step([int(step % 7 == 6), 0], buffer)
    assert buffer.full
    buffer.reset()
    assert (buffer.size(), buffer.full, buffer.pos) == (0, False, 0)
    with pytest.raises(ValueError, match="no transition yet"):
        buffer.sample(1)
    assert {len(array) for name, array in buffer.state()["arrays"].items() if name in ("frames", "valid")} == {0}
    for _ in range(4):  # the first step goes on from the last one before the reset: its history is written again
        player.step([0, 0], buffer, fresh)
    assert stored(buffer).keys() == stored(fresh).keys() == {(env, step) for env in (0, 1) for step in range(30, 34)}
    np.random.seed(0)
    batch = buffer.sample(64)
    np.random.seed(0)
    for name, tensor in fresh.sample(64)._asdict().items():
        if tensor is not None:
            assert getattr(batch, name).numpy().tobytes() == tensor.numpy().tobytes(), name


# n-step returns


def n_step_pair(
    box: spaces.Box, slots: int, n_envs: int, n_steps: int, gamma: float, dtype: str = "float32", steps: int = 200
) -> tuple[FrameReplayBuffer, NStepReplayBuffer]:
    """Ours with `slots`, and SB3's with `steps`, of each environment."""
    returns: dict[str, Any] = {"n_steps": n_steps, "gamma": gamma}
    ours = FrameReplayBuffer(slots * n_envs, box, ACTIONS, "cpu", n_envs, dtype=dtype, **returns)
    return ours, NStepReplayBuffer(steps * n_envs, box, ACTIONS, "cpu", n_envs, **returns)


def both_sampled(
    ours: FrameReplayBuffer, stock: NStepReplayBuffer, length: int
) -> list[tuple[tuple[int, int], Row, Row]]:
    """Of every transition that both hold after `length` steps: environment and number, what ours gives, what SB3's."""
    places = np.flatnonzero(ours.valid)
    numbers = ours.actions.reshape(-1)[places].astype(int)
    kept = numbers >= length - stock.buffer_size
    places, numbers, envs = places[kept], numbers[kept], places[kept] % ours.n_envs
    batch = ours._get_samples(places)
    with pytest.MonkeyPatch.context() as patch:  # SB3 draws the environments of the steps that it is asked for
        patch.setattr(np.random, "randint", lambda *_, **__: envs)
        expected = stock._get_samples(numbers % stock.buffer_size)
    return [
        (
            (env, number),
            {name: getattr(batch, name)[row].numpy() for name in RETURNS},
            {name: getattr(expected, name)[row].numpy() for name in RETURNS},
        )
        for row, (env, number) in enumerate(zip(envs.tolist(), numbers.tolist(), strict=True))
    ]


@settings(max_examples=300, deadline=None)
@given(
    count=st.integers(1, 4),
    n_envs=st.integers(1, 3),
    slots=st.integers(6, 40),
    n_steps=st.integers(2, 20),
    gamma=st.one_of(st.sampled_from([0.99, 0.5, 1.0, 0.0]), st.floats(0, 1)),
    dtype=st.sampled_from(["float16", "float32", "uint8"]),
    often=st.sampled_from([[0] * 40 + [1, 2], [0, 0, 0, 0, 1, 2], [0, 0, 1], [0, 0, 2], [1, 2]]),
    still=st.booleans(),
    length=st.integers(1, 120),
    steps=st.sampled_from([5, 17, 200]),
    seed=st.integers(0, 2**32 - 1),
)
def test_n_step_returns_are_those_of_sb3(
    count: int,
    n_envs: int,
    slots: int,
    n_steps: int,
    gamma: float,
    dtype: str,
    often: list[int],
    still: bool,
    length: int,
    steps: int,
    seed: int,
) -> None:
    """Every field of every transition, to the bit: ends by the rules and by time limits, both rings wrapped around."""
    box = space(count, pixels=dtype == "uint8")
    kept = "float32" if dtype == "float32" else "float16"
    ours, stock = n_step_pair(box, slots, n_envs, n_steps, gamma, kept, steps)
    player = Player(box, n_envs, seed, still)
    ends = np.random.default_rng(seed).choice(often, (length, n_envs))
    for played, row in enumerate(ends.tolist(), start=1):
        player.step(row, ours, stock)
        if played in (length // 2, length):
            pairs = both_sampled(ours, stock, played)
            # The newest step of every environment, which has no successor, is always among them.
            assert {(env, played - 1) for env in range(n_envs)} <= {key for key, _, _ in pairs}
            for _, own, expected in pairs:
                assert_same(own, expected, dtype)


def test_n_step_returns_in_numbers() -> None:
    """Three steps and gamma 1/2: environment 0 ends by the rules after step 3, environment 1 by a time limit."""
    ours = FrameReplayBuffer(40, space(2), ACTIONS, "cpu", 2, dtype="float32", n_steps=3, gamma=0.5)
    stacks, infos = np.zeros((2, 2, 3), np.float32), [{}, {"TimeLimit.truncated": True}]
    for step in range(6):
        following = np.concatenate([stacks[:, 1:], np.full((2, 1, 3), step + 1, np.float32)], axis=1)
        reward = np.array([2.0**step, 10.0 * 2**step], np.float32)
        ended = step == 3
        ours.add(stacks, following, np.full((2, 1), step), reward, np.full(2, ended), infos if ended else [{}, {}])
        stacks = np.zeros_like(stacks) if ended else following
    places = np.flatnonzero(ours.valid).reshape(6, 2)  # slots are written in step here
    for env, scale in ((0, 1.0), (1, 10.0)):
        batch = ours._get_samples(places[:, env])
        # 1 + 2/2 + 4/4; 2 + 4/2 + 8/4; 4 + 8/2; 8; then an episode of which two steps were played.
        assert (batch.rewards[:, 0] / scale).tolist() == [3.0, 6.0, 8.0, 8.0, 32.0, 32.0]
        assert batch.discounts is not None
        assert batch.discounts[:, 0].tolist() == [1 / 8, 1 / 8, 1 / 4, 1 / 2, 1 / 4, 1 / 2]
        assert batch.dones[:, 0].tolist() == ([0.0, 1.0, 1.0, 1.0, 0.0, 0.0] if env == 0 else [0.0] * 6)
        assert batch.next_observations[:, -1, 0].tolist() == [3.0, 4.0, 4.0, 4.0, 6.0, 6.0]
        assert batch.actions[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of SB3's
def test_a_return_ends_where_an_environment_was_reset_and_where_rewards_are_of_another_episode() -> None:
    """SB3's buffer adds the rewards of the two episodes in the first case, and gives NaN in the second."""
    ours, stock = n_step_pair(space(2), 40, 1, 3, 1.0)
    frames = np.random.default_rng(0).standard_normal((8, 1, 2, 3)).astype(np.float32)
    for step, (ended, reward) in enumerate([(False, 1.0), (False, 2.0), (True, 4.0), (False, np.inf)]):
        arguments = np.full((1, 1), step), np.full(1, reward, np.float32), np.array([ended]), [{}]
        for buffer in (ours, stock):  # the frames are strange to each other: between any two somebody stepped it
            buffer.add(frames[2 * step], frames[2 * step + 1], *arguments)
    returns = {
        key[1]: (float(own["rewards"][0]), float(sb3["rewards"][0])) for key, own, sb3 in both_sampled(ours, stock, 4)
    }
    assert returns[0] == (1.0, 7.0)
    assert returns[2][0] == 4.0
    assert np.isnan(returns[2][1])
    assert returns[3] == (np.inf, np.inf)


def test_one_step_is_what_it_was() -> None:
    """No discounts, which SB3 takes for its own gamma; and the number of steps changes nothing in what is drawn."""
    one, three = (FrameReplayBuffer(24, space(3), ACTIONS, "cpu", 2, n_steps=n_steps) for n_steps in (1, 3))
    player = Player(space(3), 2)
    for step in range(30):
        player.step([int(step % 7 == 6), 0], one, three)
    np.random.seed(0)
    batch = one.sample(64)
    assert batch.discounts is None
    after = np.random.randint(2**31)
    np.random.seed(0)
    assert three.sample(64).actions.tolist() == batch.actions.tolist()
    assert np.random.randint(2**31) == after


def test_states_of_n_step_buffers_go_round_and_those_that_ran_episodes_together_are_refused() -> None:
    box = space(2)
    buffer, other = (FrameReplayBuffer(24, box, ACTIONS, "cpu", 2, dtype="float32", n_steps=3) for _ in range(2))
    stock = NStepReplayBuffer(400, box, ACTIONS, "cpu", 2, n_steps=3)
    player = Player(box, 2, still=True)
    for step in range(30):
        player.step([int(step % 6 == 5), 2 * int(step == 29)], buffer, stock)
    other.restore(buffer.state())
    for step in range(30, 36):  # the episodes that ended last are kept apart from those that begin now
        player.step([int(step == 33), 0], buffer, other, stock)
    for both in (both_sampled(buffer, stock, 36), both_sampled(other, stock, 36)):
        assert len(both) > 12
        for _, own, expected in both:
            assert_same(own, expected, "float32")
    single = FrameReplayBuffer(24, box, ACTIONS, "cpu", 2, dtype="float32")
    single.restore(buffer.state())
    assert stored(single).keys() == stored(buffer).keys()
    with pytest.raises(ValueError, match="kept for n_steps=1, not 3"):
        other.restore(single.state())


N_STEP = ("dqn", "qrdqn", "sac", "td3", "tqc")


def n_step_agent(tiny: Callable[..., RlConfig], algo: str, *chosen: str, **changes: Any) -> BaseAlgorithm:
    config = tiny(algo, frame_stack=4, **changes)
    config = RlConfig(**{**vars(config), "set": (*config.set, *chosen)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # SB3 warns where n_steps is ignored
        return make_agent(config.resolved(), build_encoder(config, pinned=True), n_envs=2).model


@pytest.mark.parametrize("algo", N_STEP)
def test_every_algorithm_keeps_the_frame_pool_and_learns_from_sb3s_returns(
    tiny: Callable[..., RlConfig], algo: str
) -> None:
    model, single = n_step_agent(tiny, algo, "n_steps=3", "gamma=0.9"), n_step_agent(tiny, algo)
    buffer = model.replay_buffer  # type: ignore[attr-defined]
    assert type(buffer) is type(single.replay_buffer) is FrameReplayBuffer  # type: ignore[attr-defined]
    assert (buffer.n_steps, buffer.gamma, model.n_steps, model.gamma) == (3, 0.9, 3, 0.9)  # type: ignore[attr-defined]
    stock = NStepReplayBuffer(300, buffer.observation_space, buffer.action_space, "cpu", 2, n_steps=3, gamma=0.9)
    assert buffer_bytes(model) <= 1.3 * buffer_bytes(single)
    assert buffer_bytes(model) < sum(a.nbytes for a in vars(stock).values() if isinstance(a, np.ndarray)) / 3

    add, sample, discounts = buffer.add, buffer.sample, set()

    def to_both(*transition: Any) -> None:
        stock.add(*transition)
        add(*transition)

    def watched(*arguments: Any, **options: Any) -> ReplayBufferSamples:
        batch: ReplayBufferSamples = sample(*arguments, **options)
        assert batch.discounts is not None
        discounts.update(batch.discounts.ravel().tolist())
        return batch

    buffer.add, buffer.sample = to_both, watched
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    model.learn(96)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.policy.state_dict().items())
    # Episodes of 20 steps end, and the returns of their last two steps are cut.
    assert sorted(discounts) == pytest.approx([0.9**3, 0.9**2, 0.9])
    held = buffer.valid.reshape(-1)
    # The order of what was played, by the place of what is held: SB3 keeps it by its steps.
    steps = np.cumsum(buffer.valid, axis=0).reshape(-1)[held] - 1
    assert held.sum() == 96 == 2 * stock.pos
    envs = np.flatnonzero(held) % 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "randint", lambda *_, **__: envs)
        expected = stock._get_samples(steps)
    batch = buffer._get_samples(np.flatnonzero(held))
    for name in RETURNS:
        assert getattr(batch, name).numpy().tobytes() == getattr(expected, name).numpy().tobytes(), name


class Patient(DQN):
    """A third party's algorithm, whose own default is an n-step return."""

    def __init__(self, *arguments: Any, n_steps: int = 4, gamma: float = 0.8, **options: Any) -> None:
        super().__init__(*arguments, n_steps=n_steps, gamma=gamma, **options)


def test_defaults_of_a_class_reach_the_buffer(tiny: Callable[..., RlConfig]) -> None:
    default = n_step_agent(tiny, "dqn", "n_steps=5").replay_buffer  # type: ignore[attr-defined]
    assert (default.n_steps, default.gamma) == (5, 0.99)
    encoder = build("retina", "random", tap="stem", device="cpu")
    venv = EncodedVecEnv(make_vec("stillsight/Orchard-v0", 1), encoder, 2)
    row = algorithms.spec(f"{__name__}:Patient")
    eyes = {"encoder": encoder, "features_dim": 8}
    model = make_model(row, venv, eyes, {}, {"dtype": "float16"}, seed=0, device="cpu")
    assert isinstance(model, Patient)
    assert isinstance(model.replay_buffer, FrameReplayBuffer)
    assert (model.replay_buffer.n_steps, model.replay_buffer.gamma, model.n_steps) == (4, 0.8, 4)


@pytest.mark.parametrize("setting", ["0", "-1", "2.5"])
def test_a_number_of_steps_that_is_none_is_a_sentence(tiny: Callable[..., RlConfig], setting: str) -> None:
    with pytest.raises(RunError, match=rf"--set n_steps={setting} is (out of range|nothing that dqn takes there)"):
        n_step_agent(tiny, "dqn", f"n_steps={setting}")


@pytest.mark.usefixtures("settings_restored")
def test_a_stopped_run_gets_its_n_step_memory_back(
    tiny: Callable[..., RlConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    same: Callable[[Any, Any], bool],
) -> None:
    config = tiny("dqn", steps=128, checkpoint_every=32, out=tmp_path / "run")
    config = RlConfig(**{**vars(config), "set": (*config.set, "n_steps=3")})
    on_step, restore, restored = callbacks.Episodes._on_step, Savepoints.restore, []

    def interrupted(self: callbacks.Episodes) -> bool:
        if self.num_timesteps >= 80:
            raise KeyboardInterrupt
        return on_step(self)

    def watched(self: Savepoints) -> None:
        restore(self)
        buffer = self.agent.model.replay_buffer  # type: ignore[attr-defined]
        assert buffer.n_steps == 3
        restored.append(same(state.capture_replay(self.agent.model), stored_memory))

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Episodes, "_on_step", interrupted)
        with pytest.raises(RunError, match="Stopped at step 80"):
            rl(config)
    kept = (tmp_path / "run" / "checkpoints").glob("replay-*.safetensors")
    assert sorted(path.stem for path in kept) == ["replay-32", "replay-64"]
    path = tmp_path / "run" / "checkpoints" / "replay-64.safetensors"
    stored_memory = checkpoint.load(path)
    assert stored_memory["arrays"]["valid"].sum() == 64
    monkeypatch.setattr(Savepoints, "restore", watched)
    rl(RlConfig(resume=tmp_path / "run"))
    assert restored == [True]


# SB3's own files and checks


@pytest.mark.parametrize("n_steps", [1, 3])
def test_sb3_saves_and_loads_it(tiny: Callable[..., RlConfig], tmp_path: Path, n_steps: int) -> None:
    first, second = (n_step_agent(tiny, "sac", f"n_steps={n_steps}", seed=seed) for seed in (0, 1))
    assert isinstance(first, SAC)
    assert isinstance(second, SAC)
    first.learn(48)
    first.save_replay_buffer(tmp_path / "memory.pkl")
    second.load_replay_buffer(tmp_path / "memory.pkl")
    assert isinstance(first.replay_buffer, FrameReplayBuffer)
    assert isinstance(second.replay_buffer, FrameReplayBuffer)
    assert second.replay_buffer.size() == 48
    batches = []
    for model in (first, second):
        np.random.seed(0)
        assert model.replay_buffer is not None
        batches.append(model.replay_buffer.sample(32))
    for name in RETURNS[: 5 + (n_steps > 1)]:
        assert getattr(batches[1], name).numpy().tobytes() == getattr(batches[0], name).numpy().tobytes(), name
    second.learn(16)
    assert second.replay_buffer.size() == 64


def test_refuses_what_it_does_not_do() -> None:
    with pytest.raises(ValueError, match="Drop optimize_memory_usage"):
        FrameReplayBuffer(10, space(2), ACTIONS, optimize_memory_usage=True)
    with pytest.raises(ValueError, match=r"n_steps=0 is no number of transitions\. Take 1 or more"):
        FrameReplayBuffer(10, space(2), ACTIONS, n_steps=0)
    buffer = FrameReplayBuffer(10, space(2), ACTIONS)
    with pytest.raises(ValueError, match="no transition yet"):
        buffer.sample(1)
    Player(space(2), 1).step([0], buffer)
    normaliser: Any = object()
    with pytest.raises(ValueError, match="put normalisation before the buffer"):
        buffer.sample(1, normaliser)


def test_off_policy_algorithms_learn_from_it() -> None:
    encoder = build("retina", "random", tap="stem", device="cpu")
    venv = EncodedVecEnv(make_vec("stillsight/OrchardContinuous-v0", 1), encoder, 2)
    row = algorithms.spec("sac")
    chosen = {"buffer_size": 200, "learning_starts": 20, "batch_size": 8}
    eyes = {"encoder": encoder, "features_dim": 8}
    model = make_model(row, venv, eyes, chosen, {"dtype": "float16"}, seed=0, device="cpu")
    assert isinstance(model, SAC)
    assert isinstance(model.replay_buffer, FrameReplayBuffer)
    model.learn(40)
    assert model.replay_buffer.size() == 40
    assert model.replay_buffer.frames.dtype == np.float16


@pytest.mark.parametrize(("value", "kept"), [(6e4, True), (7e4, False), (1e-10, False), (0.0, True)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_that_float16_cannot_hold_are_refused(value: float, kept: bool, dtype: str) -> None:
    """The failure it prevents: a memory of infinities or of nothing but zeros, which is learned from all the same."""
    buffer = FrameReplayBuffer(16, space(2), spaces.Discrete(2), "cpu", n_envs=1, dtype=dtype)
    stack, action = np.full((1, 2, 3), value, np.float32), np.zeros((1, 1))

    def store() -> None:
        buffer.add(stack, stack, action, np.zeros(1), np.zeros(1, bool), [{}])

    if kept or dtype == "float32":
        store()
        assert buffer.sample(1).observations.flatten().tolist() == pytest.approx([value] * 6, rel=1e-3)
        return
    with pytest.raises(
        RunError, match=re.escape(f"to 65,504, and the largest here is {value:.3g}. Type --replay-dtype")
    ):
        store()
