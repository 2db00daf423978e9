"""EncodedVecEnv: each new frame is encoded once, before the policy, and what comes out is stacked."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from stillsight.agents.buffers.footprint import check_memory, stack_bytes
from stillsight.agents.errors import RunError
from stillsight.encoders.encoder import Encoder


class FrameStack:
    """The last `count` frames of each environment, oldest first; an episode starts as `count` copies of the first.

    Repeating the first frame, as Mnih et al. 2015 did, and not zeros, as SB3's VecFrameStack does: a zero feature is
    not the feature of a black image, and pixels stacked in the policy must give what features stacked here give.

    Args:
        n_envs: environments side by side.
        count: frames in a stack.
        shape: of one frame (its pixels or its features).
        dtype: of one frame.
    """

    def __init__(self, n_envs: int, count: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.frames = np.zeros((n_envs, count, *shape), dtype)

    def start(self, frames: np.ndarray) -> np.ndarray:
        """Begin an episode everywhere with `frames` `[n_envs, *shape]`; returns stacks `[n_envs, count, *shape]`."""
        self.frames[:] = frames[:, None]
        return self.frames.copy()

    def after(self, env: int, frame: np.ndarray) -> np.ndarray:
        """The stack `[count, *shape]` that `frame` would end in environment `env`, which is left as it is."""
        return np.concatenate([self.frames[env, 1:], frame[None]])

    def push(self, frames: np.ndarray, began: np.ndarray) -> np.ndarray:
        """Add one frame everywhere, `[n_envs, *shape]`, starting anew where `began` `[n_envs]` is true."""
        self.frames[:, :-1] = self.frames[:, 1:]
        self.frames[:, -1] = frames
        self.frames[began] = frames[began][:, None]
        return self.frames.copy()


class EncodedVecEnv(VecEnvWrapper):
    """Encodes each new frame once, in one batch over all environments, and stacks what comes out.

    Observations become `[frame_stack, *frame]`: float32 features `[D]` where the encoder is frozen to its end, maps
    where the cut lies in between, and uint8 pixels where nothing is frozen (or no encoder is given). The last
    observation of an episode (`infos[i]["terminal_observation"]`) is encoded in the same batch.

    Args:
        venv: any VecEnv with uint8 images `[3, H, W]` or `[H, W, 3]`.
        encoder: its frozen part is used; None stacks pixels.
        frame_stack: frames in an observation.

    Raises:
        RunError: observations are not such images, or the machine has no memory free for so many frames.
        EncoderError: the images are too small for the encoder.
    """

    def __init__(self, venv: VecEnv, encoder: Encoder | None = None, frame_stack: int = 1) -> None:
        space = venv.observation_space
        if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
            raise RunError(
                f"EncodedVecEnv takes uint8 images [3, H, W], and this environment observes {space}. "
                "Make it with stillsight.envs.make_vec, which gives every environment that form."
            )
        self._channels_last = space.shape[0] != 3 and space.shape[2] == 3
        channels, height, width = np.roll(space.shape, 1) if self._channels_last else space.shape
        if channels != 3:
            raise RunError(
                f"EncodedVecEnv takes images of 3 channels, and these are {space.shape}. Stack frames here "
                "(frame_stack=4) and not before, and keep the colours."
            )
        self.encoder = encoder
        self.pixel_shape = (3, int(height), int(width))
        shape: tuple[int, ...] = self.pixel_shape
        dtype: np.dtype[Any] = np.dtype(np.uint8)
        low, high = 0.0, 255.0
        if encoder is not None and len(encoder.frozen.steps):
            if not encoder.frozen.prepared:
                encoder.frozen.prepare(self.pixel_shape)
            shape, dtype = encoder.frozen.frame_shape(self.pixel_shape), np.dtype(np.float32)
            low, high = -np.inf, np.inf
        stacks = stack_bytes(frame_stack, shape, dtype, venv.num_envs)
        check_memory(stacks, frame_stack, what="stack of frames", flag="--frame-stack ")
        self._stack = FrameStack(venv.num_envs, frame_stack, shape, dtype)
        super().__init__(venv, spaces.Box(low, high, (frame_stack, *shape), dtype.type))

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Frames as they come from the environment -> `[n, *frame]`."""
        if self._channels_last:
            pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        return pixels if self.encoder is None else self.encoder.frozen.encode(pixels)

    def _check_that_it_learns(self) -> None:
        """Warn where the encoder is to learn and no policy holds what learns: it would stay as it is, in silence."""
        encoder = self.encoder
        if encoder is None or encoder.in_policy or not any(True for _ in encoder.learned.parameters()):
            return
        where = " in its pooling" if encoder.unfreeze is None else f" from {encoder.unfreeze} on"
        warnings.warn(
            f"{encoder.name} is to learn{where}, and no policy holds what lies behind its cut: it "
            "will stay as it is, and the policy sees what comes before the cut. Give the model policy_kwargs with "
            "features_extractor_class=EncoderExtractor and features_extractor_kwargs={'encoder': encoder}, or build "
            "the encoder frozen, with a pooling that does not learn.",
            stacklevel=3,
        )

    def reset(self) -> np.ndarray:
        """Start all episodes; returns `[n_envs, frame_stack, *frame]`."""
        self._check_that_it_learns()
        return self._stack.start(self.encode(np.asarray(self.venv.reset())))

    @property
    def stacks(self) -> np.ndarray:
        """What was last observed, `[n_envs, frame_stack, *frame]`."""
        return self._stack.frames.copy()

    @stacks.setter
    def stacks(self, frames: np.ndarray) -> None:
        """Go on from there, as the environments do. Raises `ValueError` for another shape or dtype."""
        here = self._stack.frames
        if frames.shape != here.shape or frames.dtype != here.dtype:
            raise ValueError(f"stacks are {here.dtype} {list(here.shape)}, not {frames.dtype} {list(frames.shape)}")
        here[:] = frames

    def step_wait(self) -> VecEnvStepReturn:
        """One step everywhere, with all new frames and all last frames encoded in one batch."""
        observations, rewards, dones, infos = self.venv.step_wait()
        pixels = np.asarray(observations)
        ended = np.flatnonzero(dones)
        if len(ended):
            pixels = np.concatenate([pixels, np.stack([infos[env]["terminal_observation"] for env in ended])])
        frames = self.encode(pixels)
        for env, last in zip(ended.tolist(), frames[len(dones) :], strict=True):
            infos[env]["terminal_observation"] = self._stack.after(env, last)
        return self._stack.push(frames[: len(dones)], dones), rewards, dones, infos
