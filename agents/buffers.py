"""Replay memory that holds each frame once and rebuilds stacks and next observations when it is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from stillsight.agents.runs import RunError
from stillsight.encoders.device import available_memory

STORED = ("frames", "ages", "valid", "actions", "rewards", "dones", "heads", "newest", "open")


class FrameReplayBuffer(BaseBuffer):
    """A replay buffer for observations that are stacks of frames, `[count, *frame]`.

    SB3's own stores `count` frames for an observation and again for the next one, 2 x `count` times each frame. Here
    every environment has a ring of slots, and a slot holds one frame and the transition that leaves it. The last frame
    of an episode has a slot without a transition, so an episode of L steps takes L + 1 slots. Whatever of an
    observation's history a ring has overwritten takes the transition with it: what is sampled is always whole.

    Args:
        buffer_size: slots in all environments together.
        observation_space: Box `[count, *frame]`.
        action_space, device, n_envs: as SB3 passes them.
        optimize_memory_usage: refused; this buffer is what that option tries to be.
        dtype: of stored float frames; float16 halves them. Pixels stay uint8.

    Raises:
        ValueError: `optimize_memory_usage`.
    """

    observation_space: spaces.Box

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Box,
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        dtype: str = "float16",
    ) -> None:
        if optimize_memory_usage:
            raise ValueError("FrameReplayBuffer holds each frame once as it is. Drop optimize_memory_usage.")
        self.count = observation_space.shape[0]
        # The smallest ring in which a transition does not overwrite its own history.
        slots = max(buffer_size // n_envs, self.count + 2)
        super().__init__(slots, observation_space, action_space, device, n_envs=n_envs)
        pixels = observation_space.dtype == np.uint8
        kept = np.dtype(np.uint8 if pixels else dtype)
        self.frames = np.zeros((slots, n_envs, *observation_space.shape[1:]), kept)
        self.actions = np.zeros((slots, n_envs, self.action_dim), self._maybe_cast_dtype(action_space.dtype))
        self.rewards = np.zeros((slots, n_envs), np.float32)
        self.dones = np.zeros((slots, n_envs), np.float32)
        self.ages = np.zeros((slots, n_envs), np.int16)  # frames of its episode before it, counted to count - 1
        self.valid = np.zeros((slots, n_envs), bool)  # a whole transition leaves this slot
        self.heads = np.zeros(n_envs, np.int64)  # next slot to be written
        self.newest = np.zeros(n_envs, np.int64)  # slot of the newest frame
        self.open = np.zeros(n_envs, bool)  # the episode goes on from there

    @staticmethod
    def _maybe_cast_dtype(dtype: Any) -> Any:
        # MPS has no float64, and no algorithm needs it.
        return np.float32 if dtype == np.float64 else dtype

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one transition of every environment, as SB3 hands it over.

        Args:
            obs, next_obs: `[n_envs, count, *frame]`; `next_obs` ends with the episode's last frame where `done`.
            action: `[n_envs, ...]`; reward, done: `[n_envs]`.
            infos: "TimeLimit.truncated" marks ends that are none (Pardo et al. 2018).
        """
        actions = action.reshape(self.n_envs, self.action_dim)
        for env in range(self.n_envs):
            known = self.frames[self.newest[env], env]
            if not (self.open[env] and np.array_equal(obs[env, -1].astype(known.dtype), known)):
                self._begin(env, obs[env])
            slot = self.newest[env]
            age = self.ages[slot, env]
            self._write(env, next_obs[env, -1], age + 1)
            self.actions[slot, env] = actions[env]
            self.rewards[slot, env] = reward[env]
            self.dones[slot, env] = done[env] and not infos[env].get("TimeLimit.truncated", False)
            self.valid[slot, env] = True
            self.open[env] = not done[env]
        self.pos = int(self.heads.max())

    def _begin(self, env: int, stack: np.ndarray) -> None:
        """Write the stack that a trajectory begins with: one frame if it is the first of its episode, all otherwise."""
        if (stack == stack[-1]).all():
            stack = stack[-1:]
        for age, frame in enumerate(stack):
            self._write(env, frame, age)

    def _write(self, env: int, frame: np.ndarray, age: int) -> None:
        """Put `frame` into the next slot and give up the transitions whose history lay there."""
        slots, head = len(self.frames), int(self.heads[env])
        self.frames[head, env] = frame
        self.ages[head, env] = min(age, self.count - 1)
        self.valid[head, env] = False
        for distance in range(1, self.count):
            older = (head + distance) % slots
            if self.ages[older, env] >= distance:
                self.valid[older, env] = False
        self.newest[env] = head
        self.heads[env] = (head + 1) % slots
        self.full = self.full or head + 1 == slots

    def size(self) -> int:
        """Number of transitions that can be sampled."""
        return int(self.valid.sum())

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw transitions uniformly, with replacement.

        Raises:
            ValueError: the buffer is empty.
        """
        if not self.valid.any():
            raise ValueError("The replay buffer holds no transition yet.")
        filled = len(self.frames) if self.full else self.pos
        slots, envs = np.zeros(batch_size, np.int64), np.zeros(batch_size, np.int64)
        wanted = np.arange(batch_size)
        while len(wanted):  # draw again what met a slot without a transition: about one in an episode
            slots[wanted] = np.random.randint(0, filled, len(wanted))
            envs[wanted] = np.random.randint(0, self.n_envs, len(wanted))
            wanted = wanted[~self.valid[slots[wanted], envs[wanted]]]
        return self.transitions(slots, envs, env)

    def transitions(self, slots: np.ndarray, envs: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """The transitions that leave `slots` `[B]` of `envs` `[B]`, with their stacks rebuilt."""
        # Offsets of the frames of both observations: they overlap in all but the first and the last. An episode's
        # first frame stands in for what would lie before it.
        offsets = np.arange(-self.count + 1, 2)
        clipped = np.maximum(offsets, -self.ages[slots, envs, None].astype(np.int64))
        stacks = self.frames[(slots[:, None] + clipped) % len(self.frames), envs[:, None]]
        both = torch.from_numpy(stacks).to(self.device)
        if self.frames.dtype == np.float16:
            both = both.float()
        if env is not None:
            raise ValueError("FrameReplayBuffer does not normalise; put normalisation before the buffer.")
        return ReplayBufferSamples(
            observations=both[:, :-1],
            actions=self.to_torch(self.actions[slots, envs]),
            next_observations=both[:, 1:],
            dones=self.to_torch(self.dones[slots, envs, None]),
            rewards=self.to_torch(self.rewards[slots, envs, None]),
        )

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        return self.transitions(batch_inds, np.random.randint(0, self.n_envs, len(batch_inds)), env)

    def state(self) -> dict[str, Any]:
        """Everything that was stored, as tensors, without the slots that were never written."""
        filled = len(self.frames) if self.full else self.pos
        arrays = {name: getattr(self, name) for name in STORED}
        short = {name: array[:filled] if array.ndim > 1 else array for name, array in arrays.items()}
        return {"full": self.full, "pos": self.pos, "arrays": {n: torch.from_numpy(a) for n, a in short.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave.

        Raises:
            ValueError: it is of a buffer of another shape.
        """
        for name, tensor in state["arrays"].items():
            array = getattr(self, name)
            if len(tensor) > len(array) or tuple(tensor.shape[1:]) != array.shape[1:]:
                raise ValueError(f"the stored replay memory holds {name} {tuple(tensor.shape)}, not {array.shape}")
            array[: len(tensor)] = tensor.cpu().numpy()
        self.full, self.pos = state["full"], state["pos"]


def needed_bytes(space: spaces.Space[Any], slots: int, dtype: str) -> int:
    """Memory that `slots` frames of observations `[count, *frame]` take, in bytes."""
    assert isinstance(space, spaces.Box)
    width = 1 if space.dtype == np.uint8 else np.dtype(dtype).itemsize
    return slots * int(np.prod(space.shape[1:])) * width


def check_memory(needed: int, slots: int, free: int | None = None) -> None:
    """Refuse a replay memory that would not fit, before it is taken.

    Args:
        needed: bytes.
        slots: `buffer_size`.
        free: bytes; by default what this machine can give now, as far as it says so.

    Raises:
        RunError: it does not fit; with the flag that makes it fit.
    """
    free = available_memory() if free is None else free
    if free is not None and needed > 0.9 * free:
        fits = int(slots * 0.8 * free / needed)
        raise RunError(
            f"The replay memory needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB is free. "
            f"Type --set buffer_size={fits}, or take fewer features (--pooling, --tap)."
        )
