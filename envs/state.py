"""State of an environment in the middle of an episode: all that decides how it goes on, as plain values and arrays.

An environment can be saved where each of its layers can: wrappers that keep nothing or whose fields are known (`KEPT`),
environments whose suite knows how (`Suite.state`), and wrappers and environments of anybody's with two methods:
`snapshot()`, which gives a dict of plain values and numpy arrays, and `restore_snapshot(values)`. The environment's
random generator (`np_random`) is saved beside. Nothing of it is executed when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from stillsight.envs.errors import EnvError
from stillsight.envs.registry import suite_of
from stillsight.envs.wrappers.parts import name

State = dict[str, Any]
"""Plain values, lists and dicts of them, and numpy arrays."""

KEPT: Mapping[str, tuple[str, ...]] = {
    "gymnasium.envs.classic_control.cartpole:CartPoleEnv": ("state", "steps_beyond_terminated"),
    "gymnasium.envs.classic_control.pendulum:PendulumEnv": ("state", "last_u"),
    "gymnasium.wrappers.common:PassiveEnvChecker": (),
    "gymnasium.wrappers.common:OrderEnforcing": ("_has_reset",),
    "gymnasium.wrappers.common:TimeLimit": ("_elapsed_steps",),
    "gymnasium.wrappers.atari_preprocessing:AtariPreprocessing": ("obs_buffer", "lives", "game_over"),
    "gymnasium.wrappers.transform_observation:AddRenderObservation": (),
    "gymnasium.wrappers.transform_reward:TransformReward": (),
    "stable_baselines3.common.monitor:Monitor": ("rewards", "needs_reset", "total_steps"),
    "stillsight.envs.adapters.own_context:OwnContext": (),
    "stillsight.envs.adapters.own_context:OwnScene": (),
    "stillsight.envs.shifts.staged:Staged": (),
    "stillsight.envs.wrappers.actions:FromZero": (),
    "stillsight.envs.wrappers.actions:Bits": (),
    "stillsight.envs.wrappers.guard:Guard": ("_steps", "_episode_steps"),
    "stillsight.envs.wrappers.pixels:Pixels": (),
    "stillsight.envs.wrappers.rules:FrameSkip": (),
}
"""Class of a wrapper or an environment -> what it keeps from one step to the next."""


PASSED_OVER = frozenset({"stillsight.envs.wrappers.watched:Watched"})
"""Wrappers that stand around an environment in this process and not in a worker: a state of either goes on in both."""


class StateOf(Protocol):
    """What `Suite.state` names: how the bare environments of a suite are saved."""

    def objection(self, env: Any) -> str | None:
        """Why this one cannot be saved, as the end of a sentence, or None."""

    def snapshot(self, env: Any) -> State:
        """Its state; the environment is left as it is."""

    def restore_snapshot(self, env: Any, values: Mapping[str, Any]) -> None:
        """Put a state back."""


def objection(env: gym.Env[Any, Any]) -> str | None:
    """Why the state of an environment cannot be saved, as a sentence without a full stop, or None if it can be."""
    for layer in _layers(env):
        if _class(layer) in KEPT or _has_snapshot(layer):
            continue
        if isinstance(layer, gym.Wrapper):
            return f"what the wrapper {type(layer).__name__} of {name(env)} keeps is not known"
        keeper = _keeper(layer)
        if keeper is None:
            return f"{name(env)} cannot save its state"
        if (reason := keeper.objection(layer)) is not None:
            return f"{name(env)} cannot save its state: {reason}"
    return None


def save_state(env: gym.Env[Any, Any]) -> State:
    """The state of an environment and of all wrappers around it; the environment is left as it is.

    Raises:
        EnvError: it cannot be saved, see `objection`.
    """
    if (reason := objection(env)) is not None:
        raise EnvError(f"The state of an environment was asked for, and {reason}. Begin new episodes instead.")
    layers = [_copied(_save(layer)) for layer in _layers(env)]
    random = getattr(env.unwrapped, "_np_random", None)
    return {
        "layers": layers,
        "random": None if random is None else generator_state(random),
        "actions": generator_state(env.action_space.np_random),
    }


def restore_state(env: gym.Env[Any, Any], state: Mapping[str, Any]) -> None:
    """Put back what `save_state` gave: the environment goes on as that one would have.

    Args:
        env: made alike.
        state: of it.

    Raises:
        EnvError: the state is of another environment, or damaged.
    """
    layers = list(_layers(env))
    try:
        if len(layers) != len(state["layers"]):
            raise ValueError(f"it has {len(state['layers'])} layers, not {len(layers)}")
        for layer, values in zip(layers, state["layers"], strict=True):
            _restore(layer, _copied(values))
        if state["random"] is not None:
            random = np.random.default_rng()
            set_generator(random, state["random"])
            env.unwrapped._np_random = random
        set_generator(env.action_space.np_random, state["actions"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        raise EnvError(
            f"The saved state does not fit {name(env)} ({type(error).__name__}: {error}). It was saved by another "
            "version or another environment: begin new episodes."
        ) from error


def generator_state(generator: np.random.Generator) -> State:
    """numpy's own state dict; its 128-bit integers as text, which JSON keeps exactly everywhere."""
    state: State = _text(dict(generator.bit_generator.state))
    return state


def set_generator(generator: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Put back what `generator_state` gave."""
    generator.bit_generator.state = _number(state)


def _layers(env: gym.Env[Any, Any]) -> Iterator[Any]:
    """The wrappers from the outermost on, and the bare environment."""
    layer: Any = env
    while isinstance(layer, gym.Wrapper):
        if _class(layer) not in PASSED_OVER:
            yield layer
        layer = layer.env
    yield layer


def _class(layer: object) -> str:
    return f"{type(layer).__module__}:{type(layer).__qualname__}"


def _has_snapshot(layer: object) -> bool:
    return callable(getattr(type(layer), "snapshot", None)) and callable(getattr(type(layer), "restore_snapshot", None))


def _keeper(env: Any) -> StateOf | None:
    """What saves the bare environments of a suite; None where nothing does."""
    where = suite_of(env.spec.id).state if env.spec is not None else None
    keeper: StateOf | None = None if where is None else resolve_name(where)()
    return keeper


def _save(layer: Any) -> State:
    if _has_snapshot(layer):
        return dict(layer.snapshot())
    if _class(layer) in KEPT:
        return {field: getattr(layer, field, None) for field in KEPT[_class(layer)]}
    keeper = _keeper(layer)
    assert keeper is not None
    return keeper.snapshot(layer)


def _restore(layer: Any, values: Mapping[str, Any]) -> None:
    if _has_snapshot(layer):
        layer.restore_snapshot(values)
    elif _class(layer) in KEPT:
        for field in KEPT[_class(layer)]:
            _check_alike(field, getattr(layer, field, None), values[field])
            setattr(layer, field, values[field])
    else:
        keeper = _keeper(layer)
        if keeper is None:
            raise ValueError("nothing here can restore it")
        keeper.restore_snapshot(layer, values)


def _check_alike(field: str, present: Any, value: Any) -> None:
    """Raise `ValueError` where a value from a file is of another kind than what stands in its place."""
    if present is None or value is None:
        return
    arrays = isinstance(present, np.ndarray), isinstance(value, np.ndarray)
    if arrays == (True, True):
        if (present.dtype, present.shape) != (value.dtype, value.shape):
            raise ValueError(f"{field} is {value.dtype} {list(value.shape)}, not {present.dtype} {list(present.shape)}")
    elif arrays == (False, False) and isinstance(present, list | tuple) and isinstance(value, list):
        for item in value:
            _check_alike(field, present[0] if present else 0.0, item)
    elif any(arrays) or isinstance(present, list | tuple) or not isinstance(value, bool | int | float | np.generic):
        raise ValueError(f"{field} is a {type(value).__name__}, not a {type(present).__name__}")


def _copied(node: Any) -> Any:
    """A copy that shares no memory, of plain values and arrays alone."""
    if isinstance(node, np.ndarray):
        return node.copy()
    if isinstance(node, np.generic):
        return node.item()
    if isinstance(node, Mapping):
        return {str(key): _copied(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_copied(value) for value in node]
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise EnvError(
        f"A snapshot holds a {type(node).__name__}. It may hold numbers, text, lists, dicts and numpy arrays: mend the "
        "environment's snapshot()."
    )


def _text(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _text(value) for key, value in node.items()}
    return f"int:{node}" if isinstance(node, int) else node


def _number(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _number(value) for key, value in node.items()}
    return int(node.removeprefix("int:")) if isinstance(node, str) and node.startswith("int:") else node
