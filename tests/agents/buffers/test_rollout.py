"""FrameRolloutBuffer: each frame once, and minibatches and updates that equal those of SB3's own buffer, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from stillsight.agents.buffers.rollout import FrameRolloutBuffer
from stillsight.agents.features.encoded_vec_env import EncodedVecEnv, FrameStack
from stillsight.encoders import build
from stillsight.envs import make_vec
from stillsight.envs.options import EnvOptions

ACTIONS = spaces.Discrete(4)
# Few values, so that frames repeat by chance; the last ones are where "equal" and "the same bits" part.
FLOATS = np.array([1.5, -2.0, 0.0, -0.0, np.nan], np.float32)


def space(count: int, frame: tuple[int, ...] = (2,), dtype: type = np.float32) -> spaces.Box:
    low, high = (0, 255) if dtype is np.uint8 else (-np.inf, np.inf)
    return spaces.Box(low, high, (count, *frame), dtype)


def pair(box: spaces.Box, n_steps: int, n_envs: int) -> tuple[FrameRolloutBuffer, RolloutBuffer]:
    """Ours and SB3's."""
    arguments: dict[str, Any] = {"gae_lambda": 0.9, "gamma": 0.95, "n_envs": n_envs}
    return FrameRolloutBuffer(n_steps, box, ACTIONS, "cpu", **arguments), RolloutBuffer(
        n_steps, box, ACTIONS, "cpu", **arguments
    )


class Player:
    """Steps of random frames for several buffers; 0 an episode goes on, 1 it ends, 2 an arbitrary stack follows."""

    def __init__(self, box: spaces.Box, n_envs: int, seed: int = 0) -> None:
        self.box, self.n_envs = box, n_envs
        self.random = np.random.default_rng(seed)
        self.stack = FrameStack(n_envs, box.shape[0], box.shape[1:], np.dtype(box.dtype))
        self.stacks = self.stack.start(self._frames(n_envs))
        self.began = np.ones(n_envs, bool)

    def _frames(self, *leading: int) -> np.ndarray:
        shape = (*leading, *self.box.shape[1:])
        if self.box.dtype == np.uint8:
            return self.random.integers(0, 3, shape, dtype=np.uint8)
        frames: np.ndarray = self.random.choice(FLOATS, shape)
        return frames

    def step(self, events: list[int], *buffers: RolloutBuffer) -> None:
        action = self.random.integers(0, 4, (self.n_envs, 1))
        reward = self.random.standard_normal(self.n_envs).astype(np.float32)
        value = torch.from_numpy(self.random.standard_normal((self.n_envs, 1)).astype(np.float32))
        log_prob = torch.from_numpy(self.random.standard_normal(self.n_envs).astype(np.float32))
        for buffer in buffers:
            buffer.add(self.stacks.copy(), action, reward, self.began, value, log_prob)
        self.began = np.array(events) == 1
        self.stacks = self.stack.push(self._frames(self.n_envs), self.began)
        for env in np.flatnonzero(np.array(events) == 2):
            self.stack.frames[env] = self.stacks[env] = self._frames(self.box.shape[0])

    def finish(self, *buffers: RolloutBuffer) -> None:
        values = torch.from_numpy(self.random.standard_normal((self.n_envs, 1)).astype(np.float32))
        for buffer in buffers:
            buffer.compute_returns_and_advantage(values, self.began)


def assert_same_batches(ours: RolloutBuffer, stock: RolloutBuffer, batch: int | None, seed: int) -> None:
    for name in ("returns", "advantages", "values", "episode_starts"):
        assert getattr(ours, name).tobytes() == getattr(stock, name).tobytes(), name
    np.random.seed(seed)
    found = list(ours.get(batch))
    np.random.seed(seed)
    expected = list(stock.get(batch))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name, tensor, reference in zip(one._fields, one, other, strict=True):
            assert tensor.dtype == reference.dtype, name
            assert tensor.shape == reference.shape, name
            assert tensor.is_contiguous(), name
            assert tensor.numpy().tobytes() == reference.numpy().tobytes(), name


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 5),
    n_envs=st.integers(1, 4),
    n_steps=st.integers(1, 20),
    rollouts=st.integers(1, 4),
    batch=st.one_of(st.none(), st.integers(1, 30)),
    dtype=st.sampled_from([np.float32, np.uint8]),
    often=st.sampled_from([[0], [0] * 20 + [1], [0, 0, 1], [0, 0, 1, 2], [2]]),
    seed=st.integers(0, 2**32 - 1),
)
def test_minibatches_are_those_of_sb3(
    count: int, n_envs: int, n_steps: int, rollouts: int, batch: int | None, dtype: type, often: list[int], seed: int
) -> None:
    box = space(count, (2, 1, 1) if dtype is np.uint8 else (2,), dtype)
    ours, stock = pair(box, n_steps, n_envs)
    promised = ours.frames.nbytes
    player = Player(box, n_envs, seed)
    events = np.random.default_rng(seed).choice(often, (rollouts, n_steps, n_envs))
    for rollout in events.tolist():
        ours.reset()
        stock.reset()
        for row in rollout:
            player.step(row, ours, stock)
        player.finish(ours, stock)
        for epoch in range(2):
            assert_same_batches(ours, stock, batch, seed % 1000 + epoch)
        assert ours.frames.dtype == box.dtype
        if 2 not in often:  # stacks of frames, whatever ends when, never take more than was promised
            assert ours.frames.nbytes == promised


def test_a_frame_is_kept_once_across_episode_ends() -> None:
    """Different frames all along, so that none is saved by chance: history once, then one a step and environment."""
    box = space(6, (3,))
    ours, stock = pair(box, 50, 2)
    player = Player(box, 2)
    counter = iter(range(10_000))
    player._frames = lambda *leading: (  # type: ignore[method-assign]
        np.stack([np.full(3, next(counter), np.float32) for _ in range(int(np.prod(leading)))]).reshape(*leading, 3)
    )
    player.stacks = player.stack.start(player._frames(2))
    for rollout in range(3):
        ours.reset()
        stock.reset()
        for step in range(50):
            player.step([int(rollout == 1 and step % 9 == 3), int(rollout == 1 and step % 5 == 0)], ours, stock)
        player.finish(ours, stock)
        # Before the first rollout lies no history; before the second five frames; before the third one and four,
        # because the second one left its environments two and five frames into an episode.
        assert ours.used == 2 * 50 + {0: 0, 1: 2 * 5, 2: 1 + 4}[rollout]
        assert_same_batches(ours, stock, 16, rollout)


def test_memory_is_that_of_the_frames_once() -> None:
    """128 steps of 8 environments, stacks of 4 times 512 features: 2.2 MB where SB3 takes 8.4 MB."""
    ours, stock = pair(space(4, (512,)), 128, 8)
    assert ours.frames.nbytes == 8 * (128 + 4 - 1) * 512 * 4
    sizes = [sum(a.nbytes for a in vars(b).values() if isinstance(a, np.ndarray)) for b in (ours, stock)]
    numbers = 128 * 8 * 4 * 4  # of four bytes each
    assert sizes[0] - ours.frames.nbytes - numbers == sizes[1] - stock.observations.nbytes
    assert stock.observations.nbytes == 128 * 8 * 4 * 512 * 4
    pixels = FrameRolloutBuffer(16, space(4, (3, 8, 8), np.uint8), ACTIONS, "cpu", n_envs=2)
    assert pixels.frames.nbytes == 2 * (16 + 3) * 3 * 8 * 8


def test_stacks_that_are_no_stacks_are_stored_whole() -> None:
    """Taken for shifted ones, they would come back with the frames of the stacks before."""
    box = space(4, (3,))
    ours, stock = pair(box, 10, 2)
    random = np.random.default_rng(0)
    zeros = np.zeros(2, np.float32)
    for rollout in range(2):
        ours.reset()
        stock.reset()
        for _ in range(10):
            stacks = random.standard_normal((2, 4, 3)).astype(np.float32)
            for buffer in (ours, stock):
                buffer.add(stacks, zeros[:, None], zeros, zeros, torch.zeros(2, 1), torch.zeros(2))
        for buffer in (ours, stock):
            buffer.compute_returns_and_advantage(torch.zeros(2, 1), zeros)
        assert ours.used == 10 * 2 * 4
        assert_same_batches(ours, stock, 7, rollout)


def test_frames_that_are_no_numbers_are_kept_once_too() -> None:
    """NaN is not equal to itself: compared by value, the pool would grow with every step."""
    ours, _ = pair(space(4, (3,)), 20, 1)
    stacks, zero = np.full((1, 4, 3), np.nan, np.float32), np.zeros(1, np.float32)
    for _ in range(20):
        ours.add(stacks, zero[:, None], zero, zero, torch.zeros(1, 1), torch.zeros(1))
    assert ours.used == 20


def train(algorithm: type[OnPolicyAlgorithm], buffer: type[RolloutBuffer], arguments: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    encoder = build("retina", "random", tap="stem", device="cpu")
    options = EnvOptions(size=16, max_episode_steps=7)
    venv = EncodedVecEnv(make_vec("stillsight/Orchard-v0", 2, seed=3, options=options), encoder, 3)
    model = algorithm("MlpPolicy", venv, n_steps=10, seed=5, device="cpu", rollout_buffer_class=buffer, **arguments)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    model.learn(80)  # four rollouts, with ends of episodes in each and never at its border
    venv.close()
    assert isinstance(model.rollout_buffer, buffer)
    moved = [name for name, tensor in model.policy.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(moved) == len(before), "where nothing moves, everything is equal"
    return model


@pytest.mark.parametrize(
    ("algorithm", "arguments"),
    [
        (PPO, {"batch_size": 10, "n_epochs": 2}),
        (A2C, {}),
        (TRPO, {"batch_size": 10, "cg_max_steps": 3, "n_critic_updates": 2}),
    ],
)
def test_training_ends_with_the_parameters_of_sb3s_own_buffer(
    algorithm: type[OnPolicyAlgorithm], arguments: dict[str, Any]
) -> None:
    ours = train(algorithm, FrameRolloutBuffer, arguments)
    stock = train(algorithm, RolloutBuffer, arguments)
    assert ours.rollout_buffer.frames.nbytes * 2 < stock.rollout_buffer.observations.nbytes
    expected = stock.policy.state_dict()
    for name, tensor in ours.policy.state_dict().items():
        assert tensor.numpy().tobytes() == expected[name].numpy().tobytes(), name
