"""The games that an agent is in the middle of: kept in a checkpoint where the environments can be saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from stillsight.agents.errors import CheckpointError
from stillsight.agents.features.encoded_vec_env import EncodedVecEnv
from stillsight.envs.errors import EnvError
from stillsight.envs.vec_state import restore_states, save_states, vec_objection


def capture(model: BaseAlgorithm, venv: EncodedVecEnv) -> dict[str, Any] | None:
    """The games as they stand between two rollouts, with what the policy saw last and remembers of them.

    Returns:
        Nested dicts and lists of tensors and plain values; None where the environments cannot be saved or none was
        begun.
    """
    if model._last_obs is None or vec_objection(venv.venv) is not None:
        return None
    starts, memory = model._last_episode_starts, getattr(model, "_last_lstm_states", None)
    saved: dict[str, Any] = tensors(
        {
            "envs": save_states(venv.venv),
            "stacks": venv.stacks,
            "starts": None if starts is None else np.asarray(starts),
        }
    )
    # sb3-contrib's: a pair of (hidden, cell), `[layers, n_envs, units]` each, for actor and critic.
    return saved | {"memory": None if memory is None else [list(part) for part in memory]}


def restore(model: BaseAlgorithm, venv: EncodedVecEnv, stored: Mapping[str, Any] | None) -> str | None:
    """Go on with the games of a checkpoint.

    Args:
        model: its other state is restored.
        venv: in which nothing was begun yet.
        stored: from `capture`.

    Returns:
        None where they go on; else why episodes begin anew, as the end of a sentence.

    Raises:
        CheckpointError: they do not fit these environments.
    """
    if (reason := vec_objection(venv.venv)) is not None:
        return reason
    if stored is None:
        return (
            "the checkpoint holds no games: it was written in the middle of a rollout, or they could not be saved then"
        )
    try:
        restore_states(venv.venv, [arrays(one) for one in stored["envs"]])
        venv.stacks = arrays(stored["stacks"])
        starts = arrays(stored["starts"])
        if starts is not None and (starts.dtype != bool or starts.shape != (venv.num_envs,)):
            raise ValueError(f"the starts of episodes are {starts.dtype} {list(starts.shape)}")
        memory = stored["memory"]
        if memory is not None:
            here = model._last_lstm_states  # type: ignore[attr-defined]
            parts = [tuple(one.to(model.device) for one in part) for part in memory]
            model._last_lstm_states = type(here)(*parts)  # type: ignore[attr-defined]
    except (EnvError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"The games in the checkpoint do not fit this run ({type(error).__name__}: {error}). Restore the run "
            "folder as it was, or begin a new run with the policy: --from RUN."
        ) from error
    model._last_obs = venv.stacks
    model._last_episode_starts = starts
    return None


def tensors(node: Any) -> Any:
    """Nested plain values with tensors in place of numpy arrays, as a checkpoint takes them."""
    if isinstance(node, np.ndarray):
        return torch.from_numpy(np.array(node, order="C"))
    if isinstance(node, Mapping):
        return {key: tensors(value) for key, value in node.items()}
    return [tensors(value) for value in node] if isinstance(node, list | tuple) else node


def arrays(node: Any) -> Any:
    """The inverse of `tensors`."""
    if isinstance(node, torch.Tensor):
        return node.cpu().numpy().copy()
    if isinstance(node, Mapping):
        return {key: arrays(value) for key, value in node.items()}
    return [arrays(value) for value in node] if isinstance(node, list | tuple) else node
