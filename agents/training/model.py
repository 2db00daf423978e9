"""An SB3 model from an algorithm's row: presets, what the user set, and our eyes in its policy."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from stillsight.agents.buffers.footprint import check_rollout
from stillsight.agents.buffers.replay import FrameReplayBuffer
from stillsight.agents.buffers.rollout import FrameRolloutBuffer
from stillsight.agents.errors import RunError
from stillsight.agents.features.critic import follow_critic
from stillsight.agents.features.encoder_rate import scale
from stillsight.agents.features.extractor import EncoderExtractor
from stillsight.agents.training.algorithms import AlgorithmSpec
from stillsight.agents.training.settings import arguments


def make_model(
    row: AlgorithmSpec,
    venv: VecEnv,
    eyes: Mapping[str, Any],
    chosen: Mapping[str, Any],
    replay: Mapping[str, Any],
    *,
    seed: int,
    device: str,
    encoder_lr: float = 1.0,
    steps: int | None = None,
) -> BaseAlgorithm:
    """The SB3 model: its class unchanged, our features extractor in its policy.

    Args:
        row: the algorithm.
        venv: an `EncodedVecEnv`.
        eyes: arguments of `EncoderExtractor`.
        chosen: from `settings`.
        replay: arguments of `FrameReplayBuffer`, which off-policy algorithms learn from.
        seed: of the policy's weights, of exploration, of sampling and of the environments.
        device: of policy and updates.
        encoder_lr: what learns of the encoder learns at this multiple of the algorithm's rate.
        steps: of the whole run, for which what falls linearly falls; None if it is not known.

    Raises:
        RunError: SB3 refuses the combination.
    """
    policy_kwargs: dict[str, Any] = {
        "features_extractor_class": EncoderExtractor,
        "features_extractor_kwargs": dict(eyes),
        "normalize_images": False,  # the encoder normalises, by the recipe of its weights
    }
    if row.actions:
        policy_kwargs["net_arch"] = list(row.net_arch)
    cls = row.load_class()
    try:
        rollout = _argument(cls, chosen, "n_steps", 1) * venv.num_envs if issubclass(cls, OnPolicyAlgorithm) else 0
        given = arguments(chosen, venv, least=min(1.0, rollout / steps) if steps else 0.0)
        if issubclass(cls, OffPolicyAlgorithm):
            returns = {"n_steps": _argument(cls, given, "n_steps", 1), "gamma": _argument(cls, given, "gamma", 0.99)}
            given |= {"replay_buffer_class": FrameReplayBuffer, "replay_buffer_kwargs": {**replay, **returns}}
        elif issubclass(cls, OnPolicyAlgorithm):
            # Classes that collect in a way of their own (RecurrentPPO, MaskablePPO) have buffers of their own.
            if cls.collect_rollouts is OnPolicyAlgorithm.collect_rollouts and stacked(venv):
                given["rollout_buffer_class"] = FrameRolloutBuffer
            elif isinstance(n_steps := _argument(cls, given, "n_steps", 0), int):
                assert isinstance(venv.observation_space, spaces.Box)
                check_rollout(venv.observation_space, n_steps, venv.action_space, venv.num_envs, pooled=False)
        with warnings.catch_warnings():
            # SB3 warns that a buffer class that it does not know ignores n_steps; ours was given it.
            warnings.filterwarnings("ignore", "`n_steps=", UserWarning)
            model = cls(row.policy, venv, policy_kwargs=policy_kwargs, seed=seed, device=device, **given)
    except RunError:
        raise
    except (AssertionError, ValueError, TypeError) as error:
        # SB3 checks its arguments with asserts, and some only by using them.
        listed = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
        raise RunError(f"{row.name} refuses these settings ({error}): {listed}. Change them with --set.") from error
    follow_critic(model.policy)
    scale(model.policy, encoder_lr)
    return model


def _argument(cls: type, given: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """What `cls` takes as `name`: what is `given`, else its own default, else `otherwise`."""
    parameter = inspect.signature(cls).parameters.get(name)
    default = otherwise if parameter is None or parameter.default is parameter.empty else parameter.default
    return given.get(name, default)


def stacked(venv: VecEnv) -> bool:
    """Whether observations are stacks of several frames."""
    shape = venv.observation_space.shape
    return shape is not None and shape[0] > 1
