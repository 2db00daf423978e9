"""EncodedVecEnv: each new frame is encoded once, before the policy, and what comes out is stacked."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from stillsight.agents.buffers.footprint import check_memory, stack_bytes
from stillsight.agents.buffers.row import RowSpace, row_width
from stillsight.agents.errors import RunError
from stillsight.encoders.encoder import Encoder
from stillsight.envs.vector import layout_of, shown_by
from stillsight.envs.wrappers.layout import Observation, batch, joined


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
    """Encodes each new frame once, in one batch over all environments and images, and stacks what comes out.

    Observations become `[frame_stack, *frame]`: float32 features `[D]` where the encoder is frozen to its end, maps
    where the cut lies in between, and uint8 pixels where nothing is frozen (or no encoder is given). The last
    observation of an episode (`infos[i]["terminal_observation"]`) is encoded in the same batch.

    Where an environment shows several images, or vectors beside them, a frame is one row of all that they become, see
    `RowSpace`, which is the space of observations then.

    Args:
        venv: any VecEnv with uint8 images `[3, H, W]` or `[H, W, 3]`, or a Dict of these and of float vectors `[D]`.
        encoder: its frozen part is used; None stacks pixels.
        frame_stack: frames in an observation.

    Attributes:
        layout: what one environment shows, and how many frames of it an observation has.

    Raises:
        RunError: observations are not such images, or the machine has no memory free for so many frames.
        EncoderError: the images are too small for the encoder.
    """

    def __init__(self, venv: VecEnv, encoder: Encoder | None = None, frame_stack: int = 1) -> None:
        layout = layout_of(venv)
        if layout is None:
            raise RunError(_refusal(venv.observation_space))
        self.layout = replace(layout, frames=frame_stack)
        self.encoder = encoder
        self.pixel_shape = layout.pixels
        shape: tuple[int, ...] = self.pixel_shape
        dtype: np.dtype[Any] = np.dtype(np.uint8)
        low, high = 0.0, 255.0
        if not layout.images:
            shape, dtype = (), np.dtype(np.float32)
        elif encoder is not None and len(encoder.frozen.steps):
            if not encoder.frozen.prepared:
                encoder.frozen.prepare(self.pixel_shape)
            shape, dtype = encoder.frozen.frame_shape(self.pixel_shape), np.dtype(np.float32)
            low, high = -np.inf, np.inf
        part = shape
        if not layout.plain:
            shape = (row_width(len(layout.images), part, layout.state, dtype),)
        stacks = stack_bytes(frame_stack, shape, dtype, venv.num_envs)
        check_memory(stacks, frame_stack, what="stack of frames", flag="--frame-stack ")
        self._stack = FrameStack(venv.num_envs, frame_stack, shape, dtype)
        self.row = None if layout.plain else RowSpace(frame_stack, len(layout.images), part, layout.state, dtype)
        super().__init__(venv, self.row or spaces.Box(low, high, (frame_stack, *shape), dtype.type))

    def encode(self, observations: Observation) -> np.ndarray:
        """Frames as they come from the environments -> `[n, *frame]`."""
        images = self.layout.images_of(observations)
        if self.row is None:
            return self._frozen(images[:, 0])
        seen = self._frozen(images.reshape(-1, *images.shape[2:])) if images.size else np.zeros(0, np.float32)
        return self.row.join(seen.reshape(len(images), -1), self.layout.state_of(observations))

    def _frozen(self, pixels: np.ndarray) -> np.ndarray:
        return pixels if self.encoder is None else self.encoder.frozen.encode(pixels)

    def _check_that_it_learns(self) -> None:
        """Warn where the encoder is to learn and no policy holds what learns: it would stay as it is, in silence."""
        encoder = self.encoder
        if encoder is None or encoder.in_policy or not encoder.learned.learns:
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
        return self._stack.start(self.encode(shown_by(self.venv.reset())))

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
        shown = shown_by(observations)
        ended = np.flatnonzero(dones)
        if len(ended):
            shown = joined(shown, batch([infos[env]["terminal_observation"] for env in ended]))
        frames = self.encode(shown)
        for env, last in zip(ended.tolist(), frames[len(dones) :], strict=True):
            infos[env]["terminal_observation"] = self._stack.after(env, last)
        return self._stack.push(frames[: len(dones)], dones), rewards, dones, infos


def _refusal(space: spaces.Space[Any]) -> str:
    """Why an environment of such observations cannot be encoded, in words."""
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        return (
            f"EncodedVecEnv takes images of 3 channels, and these are {space.shape}. Stack frames here "
            "(frame_stack=4) and not before, and keep the colours."
        )
    return (
        f"EncodedVecEnv takes uint8 images [3, H, W], and this environment observes {space}. "
        "Make it with stillsight.envs.make_vec, which gives every environment that form."
    )
