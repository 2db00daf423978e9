"""`make_env`: one environment, from its id to the pixels an agent sees."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.monitor import Monitor

from stillsight.envs.adapters.own_context import in_own_context
from stillsight.envs.adapters.rendering import prepare
from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions, Scalar, check_seed
from stillsight.envs.random_play import action_seed
from stillsight.envs.registry import OTHER, built_on, check_shift, prepare_bases, resolve, suite_of
from stillsight.envs.shifts.shifted import Shifted
from stillsight.envs.shifts.staged import staged
from stillsight.envs.shifts.terms import terms
from stillsight.envs.spec import OwnImage
from stillsight.envs.suites import SUITES
from stillsight.envs.suites.suite import Suite
from stillsight.envs.wrappers.actions import counted_from_zero
from stillsight.envs.wrappers.pixels import Pixels
from stillsight.envs.wrappers.rendered import no_display
from stillsight.envs.wrappers.rules import LifeLoss, sign
from stillsight.envs.wrappers.watched import Watched


def make_env(
    env_id: str, options: EnvOptions | None = None, *, training: bool = True, seed: int = 0
) -> gym.Env[Any, Any]:
    """One environment that observes uint8 `[3, H, W]` and renders `rgb_array`; the order of its wrappers is the text.

    With `options.pixels` or `options.state` an observation may be a dict of images uint8 `[3, H, W]` and of vectors
    float32 `[D]`. `get_wrapper_attr("layout")` describes it (`Layout`), and names texts, which are not observed.

    `options` default to those of the id's row. `training=False` shows the true game: rewards are not clipped and a
    lost life ends nothing. The environment is seeded with `seed`, its action space with another number that follows
    from it (`action_seed`). Choices are counted from 0: `Discrete(3, start=-1)` is `Discrete(3)` here, and the game
    gets -1, 0 or 1 (`FromZero.action_offset`).

    `get_wrapper_attr("seen")` says what is seen, from where and at which size, see `Seen`.

    Raises `EnvError` for an unknown id, a missing package or screen, an observation without an image or with one whose
    meaning is not clear, options that the environment does not have, and a seed below 0 or from 2**32 on; `EnvFault`
    while it plays, see `Guard` and `Watched`.
    """
    check_seed(seed)
    options = options or resolve(env_id).options
    env = bare(env_id, options)
    suite = suite_of(env_id)
    env = dressed(env, options, suite.shifts, suite.image, training=training)
    try:
        env.reset(seed=seed)
    except FileNotFoundError as error:  # a package that was built without all that its ids need
        raise EnvError(
            f"{env_id} cannot begin: it needs the file {error.filename}, which is not here. Its package should have "
            "brought it: install that anew, or take another id."
        ) from error
    # Some make their space anew at each reset: held here, it stays the one that is seeded.
    env.action_space = env.action_space
    env.action_space.seed(action_seed(seed))
    return env


def bare(env_id: str, options: EnvOptions) -> gym.Env[Any, Any]:
    """Gymnasium's own environment, in an OpenGL context of its own where its renderer forgets to make it current, with
    its suite's wrapping, or that of the suite upon whose class a user built it; that skips frames.

    Raises `EnvError`, see `make_env`, and for more steps an episode than there are of a game that pays by the clock.
    """
    resolve(env_id)  # which registers it
    suite = suite_of(env_id)
    _check(env_id, options, suite)
    check_shift(env_id, options.shift)
    env = _make(env_id, options, suite)
    if options.max_episode_steps:
        env = untimed(env)
        if suite.clock is not None:
            suite.clock(env_id, env.unwrapped, options.max_episode_steps * options.frame_skip)
    env = in_own_context(env)
    return (built_on(env.unwrapped) if suite is OTHER else suite).wrap(env, options)


def dressed(
    env: gym.Env[Any, Any],
    options: EnvOptions,
    scenes: Mapping[str, str],
    image: OwnImage | None = None,
    *,
    training: bool,
) -> gym.Env[Any, Any]:
    """A game, whose frames are skipped as they should be, in all that stands between it and an agent.

    Args:
        env: the game.
        options: how it is shown.
        scenes: shifts that it gives by what it draws, see `Suite.shifts`.
        image: that it is known to observe, see `Suite.image`.
        training: False shows true rewards, and lives unended.

    Raises:
        EnvError: see `Pixels` and `Shifted`.
    """
    env = counted_from_zero(env)
    if options.shift is not None:
        # What a scene changes is to be changed before the first picture, which `Pixels` draws.
        env = staged(env, terms(options.shift, options.shift_strength), scenes)
    env = Pixels(env, options.size, options.pixels, options.state, image)
    if options.shift is not None:
        env = Shifted(env, options.shift, options.shift_strength, scenes)
    if options.max_episode_steps:
        env = gym.wrappers.TimeLimit(env, options.max_episode_steps)
    # Whatever changes rewards or ends for learning's sake stands outside Monitor, so that `info["episode"]["r"]` is
    # always the true return of the whole game.
    env = Monitor(env)
    if options.step_timeout:
        env = Watched(env, options.step_timeout)
    if training and options.terminal_on_life_loss:
        env = LifeLoss(env)
    if training and options.clip_rewards:
        env = gym.wrappers.TransformReward(env, sign)
    return env


def untimed(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """`env` without any `TimeLimit`: `gymnasium.make` leaves out its own alone, and an entry point may have put others
    there."""
    while isinstance(env, gym.wrappers.TimeLimit):
        env = env.env
    layer = env
    while isinstance(layer, gym.Wrapper):
        while isinstance(layer.env, gym.wrappers.TimeLimit):
            layer.env = layer.env.env
        layer = layer.env
    return env


def _make(env_id: str, options: EnvOptions, suite: Suite) -> gym.Env[Any, Any]:
    """Gymnasium's own environment, rendering to arrays where it can."""
    if gym.registry[env_id.rpartition(":")[2]].entry_point is None:
        raise EnvError(
            f"{env_id} was registered with a vector environment alone, and evaluation and films take single ones. "
            "Register an entry_point beside its vector_entry_point, or wrap your own: stillsight.envs.GymnasiumVecEnv."
        )
    kwargs: dict[str, Any] = suite.arguments(env_id, options)
    if not suite.takes_all:
        kwargs = {**kwargs, **dict(options.kwargs)}
    made: Any = env_id
    if suite.replacement is not None:
        made = replace(gym.registry[env_id.rpartition(":")[2]], entry_point=suite.replacement)
    # -1 removes the id's own time limit: ours takes its place and counts agent steps.
    maker = partial(gym.make, made, max_episode_steps=-1 if options.max_episode_steps else None, **kwargs)
    try:
        renders = _renders(env_id)  # which imports what it is made from
        if suite is OTHER:
            prepare_bases(env_id)
        prepare(suite.draws, env_id)
        return make_rendering(maker) if renders else maker()
    except EnvError:
        raise
    except Exception as error:
        if (sentence := _sentence(env_id, options, suite, error)) is None:
            raise
        raise EnvError(sentence) from error


Made = TypeVar("Made")


def make_rendering(maker: Callable[..., Made]) -> Made:
    """What `maker` makes with `render_mode="rgb_array"`, or without it where what is made takes none, whatever its
    metadata offer."""
    try:
        return maker(render_mode="rgb_array")
    except TypeError as error:
        if "unexpected keyword argument 'render_mode'" not in str(error):
            raise
        return maker()


def _sentence(env_id: str, options: EnvOptions, suite: Suite, error: Exception) -> str | None:
    """What is said of an error of `gymnasium.make` that a user can mend; None for a bug, which keeps its traceback."""
    if (sentence := no_display(env_id, error)) is not None:
        return sentence
    if isinstance(error, ImportError | gym.error.DependencyNotInstalled):
        return f"{env_id} needs a package that cannot be imported: {error}"
    asked = tuple(pair for pair in options.kwargs if pair not in suite.spec(env_id).options.kwargs)
    if not asked:
        return None
    told = str(error).partition(" was raised")[0]
    if isinstance(error, TypeError) and "unexpected keyword argument" in told:
        return f"{env_id} does not take the arguments {_listed(asked)}: {told}."
    reason = told.partition("\n")[0].removesuffix(".") or "it does not say why"
    return (
        f"{env_id} refuses the arguments {_listed(asked)} ({type(error).__name__}: {reason}). Change them or drop them."
    )


def _renders(env_id: str) -> bool:
    """Whether to ask for `rgb_array`; one that does not offer it may refuse the argument or warn about it."""
    entry = gym.registry[env_id.rpartition(":")[2]].entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    metadata = getattr(creator, "metadata", None)
    if metadata is not None:
        return "rgb_array" in (metadata.get("render_modes") or ())
    # A function carries no metadata; whether it takes the argument is all that can be known before calling it.
    parameters = inspect.signature(creator).parameters.values() if callable(creator) else ()
    return any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters)


def _check(env_id: str, options: EnvOptions, suite: Suite) -> None:
    for owner in SUITES:
        names = [name for name in owner.own_options if name not in suite.own_options]
        if any(getattr(options, name) for name in names):
            off = " and ".join(f"{name} at {getattr(EnvOptions(), name)}" for name in names)
            raise EnvError(f"{env_id} is no {owner.kind}, and only those have {' and '.join(names)}. Leave {off}.")
    reserved = {"render_mode": "it is always rgb_array", **suite.reserved}
    for name, _ in options.kwargs:
        if name in reserved:
            raise EnvError(f"The environment argument {name!r} is set by stillsight: {reserved[name]}.")


def _listed(kwargs: tuple[tuple[str, Scalar], ...]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in kwargs)
