"""Actor: from pixels to actions, the one rule by which every trained policy is played."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from stillsight.agents.errors import RunError
from stillsight.agents.features.encoded_vec_env import EncodedVecEnv, FrameStack
from stillsight.agents.features.gsde import PlayNoise
from stillsight.agents.features.live_units import Sample
from stillsight.envs.random_play import MASKS
from stillsight.envs.wrappers.layout import Observation


def takes_masks(model: BaseAlgorithm | type[BaseAlgorithm]) -> bool:
    """Whether the policy is told which actions are allowed, as sb3-contrib's MaskablePPO is."""
    return "action_masks" in inspect.signature(model.predict).parameters


def check_masks(cls: type[BaseAlgorithm], venv: VecEnv, env: str) -> None:
    """Refuse an algorithm that asks which actions are allowed in an environment that does not say.

    Raises:
        RunError: with what to do.
    """
    if takes_masks(cls) and not venv.has_attr(MASKS):
        raise RunError(
            f"{cls.__name__} asks its environment in each step which actions are allowed, and {env} has no method "
            f"{MASKS}(). Register it with sb3_contrib.common.wrappers.ActionMasker around it, or type --algo ppo."
        )


def masks_of(model: BaseAlgorithm, envs: Sequence[gym.Env[Any, Any]]) -> np.ndarray | None:
    """Which actions are allowed now, bool `[N, actions]`; None for a policy that does not ask.

    Raises:
        RunError: an environment does not say.
    """
    if not takes_masks(model):
        return None
    try:
        return np.stack([env.get_wrapper_attr(MASKS)() for env in envs])
    except AttributeError as error:
        raise RunError(
            f"This agent was trained with masks of allowed actions, and the environment has no method {MASKS}(). "
            "Play it in the environment that it was trained in."
        ) from error


class Actor:
    """A policy with its eyes and its memory: frames of several environments in, an action for each out.

    Evaluations during training, `evaluate`, `record` and `Player.predict` all act through this class: frames are
    encoded in one batch, stacked as `EncodedVecEnv` stacks them, recurrent states and the noise of gSDE begin anew
    where an episode does, and a policy that asks for masks of allowed actions gets them.

    Args:
        model: the SB3 algorithm.
        eyes: that encodes frames, with the observation space of the policy; it is neither reset nor stepped.

    Attributes:
        sample: of what the policy is shown and does, where one is wanted.
    """

    def __init__(self, model: BaseAlgorithm, eyes: EncodedVecEnv) -> None:
        self.model, self.eyes = model, eyes
        self.sample: Sample | None = None
        self.reset()

    def reset(self) -> None:
        """Forget what was seen: the next frames begin episodes, of any number of environments."""
        self._stack: FrameStack | None = None
        self._memory: Any = None
        self._noise = PlayNoise(self.model)

    @property
    def environments(self) -> int | None:
        """How many are played side by side; None after `reset`."""
        return None if self._stack is None else len(self._stack.frames)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these environments alone, in this order."""
        if self._stack is not None:
            self._stack.frames = self._stack.frames[list(rows)]
        if self._memory is not None:  # sb3-contrib's: a tuple of [layers, environments, units]
            self._memory = tuple(part[:, list(rows)] for part in self._memory)
        self._noise.keep(rows)

    def act(
        self,
        shown: Observation,
        *,
        deterministic: bool = True,
        began: np.ndarray | None = None,
        masks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Choose an action for each environment, `[N, ...]`.

        Args:
            shown: uint8 `[N, 3, H, W]`, the newest frames; or a dict of such images and of vectors `[N, D]`.
            deterministic: take the most likely action.
            began: bool `[N]`, where an episode begins with this frame; all do after `reset`.
            masks: bool `[N, actions]`, what is allowed, for a policy that asks.

        Raises:
            RunError: masks are missing, have another shape, allow nothing, or are not asked for.
        """
        frames = self.eyes.encode(shown)
        if self._stack is None:
            shape = self.eyes.observation_space.shape
            assert shape is not None
            self._stack = FrameStack(len(frames), shape[0], shape[1:], frames.dtype)
            began = np.ones(len(frames), bool)
            observation = self._stack.start(frames)
        else:
            began = np.zeros(len(frames), bool) if began is None else np.asarray(began, bool)
            observation = self._stack.push(frames, began)
        masked = self._masked(masks, len(frames))
        with nullcontext() if deterministic else self._noise.acting(began):
            actions, self._memory = self.model.predict(observation, self._memory, began, deterministic, **masked)
        if self.sample is not None:
            self.sample.add(observation, np.asarray(actions))
        return np.asarray(actions)

    def _masked(self, masks: np.ndarray | None, count: int) -> dict[str, np.ndarray]:
        """Masks as a keyword argument of the model's `predict`; none for a policy that does not ask."""
        if not takes_masks(self.model):
            if masks is not None:
                raise RunError(f"{type(self.model).__name__} asks for no masks of allowed actions. Leave masks out.")
            return {}
        width = mask_width(self.model.action_space)
        if masks is None:
            raise RunError(
                "This agent was trained with masks of allowed actions, and acts otherwise without them. Hand them "
                f"over: masks=env.get_wrapper_attr({MASKS!r})(), bool [{width}]; all True where everything is allowed."
            )
        given = np.asarray(masks, bool)
        if given.shape != (count, width):
            raise RunError(
                f"Masks of allowed actions are bool [{count}, {width}] here, and these are {list(given.shape)}. "
                "Give a row for each environment."
            )
        if not given.any(axis=1).all():
            raise RunError("A mask allows no action at all. Give one that allows some.")
        return {"action_masks": given}


def mask_width(space: spaces.Space[Any]) -> int:
    """Length of a mask: a truth value for each choice, all choices of all dimensions one after the other."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    assert isinstance(space, spaces.MultiBinary), "SB3 masks no other space"
    return 2 * int(np.prod(space.shape))
