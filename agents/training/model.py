"""An SB3 model from an algorithm's row: presets, what the user set, and our eyes in its policy."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.vec_env import VecEnv

from stillsight.agents.buffers.footprint import batch_bytes, check_memory, check_rollout
from stillsight.agents.buffers.replay import FrameReplayBuffer
from stillsight.agents.buffers.rollout import FrameRolloutBuffer
from stillsight.agents.errors import RunError
from stillsight.agents.features.critic import follow_critic
from stillsight.agents.features.encoder_rate import scale
from stillsight.agents.features.extractor import EncoderExtractor
from stillsight.agents.training.algorithms import AlgorithmSpec
from stillsight.agents.training.settings import arguments, net_arch
from stillsight.encoders.errors import first_line


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
    playing: bool = False,
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
        playing: it will not learn, see `playing_model`; what only learning needs is not checked.

    Raises:
        RunError: SB3 refuses the combination.
    """
    policy_kwargs: dict[str, Any] = {
        "features_extractor_class": EncoderExtractor,
        "features_extractor_kwargs": dict(eyes),
        "normalize_images": False,  # the encoder normalises, by the recipe of its weights
    }
    if (layers := net_arch(row, chosen)) is not None:
        policy_kwargs["net_arch"] = layers
    cls = row.load_class()
    try:
        rollout = _argument(cls, chosen, "n_steps", 1) * venv.num_envs if issubclass(cls, OnPolicyAlgorithm) else 0
        given = arguments(chosen, venv, least=min(1.0, rollout / steps) if steps else 0.0)
        if not playing:
            _check_sizes(cls, venv, given)
        if issubclass(cls, OffPolicyAlgorithm):
            returns = {"n_steps": _argument(cls, given, "n_steps", 1), "gamma": _argument(cls, given, "gamma", 0.99)}
            given |= {"replay_buffer_class": FrameReplayBuffer, "replay_buffer_kwargs": {**replay, **returns}}
        elif _takes_pool(cls, venv):
            given["rollout_buffer_class"] = FrameRolloutBuffer
        with warnings.catch_warnings():
            # SB3 warns that a buffer class that it does not know ignores n_steps; ours was given it.
            warnings.filterwarnings("ignore", "`n_steps=", UserWarning)
            made = partial(playing_model, cls) if playing else cls
            model = made(row.policy, venv, policy_kwargs=policy_kwargs, seed=seed, device=device, **given)
    except RunError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "memory" in str(error)):
            raise
        raise RunError(
            f"The model does not fit into the memory of this machine ({first_line(error)}). Type a smaller --head or "
            "--frame-stack, or take fewer features (--pooling, --tap)."
        ) from error
    except (AssertionError, ValueError, TypeError) as error:
        # SB3 checks its arguments with asserts, and some only by using them.
        listed = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
        raise RunError(
            f"{row.name} refuses these settings ({first_line(error)}): {listed}. Change them with --set."
        ) from error
    follow_critic(model.policy)
    scale(model.policy, encoder_lr)
    return model


def playing_model(cls: type[BaseAlgorithm], policy: str, venv: VecEnv, **given: Any) -> BaseAlgorithm:
    """A model that acts and will not learn, with room for one transition of each environment to learn from.

    It is set up as SB3's own `load` does it, without environments first: what a class asks of the number of those that
    it learns in, it asks of the run, and not of who plays.

    Args:
        cls: of the algorithm.
        policy: name of its policy.
        venv: of the spaces that it acts in.
        given: further arguments of `cls`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what learning would come to, and there will be none
        model = cls(policy, None, _init_setup_model=False, **given)  # type: ignore[call-arg]
        shown = cls._wrap_env(venv)
        model.observation_space, model.action_space = shown.observation_space, shown.action_space
        model.n_envs = shown.num_envs
        model.set_env(shown)
        if isinstance(model, OffPolicyAlgorithm):
            model.buffer_size = 1
        if not isinstance(model, OnPolicyAlgorithm):
            model._setup_model()
            return model
        rollout, model.n_steps = model.n_steps, 1
        model._setup_model()
        model.n_steps = rollout  # who trains an exported agent on goes on with it
    return model


def _check_sizes(cls: type[BaseAlgorithm], venv: VecEnv, given: Mapping[str, Any]) -> None:
    """Refuse what SB3 would take memory for and our own buffers do not check, and what it would fail with later.

    Raises:
        RunError: it does not fit; with the flag that makes it fit.
    """
    often = given.get("train_freq")
    if isinstance(often, tuple) and "episode" in often and venv.num_envs > 1:
        raise RunError(
            f"--set train_freq={list(often)!r} counts the episodes of one environment, and these are {venv.num_envs}. "
            "Type --n-envs 1, or a number of steps: --set train_freq=4."
        )
    space, actions = venv.observation_space, venv.action_space
    assert isinstance(space, spaces.Box)
    if issubclass(cls, OffPolicyAlgorithm):
        batch = _argument(cls, given, "batch_size", 1)
        if isinstance(batch, int):
            check_memory(batch_bytes(space, batch), batch, what="batch of transitions", flag="--set batch_size=")
        return
    steps = _argument(cls, given, "n_steps", 1)
    if isinstance(steps, int) and not _takes_pool(cls, venv):
        # Two masks of each choice (MaskablePPO), and the states of actor and critic as sb3-contrib sizes them.
        masks = (
            2 * int(getattr(actions, "n", 0)) if isinstance(actions, spaces.Discrete) else 2 * get_action_dim(actions)
        )
        states = 4 * 256 if any("Lstm" in name for name in cls.policy_aliases) else 0
        check_rollout(space, steps, actions, venv.num_envs, pooled=False, extra=masks + states)


def _takes_pool(cls: type[BaseAlgorithm], venv: VecEnv) -> bool:
    """Whether rollouts go into a `FrameRolloutBuffer`.

    Classes that collect in a way of their own (RecurrentPPO, MaskablePPO) have buffers of their own.
    """
    return getattr(cls, "collect_rollouts", None) is OnPolicyAlgorithm.collect_rollouts and stacked(venv)


def _argument(cls: type, given: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """What `cls` takes as `name`: what is `given`, else its own default, else `otherwise`."""
    parameter = inspect.signature(cls).parameters.get(name)
    default = otherwise if parameter is None or parameter.default is parameter.empty else parameter.default
    return given.get(name, default)


def stacked(venv: VecEnv) -> bool:
    """Whether observations are stacks of several frames."""
    shape = venv.observation_space.shape
    return shape is not None and shape[0] > 1
