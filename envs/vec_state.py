"""States of the environments of a VecEnv, in this process or in workers, or why they cannot be saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from stillsight.envs.errors import EnvError
from stillsight.envs.state import State, objection, restore_state, save_state
from stillsight.envs.vectorised.worker_vec_env import WorkerVecEnv


def vec_objection(venv: VecEnv) -> str | None:
    """Why the states cannot be saved, as a sentence without a full stop, or None if they can be."""
    if type(venv) is DummyVecEnv:
        return next((reason for env in venv.envs if (reason := objection(env)) is not None), None)
    if isinstance(venv, WorkerVecEnv):
        return next((reason for reason in venv.env_method("state_objection") if reason is not None), None)
    kind = getattr(venv, "KIND", type(venv).__name__)
    return f"{kind} keeps its games to itself (--workers on plays them one by one, and can save them)"


def save_states(venv: VecEnv) -> list[State]:
    """The state of each environment, see `save_state`.

    Raises:
        EnvError: they cannot be saved, see `vec_objection`.
    """
    if type(venv) is DummyVecEnv:
        return [save_state(env) for env in venv.envs]
    if isinstance(venv, WorkerVecEnv):
        return list(venv.env_method("save_state"))
    raise EnvError(f"The states of environments were asked for, and {vec_objection(venv)}. Begin new episodes instead.")


def restore_states(venv: VecEnv, states: Sequence[Mapping[str, Any]]) -> None:
    """Put back what `save_states` gave.

    Raises:
        EnvError: there are more or fewer of them, or one does not fit.
    """
    if len(states) != venv.num_envs:
        raise EnvError(
            f"The saved states are of {len(states)} environments, and {venv.num_envs} play here. Begin new episodes."
        )
    if type(venv) is DummyVecEnv:
        for env, state in zip(venv.envs, states, strict=True):
            restore_state(env, state)
        return
    for number, state in enumerate(states):
        (reason,) = venv.env_method("restore_state", state, indices=number)
        if reason is not None:
            raise EnvError(reason)
