"""Rollout memory that holds each frame once and rebuilds stacks when the policy learns from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from stillsight.agents.buffers.footprint import FRAME_NUMBER, check_rollout, rollout_layout


class FrameRolloutBuffer(RolloutBuffer):
    """SB3's rollout buffer for observations that are stacks of frames, `[count, *frame]`.

    SB3's own stores each frame `count` times. Here a pool stores it once, and what SB3 knows as the observations are
    the numbers of their frames in the pool, `[n_steps, n_envs, count]`: whatever SB3 does with them stays SB3's, and
    only what goes in and what comes out is translated.

    A rollout takes `n_steps + count - 1` frames of each environment, episode ends or not: its first stack brings
    `count`, every further one its newest frame, because the others stand in the stack before, or are copies of the
    newest where an episode begins. Frames of which neither is true are stored as they come, and the pool grows for
    them, so that any stacks whatever are right.

    Args:
        buffer_size: steps of one environment in a rollout.
        observation_space: Box `[count, *frame]`; frames are kept in its dtype.
        action_space, device, gae_lambda, gamma, n_envs: as SB3 passes them.

    Raises:
        RunError: the machine has no such memory free; nothing was taken.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Box,
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
    ) -> None:
        check_rollout(observation_space, buffer_size, action_space, n_envs)
        numbers = spaces.Box(0, np.iinfo(FRAME_NUMBER).max, observation_space.shape[:1], FRAME_NUMBER.type)
        super().__init__(buffer_size, numbers, action_space, device, gae_lambda, gamma, n_envs)
        self.frames = np.zeros(*rollout_layout(observation_space, buffer_size, action_space, n_envs)["frames"])
        # Frames are one frame if their bits are: NaN is not equal to itself.
        self._bits = np.dtype(f"u{self.frames.itemsize}")

    def reset(self) -> None:
        """Forget the rollout; the pool is used again."""
        super().reset()
        self.used = 0

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: Tensor,
        log_prob: Tensor,
    ) -> None:
        """Store one step of every environment, as SB3 hands it over.

        Args:
            obs: `[n_envs, count, *frame]`.
            action: `[n_envs, ...]`; reward, episode_start: `[n_envs]`.
            value, log_prob: of the policy, `[n_envs, 1]` and `[n_envs]`.
        """
        super().add(self._keep(np.asarray(obs, self.frames.dtype)), action, reward, episode_start, value, log_prob)

    def _keep(self, stacks: np.ndarray) -> np.ndarray:
        """Put what `stacks` `[n_envs, count, *frame]` bring into the pool; returns their numbers `[n_envs, count]`."""
        numbers = np.empty(stacks.shape[:2], FRAME_NUMBER)
        numbers[:, -1] = self._store(stacks[:, -1])
        # A guess that is then checked: where each frame stood one step ago (a rollout's first step guesses in vain).
        numbers[:, :-1] = self.observations[self.pos - 1, :, 1:]
        known = self._alike(stacks[:, :-1], self.frames.take(numbers[:, :-1], axis=0))
        for place in reversed(range(known.shape[1])):
            missing = ~known[:, place]
            if missing.any():
                copied = missing & self._alike(stacks[:, place], stacks[:, place + 1])
                numbers[copied, place] = numbers[copied, place + 1]
                missing &= ~copied
                numbers[missing, place] = self._store(stacks[missing, place])
        return numbers

    def _alike(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Which frames `[..., *frame]` are the same to the bit: `[...]`."""
        same = some.view(self._bits) == others.view(self._bits)
        alike: np.ndarray = same.all(axis=tuple(range(1 - self.frames.ndim, 0)))
        return alike

    def _store(self, frames: np.ndarray) -> np.ndarray:
        """Put `frames` into the pool; returns their numbers."""
        end = self.used + len(frames)
        if end > len(self.frames):
            self.frames = np.concatenate([self.frames, np.zeros_like(self.frames)])
        self.frames[self.used : end] = frames
        numbers = np.arange(self.used, end, dtype=FRAME_NUMBER)
        self.used = end
        return numbers

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> RolloutBufferSamples:
        """The steps `batch_inds` `[B]` with their observations `[B, count, *frame]`."""
        stacks = self.frames.take(self.observations[batch_inds], axis=0)
        return super()._get_samples(batch_inds, env)._replace(observations=torch.from_numpy(stacks).to(self.device))
