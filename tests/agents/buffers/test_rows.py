"""Frames that are rows of several images and a state: taken apart as they were put together, and kept to the bit."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer

from stillsight.agents.buffers.footprint import needed_bytes, rollout_bytes
from stillsight.agents.buffers.replay import FrameReplayBuffer
from stillsight.agents.buffers.rollout import FrameRolloutBuffer
from stillsight.agents.buffers.row import RowSpace
from stillsight.agents.features.encoded_vec_env import FrameStack

ACTIONS = spaces.Box(-1, 1, (1,), np.float32)
# What half precision would lose, and what "equal" and "the same bits" part for.
STATE = np.array([100_000.125, 1e-8, -3.14159274, 0.0, -0.0, np.nan, np.inf, 6.6e4], np.float32)
FEATURES = np.array([1.5, -2.0, 0.5, 0.0, 3.0], np.float32)  # exact in half precision

rows_of = st.builds(
    RowSpace,
    st.integers(1, 4),
    st.integers(0, 3),
    st.sampled_from([(2,), (), (1, 2, 1)]),
    st.integers(0, 3),
    st.sampled_from([np.float32, np.uint8]),
).filter(lambda space: space.images + space.state > 0)
stateful = rows_of.filter(lambda space: space.state > 0)


def parts(space: RowSpace, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    shape = (count, space.images, *space.part)
    pixels = random.integers(0, 256, shape, dtype=np.uint8)
    return (pixels if space.of_bytes else random.choice(FEATURES, shape)), random.choice(STATE, (count, space.state))


@settings(max_examples=200, deadline=None)
@given(space=rows_of, count=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_a_row_is_taken_apart_as_it_was_put_together(space: RowSpace, count: int, seed: int) -> None:
    seen, state = parts(space, count, np.random.default_rng(seed))
    rows = space.join(seen, state)
    assert (rows.dtype, rows.shape[1:]) == (space.dtype, space.shape[1:])
    found, numbers = space.split(torch.from_numpy(rows).float())  # as SB3 hands them over
    assert found.shape == (count, space.images, *space.part)
    assert found.numpy().tobytes() == seen.astype(np.float32).tobytes()
    assert numbers.numpy().tobytes() == state.tobytes(), "to the bit, NaN and the sign of zero too"


def test_a_space_of_rows_is_a_box_that_survives_pickling_and_comparing() -> None:
    space = RowSpace(2, 2, (3,), 4, np.float32)
    again = pickle.loads(pickle.dumps(space))
    assert again == space
    assert (again.images, again.part, again.state, again.exact) == (2, (3,), 4, 4)
    assert space == spaces.Box(-np.inf, np.inf, (2, 10), np.float32)
    assert RowSpace(2, 1, (3, 2, 2), 4, np.uint8).shape == (2, 12 + 16)


class Played:
    """What a replay memory was given, by environment: observations, what follows them, and ends."""

    def __init__(self, space: RowSpace, n_envs: int, seed: int) -> None:
        self.space, self.n_envs, self.random = space, n_envs, np.random.default_rng(seed)
        self.stack = FrameStack(n_envs, space.shape[0], space.shape[1:], np.dtype(space.dtype))
        self.observation = self.stack.start(self._frames())
        self.rows: list[list[tuple[np.ndarray, np.ndarray, bool, bool]]] = [[] for _ in range(n_envs)]

    def _frames(self) -> np.ndarray:
        return self.space.join(*parts(self.space, self.n_envs, self.random))

    def step(self, ends: list[int], buffer: FrameReplayBuffer) -> None:
        frames, done = self._frames(), np.array(ends) > 0
        following = np.stack([self.stack.after(env, frame) for env, frame in enumerate(frames)])
        number = len(self.rows[0])
        action = np.full((self.n_envs, 1), number, np.float32)
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": end == 2} for end in ends]
        buffer.add(self.observation, following, action, action[:, 0], done, infos)
        for env, end in enumerate(ends):
            self.rows[env].append((self.observation[env], following[env], bool(done[env]), end == 1))
        self.observation = self.stack.push(np.where(done[:, None], self._frames(), frames), done)


@settings(max_examples=150, deadline=None)
@given(
    space=stateful,
    n_envs=st.integers(1, 3),
    slots=st.integers(6, 30),
    n_steps=st.integers(1, 3),
    often=st.sampled_from([[0] * 20 + [1, 2], [0, 0, 0, 1, 2]]),
    length=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_state_comes_out_of_replay_memory_as_it_went_in_beside_features_of_half_precision(
    space: RowSpace, n_envs: int, slots: int, n_steps: int, often: list[int], length: int, seed: int
) -> None:
    arguments: dict[str, Any] = {"n_envs": n_envs, "dtype": "float16", "n_steps": n_steps, "gamma": 0.5}
    buffer = FrameReplayBuffer(slots * n_envs, space, ACTIONS, "cpu", **arguments)
    played = Played(space, n_envs, seed)
    for ends in np.random.default_rng(seed).choice(often, (length, n_envs)).tolist():
        played.step(ends, buffer)
    again = FrameReplayBuffer(slots * n_envs, space, ACTIONS, "cpu", **arguments)
    again.restore(buffer.state())
    places = np.flatnonzero(buffer.valid)
    for memory in (buffer, again):
        batch = memory._get_samples(places)
        for row, place in enumerate(places):
            env, number = int(place) % n_envs, int(batch.actions[row, 0])
            rows = played.rows[env][number : number + n_steps]
            taken = next((index for index, one in enumerate(rows, 1) if one[2]), len(rows))
            found = batch.observations[row].numpy(), batch.next_observations[row].numpy()
            for one, expected in zip(found, (rows[0][0], rows[taken - 1][1]), strict=True):
                assert one.dtype == expected.dtype
                assert one.tobytes() == expected.tobytes()
            assert bool(batch.dones[row, 0]) == rows[taken - 1][3]
            returns = math.fsum(0.5**index * (number + index) for index in range(taken))
            assert float(batch.rewards[row, 0]) == returns


def test_a_state_takes_its_own_bytes_of_a_replay_memory_and_no_more() -> None:
    space = RowSpace(4, 2, (8,), 3, np.float32)
    buffer = FrameReplayBuffer(100, space, ACTIONS, "cpu", dtype="float16")
    assert (buffer.frames.shape, buffer.frames.dtype) == ((100, 1, 16), np.float16)
    assert (buffer.vectors.shape, buffer.vectors.dtype) == ((100, 1, 3), np.float32)
    held = sum(value.nbytes for value in vars(buffer).values() if isinstance(value, np.ndarray))
    assert held == needed_bytes(space, 100, "float16", ACTIONS)
    plain = spaces.Box(-np.inf, np.inf, (4, 16), np.float32)
    assert held - needed_bytes(plain, 100, "float16", ACTIONS) == 100 * 3 * 4 + 4 * 3 * 4


@pytest.mark.parametrize("wrong", ["missing", "shape"])
def test_a_stored_memory_of_another_state_is_refused(wrong: str) -> None:
    space = RowSpace(2, 1, (2,), 2, np.float32)
    buffer = FrameReplayBuffer(20, space, ACTIONS, "cpu")
    played = Played(space, 1, 0)
    for _ in range(5):
        played.step([0], buffer)
    state = buffer.state()
    if wrong == "missing":
        del state["arrays"]["vectors"]
    else:
        state["arrays"]["vectors"] = state["arrays"]["vectors"][..., :1]
    with pytest.raises(ValueError, match="vectors" if wrong == "shape" else "holds actions, after"):
        FrameReplayBuffer(20, space, ACTIONS, "cpu").restore(state)


@settings(max_examples=100, deadline=None)
@given(
    space=rows_of,
    n_envs=st.integers(1, 3),
    n_steps=st.integers(1, 12),
    often=st.sampled_from([[0], [0, 0, 0, 1]]),
    seed=st.integers(0, 2**32 - 1),
)
def test_rollouts_of_rows_are_those_of_sb3(
    space: RowSpace, n_envs: int, n_steps: int, often: list[int], seed: int
) -> None:
    actions, arguments = spaces.Discrete(4), {"gae_lambda": 0.9, "gamma": 0.95, "n_envs": n_envs}
    ours = FrameRolloutBuffer(n_steps, space, actions, "cpu", **arguments)
    stock = RolloutBuffer(n_steps, space, actions, "cpu", **arguments)
    held = sum(value.nbytes for value in vars(ours).values() if isinstance(value, np.ndarray))
    assert held == rollout_bytes(space, n_steps, actions, n_envs)
    random = np.random.default_rng(seed)
    stack = FrameStack(n_envs, space.shape[0], space.shape[1:], np.dtype(space.dtype))
    stacks, began = stack.start(space.join(*parts(space, n_envs, random))), np.ones(n_envs, bool)
    for ends in random.choice(often, (n_steps, n_envs)):
        value, log_prob = torch.zeros(n_envs, 1), torch.zeros(n_envs)
        for buffer in (ours, stock):
            buffer.add(stacks.copy(), np.zeros((n_envs, 1)), np.ones(n_envs), began, value, log_prob)
        began = ends == 1
        stacks = stack.push(space.join(*parts(space, n_envs, random)), began)
    for buffer in (ours, stock):
        buffer.compute_returns_and_advantage(torch.zeros(n_envs, 1), began)
    batches = []
    for buffer in (ours, stock):
        np.random.seed(seed % 1000)
        batches.append(torch.cat([batch.observations for batch in buffer.get(5)]))
    assert batches[0].numpy().tobytes() == batches[1].numpy().tobytes()
