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

from stillsight.agents.buffers.footprint import check_memory, layout, needed_bytes

RING = ("frames", "actions", "rewards", "dones", "ages", "valid")
"""Arrays `[slots, n_envs, ...]`; the others that a checkpoint keeps are `[n_envs, ...]`."""


class FrameReplayBuffer(BaseBuffer):
    """A replay buffer for observations that are stacks of frames, `[count, *frame]`.

    SB3's own stores `count` frames for an observation and again for the next one, 2 x `count` times each frame. Here
    every environment has a ring of slots, and a slot holds one frame and the transition that leaves it. The last frame
    of an episode has a slot without a transition, so an episode of L steps takes L + 1 slots. Whatever of an
    observation's history a ring has overwritten takes the transition with it: what is sampled is always whole.

    A transition is known by its place, `slot * n_envs + env`.

    Args:
        buffer_size: slots in all environments together.
        observation_space: Box `[count, *frame]`.
        action_space, device, n_envs: as SB3 passes them.
        optimize_memory_usage: refused; this buffer is what that option tries to be.
        dtype: of stored float frames; float16 halves them. Pixels stay uint8.

    Raises:
        ValueError: `optimize_memory_usage`.
        RunError: the machine has no such memory free; nothing was taken.
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
        arrays = layout(observation_space, buffer_size, dtype, action_space, n_envs)
        check_memory(needed_bytes(observation_space, buffer_size, dtype, action_space, n_envs), buffer_size)
        super().__init__(arrays["frames"][0][0], observation_space, action_space, device, n_envs=n_envs)
        self.count = observation_space.shape[0]
        self.held = 0  # transitions that can be sampled: the sum of `valid`, which takes a while at a million slots
        self.frames = np.zeros(*arrays["frames"])
        self.actions = np.zeros(*arrays["actions"])
        self.rewards = np.zeros(*arrays["rewards"])
        self.dones = np.zeros(*arrays["dones"])
        self.ages = np.zeros(*arrays["ages"])
        self.valid = np.zeros(*arrays["valid"])
        self.heads = np.zeros(*arrays["heads"])
        self.newest = np.zeros(*arrays["newest"])
        self.after = np.zeros(*arrays["after"])

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
            obs: `[n_envs, count, *frame]`.
            next_obs: `obs` moved on by one frame, which is the episode's last where `done`.
            action: `[n_envs, ...]`; reward, done: `[n_envs]`.
            infos: "TimeLimit.truncated" marks ends that are none (Pardo et al. 2018).
        """
        obs = np.asarray(obs, self.after.dtype)
        actions = action.reshape(self.n_envs, self.action_dim)
        written = self.pos > 0
        # A loop over plain numbers: indexing with arrays is the faster way only for more than eight environments.
        for env in range(self.n_envs):
            # Bytes, because NaN is not equal to itself.
            if not (written and obs[env].tobytes() == self.after[env].tobytes()):
                self._begin(env, obs[env])
            slot = int(self.newest[env])
            self._write(env, next_obs[env, -1], int(self.ages[slot, env]) + 1)
            self.actions[slot, env] = actions[env]
            self.rewards[slot, env] = reward[env]
            self.dones[slot, env] = done[env] and not infos[env].get("TimeLimit.truncated", False)
            self.valid[slot, env] = True
        self.held += self.n_envs
        self.after[:] = next_obs

    def _begin(self, env: int, stack: np.ndarray) -> None:
        """Write the stack that a trajectory begins with: one frame if it is the first of its episode, all otherwise."""
        if stack.tobytes() == stack[-1].tobytes() * self.count:
            stack = stack[-1:]
        for age, frame in enumerate(stack):
            self._write(env, frame, age)

    def _write(self, env: int, frame: np.ndarray, age: int) -> None:
        """Put `frame` into the next slot and give up the transitions whose history lay there."""
        slots, head = len(self.frames), int(self.heads[env])
        for distance in range(self.count):
            later = (head + distance) % slots
            if self.valid[later, env] and self.ages[later, env] >= distance:
                self.valid[later, env] = False
                self.held -= 1
        self.frames[head, env] = frame
        self.ages[head, env] = min(age, self.count - 1)
        self.newest[env] = head
        self.heads[env] = (head + 1) % slots
        self.pos = max(self.pos, head + 1)  # slots that were ever written
        self.full = self.pos == slots

    def size(self) -> int:
        """Number of transitions that can be sampled."""
        return self.held

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw transitions uniformly, with replacement.

        Raises:
            ValueError: the buffer is empty, or `env` is to normalise what is sampled.
        """
        if not self.held:
            raise ValueError("The replay buffer holds no transition yet.")
        valid, end = self.valid.reshape(-1), self.pos * self.n_envs
        places = np.random.randint(0, end, batch_size)
        while len(empty := np.flatnonzero(~valid[places])):  # no transition leaves there: about one slot in an episode
            places[empty] = np.random.randint(0, end, len(empty))
        return self._get_samples(places, env)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """The transitions at the places `batch_inds` `[B]`, with their stacks rebuilt."""
        if env is not None:
            raise ValueError("FrameReplayBuffer does not normalise; put normalisation before the buffer.")
        places = batch_inds[:, None]
        # Offsets of the frames of both observations: they overlap in all but the first and the last. An episode's
        # first frame stands in for what would lie before it.
        offsets = np.maximum(np.arange(-self.count + 1, 2), -self.ages.reshape(-1)[places].astype(np.int64))
        frames = self.frames.reshape(-1, *self.frames.shape[2:])
        # `take` is a fifth faster than indexing with two arrays, and wraps around the ring by itself.
        both = torch.from_numpy(frames.take(places + offsets * self.n_envs, axis=0, mode="wrap")).to(self.device)
        if both.dtype == torch.float16:
            both = both.float()
        return ReplayBufferSamples(
            observations=both[:, :-1],
            actions=self.to_torch(self.actions.reshape(-1, self.action_dim)[batch_inds]),
            next_observations=both[:, 1:],
            dones=self.to_torch(self.dones.reshape(-1)[places]),
            rewards=self.to_torch(self.rewards.reshape(-1)[places]),
        )

    def state(self) -> dict[str, Any]:
        """Everything that was stored, as tensors, without the slots that were never written."""
        rings = {name: getattr(self, name)[: self.pos] for name in RING}
        rest = {name: getattr(self, name) for name in ("heads", "newest", "after")}
        arrays = {name: torch.from_numpy(array) for name, array in {**rings, **rest}.items()}
        return {"slots": len(self.frames), "pos": self.pos, "arrays": arrays}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave.

        Raises:
            ValueError: it is of a buffer of another shape.
        """
        if state["slots"] != len(self.frames):  # a ring cannot be cut or grown where it is wrapped around
            raise ValueError(f"the stored replay memory holds {state['slots']} slots, not {len(self.frames)}")
        for name, tensor in state["arrays"].items():
            array = getattr(self, name)
            if tuple(tensor.shape[1:]) != array.shape[1:]:
                raise ValueError(f"the stored replay memory holds {name} {tuple(tensor.shape)}, not {array.shape}")
            array[: len(tensor)] = tensor.cpu().numpy()
        self.pos, self.full = state["pos"], state["pos"] == len(self.frames)
        self.held = int(self.valid.sum())
