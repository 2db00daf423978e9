"""Replay memory that holds each frame once; stacks, next observations and n-step returns are made in sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from stillsight.agents.buffers.footprint import check_memory, needed_bytes, replay_layout
from stillsight.agents.buffers.row import exact_numbers
from stillsight.agents.errors import RunError

RING, REST = ("frames", "actions", "rewards", "dones", "ages", "valid"), ("heads", "newest", "after")
"""What a checkpoint keeps: arrays `[slots, n_envs, ...]`, and others `[n_envs, ...]`; "vectors" is a ring too, where
frames end with numbers that are kept in full precision."""

_ENDED = -1
"""Stands for `newest` where the next frame begins a trajectory, whatever it looks like."""


@dataclass(frozen=True)
class Mark:
    """Where a replay memory stood, see `FrameReplayBuffer.mark`."""

    pos: int
    heads: np.ndarray
    newest: np.ndarray
    after: np.ndarray


class FrameReplayBuffer(ReplayBuffer):
    """SB3's replay buffer for observations that are stacks of frames, `[count, *frame]`, with n-step returns.

    SB3's own stores `count` frames for an observation and again for the next one, 2 x `count` times each frame. Here
    every environment has a ring of slots, and a slot holds one frame and the transition that leaves it. The last frame
    of an episode has a slot without a transition, so an episode of L steps takes L + 1 slots. Whatever of an
    observation's history a ring has overwritten takes the transition with it: what is sampled is always whole.

    A transition is known by its place, `slot * n_envs + env`.

    With `n_steps` above 1 what is sampled is, to the bit, what SB3's `NStepReplayBuffer` gives: with m <= n_steps the
    number of transitions from the sampled one on to the end of its episode or the newest one, the reward is
    sum_{k<m} gamma^k r_{t+k}, the next observation and `dones` are those of transition t+m-1, and `discounts` is
    gamma^m. It differs only where SB3 mixes two episodes: where an environment was reset before its episode ended (a
    run that goes on), the trajectory ends here; and the rewards of an episode do not touch the returns of the one
    before it (there, an infinite one makes them NaN, and a negative one the sign of a zero negative).

    Args:
        buffer_size: slots in all environments together.
        observation_space: Box `[count, *frame]`.
        action_space, device, n_envs: as SB3 passes them.
        optimize_memory_usage: refused; this buffer is what that option tries to be.
        dtype: of stored float frames; float16 halves them. Pixels stay uint8, and a state beside features float32 (see
            `RowSpace`).
        n_steps: transitions in a return.
        gamma: discount in a return, the algorithm's own. Without a use where `n_steps` is 1.

    Raises:
        ValueError: `optimize_memory_usage`, or no such number of steps.
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
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError("FrameReplayBuffer holds each frame once as it is. Drop optimize_memory_usage.")
        if not isinstance(n_steps, int) or n_steps < 1:
            raise ValueError(f"n_steps={n_steps!r} is no number of transitions. Take 1 or more.")
        arrays = replay_layout(observation_space, buffer_size, dtype, action_space, n_envs)
        self.count = observation_space.shape[0]
        needed = needed_bytes(observation_space, buffer_size, dtype, action_space, n_envs)
        check_memory(needed, buffer_size, least=n_envs * (self.count + 2))
        # Past the constructor of ReplayBuffer, which would take the memory that this class is there to save.
        super(ReplayBuffer, self).__init__(arrays["frames"][0][0], observation_space, action_space, device, n_envs)
        self.optimize_memory_usage, self.handle_timeout_termination = False, True
        self.n_steps, self.gamma = n_steps, float(gamma)
        self.held = 0  # transitions that can be sampled: the sum of `valid`, which takes a while at a million slots
        self.exact = exact_numbers(observation_space)
        self.rings = (*RING, "vectors") if self.exact else RING
        if self.exact:
            self.vectors = np.zeros(*arrays["vectors"])
        self.frames = np.zeros(*arrays["frames"])
        self.actions = np.zeros(*arrays["actions"])
        self.rewards = np.zeros(*arrays["rewards"])
        self.dones = np.zeros(*arrays["dones"])
        self.ages = np.zeros(*arrays["ages"])
        self.valid = np.zeros(*arrays["valid"])
        self.heads = np.zeros(*arrays["heads"])
        self.newest = np.zeros(*arrays["newest"])
        self.after = np.zeros(*arrays["after"])

    def reset(self) -> None:
        """Forget all transitions; the memory is used again."""
        super().reset()
        self.held = 0
        self.valid[:] = False
        self.heads[:] = 0

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
            goes_on = written and self.newest[env] != _ENDED and obs[env].tobytes() == self.after[env].tobytes()
            if not goes_on:
                self._begin(env, obs[env])
            slot = int(self.newest[env])
            self._write(env, next_obs[env, -1], int(self.ages[slot, env]) + 1)
            self.actions[slot, env] = actions[env]
            self.rewards[slot, env] = reward[env]
            truncated = infos[env].get("TimeLimit.truncated", False)
            self.dones[slot, env] = done[env] and not truncated
            self.valid[slot, env] = True
            # A return tells the end of an episode by the slot of its last frame, from which no transition leaves: it
            # must not be shared with the next episode, which may begin with the very frames with which this one ends.
            if self.n_steps > 1 and (done[env] or truncated):
                self.newest[env] = _ENDED
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
        with np.errstate(over="ignore"):  # which is told of below
            if self.exact:
                self.frames[head, env], self.vectors[head, env] = frame[: -self.exact], frame[-self.exact :]
            else:
                self.frames[head, env] = frame
        if self.frames.dtype == np.float16:
            self._check_kept(self.frames[head, env], frame)
        self.ages[head, env] = min(age, self.count - 1)
        self.newest[env] = head
        self.heads[env] = (head + 1) % slots
        self.pos = max(self.pos, head + 1)  # slots that were ever written
        self.full = self.pos == slots

    def _check_kept(self, kept: np.ndarray, frame: np.ndarray) -> None:
        """Refuse features that float16 cannot hold: beyond 65,504 it holds infinity, and below 6e-8 nothing."""
        if kept.any() and np.isfinite(kept).all():
            return
        features = frame[: len(kept)] if self.exact else frame
        if np.isfinite(kept).all() == np.isfinite(features).all() and kept.any() == features.any():
            return
        largest = float(np.abs(features[np.isfinite(features)]).max(initial=0.0))
        raise RunError(
            f"Replay memory keeps features in float16, which holds numbers from 6e-8 to 65,504, and the largest here "
            f"is {largest:.3g}. Type --replay-dtype float32, or take another --tap."
        )

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
        if self.n_steps == 1:
            # The frames of both observations, which overlap in all but the first and the last.
            both = self._gather(self._history(batch_inds, range(1 - self.count, 2)))
            observations, next_observations = both[:, :-1], both[:, 1:]
            last, rewards, discounts = batch_inds, self.rewards.reshape(-1)[batch_inds, None], None
        else:
            last, rewards, discounts = self._returns(batch_inds)
            before = self._history(batch_inds, range(1 - self.count, 1))
            both = self._gather(np.hstack([before, self._history(last, range(2 - self.count, 2))]))
            observations, next_observations = both[:, : self.count], both[:, self.count :]
        return ReplayBufferSamples(
            observations=observations,
            actions=self.to_torch(self.actions.reshape(-1, self.action_dim)[batch_inds]),
            next_observations=next_observations,
            dones=self.to_torch(self.dones.reshape(-1)[last, None]),
            rewards=self.to_torch(rewards),
            discounts=None if discounts is None else self.to_torch(discounts),
        )

    def _returns(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """n-step returns of the transitions at `places` `[B]`, as `NStepReplayBuffer` computes them.

        Returns:
            The places of their last transitions `[B]`, the returns and the discounts `[B, 1]` of what follows them.
        """
        steps = np.arange(self.n_steps)
        ahead = (places[:, None] + steps * self.n_envs) % self.valid.size
        # No transition leaves an episode's last frame nor the newest one: there a trajectory ends.
        within = np.logical_and.accumulate(self.valid.reshape(-1)[ahead], axis=1)
        rewards = np.where(within, self.rewards.reshape(-1)[ahead], np.float32(0))
        returns = (rewards * self.gamma ** steps.astype(np.float32)).sum(axis=1, keepdims=True)
        taken = within.sum(axis=1, keepdims=True)
        last = np.take_along_axis(ahead, taken - 1, axis=1)[:, 0]
        return last, returns, self.gamma ** taken.astype(np.float32)

    def _history(self, places: np.ndarray, offsets: range) -> np.ndarray:
        """Places `[B, len(offsets)]` of the frames that lie at `offsets` from those of `places` `[B]`, before wrapping.

        An episode's first frame stands in for what would lie before it.
        """
        ages = self.ages.reshape(-1)[places, None].astype(np.int64)
        history: np.ndarray = places[:, None] + np.maximum(np.array(offsets), -ages) * self.n_envs
        return history

    def _gather(self, places: np.ndarray) -> torch.Tensor:
        """The frames at `places` `[B, N]`, on the device: `[B, N, *frame]`, floats as float32."""
        frames = self.frames.reshape(len(self.frames) * self.n_envs, *self.frames.shape[2:])
        # `take` is a fifth faster than indexing with two arrays, and wraps around the ring by itself.
        gathered = torch.from_numpy(frames.take(places, axis=0, mode="wrap")).to(self.device)
        gathered = gathered.float() if gathered.dtype == torch.float16 else gathered
        if not self.exact:
            return gathered
        numbers = self.vectors.reshape(-1, self.exact).take(places, axis=0, mode="wrap")
        return torch.cat([gathered, torch.from_numpy(numbers).to(self.device)], dim=-1)

    def mark(self) -> Mark:
        """Where the memory stands now, for `rewind`: a few numbers, and the newest observation of each environment."""
        return Mark(self.pos, self.heads.copy(), self.newest.copy(), self.after.copy())

    def rewind(self, mark: Mark) -> None:
        """Forget what was added since `mark`. What that has overwritten stays lost: adding the same again, as a run
        does that goes on, comes to the same memory to the bit."""
        slots = len(self.frames)
        for env in range(self.n_envs):
            began = int(mark.heads[env])
            added = np.arange(began, began + (int(self.heads[env]) - began) % slots) % slots
            self.valid[added, env] = False
            if mark.pos and mark.newest[env] != _ENDED:  # from which no transition had left yet
                self.valid[mark.newest[env], env] = False
        self.heads[:], self.newest[:], self.after[:] = mark.heads, mark.newest, mark.after
        self.pos, self.full = mark.pos, mark.pos == slots
        self.held = int(self.valid.sum())

    def state(self) -> dict[str, Any]:
        """Everything that was stored, as tensors, without the slots that were never written."""
        rings = {name: getattr(self, name)[: self.pos] for name in self.rings}
        rest = {name: getattr(self, name) for name in REST}
        arrays = {name: torch.from_numpy(array) for name, array in {**rings, **rest}.items()}
        return {"slots": len(self.frames), "pos": self.pos, "n_steps": self.n_steps, "arrays": arrays}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave.

        Raises:
            ValueError: it is of a buffer of another shape, of one that did not keep episodes apart, or of none.
        """
        if state.get("n_steps", 1) == 1 < self.n_steps:  # see `add`
            raise ValueError(f"the stored replay memory was kept for n_steps=1, not {self.n_steps}")
        if state["slots"] != len(self.frames):  # a ring cannot be cut or grown where it is wrapped around
            raise ValueError(f"the stored replay memory holds {state['slots']} slots, not {len(self.frames)}")
        pos, slots = state["pos"], len(self.frames)
        if type(pos) is not int or not 0 <= pos <= slots:
            raise ValueError(f"the stored replay memory says that {pos!r:.60} of its {slots} slots were written")
        arrays = {name: tensor.cpu().numpy() for name, tensor in state["arrays"].items()}
        if set(arrays) != {*self.rings, *REST}:
            raise ValueError(f"the stored replay memory holds {', '.join(sorted(map(str, arrays)))}")
        for name, array in arrays.items():
            here = getattr(self, name)
            shape = (pos if name in self.rings else len(here), *here.shape[1:])
            if array.shape != shape:
                raise ValueError(f"the stored replay memory holds {name} {array.shape}, not {shape}")
            if array.dtype != here.dtype:
                raise ValueError(f"the stored replay memory holds {name} of {array.dtype}, not {here.dtype}")
        self._check_places(arrays)
        for name, array in arrays.items():
            getattr(self, name)[: len(array)] = array
        self.pos, self.full = pos, pos == slots
        self.held = int(self.valid.sum())

    def _check_places(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Raise `ValueError` for numbers by which something would be looked up that is not there."""
        slots, space = len(self.frames), self.action_space
        allowed = {"heads": (0, slots - 1), "newest": (_ENDED, slots - 1), "ages": (0, self.count - 1)}
        if isinstance(space, spaces.Discrete):
            allowed["actions"] = (int(space.start), int(space.start + space.n) - 1)
        for name, (least, most) in allowed.items():
            array = arrays[name]
            if array.size and not least <= array.min() <= array.max() <= most:
                raise ValueError(f"the stored replay memory holds {name} beyond {least} to {most}")
