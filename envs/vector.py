"""`make_vec`: copies of an environment as one VecEnv, for training, evaluation, video and benchmark alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from stillsight.envs.errors import EnvError, did_you_mean
from stillsight.envs.making import make_env
from stillsight.envs.options import EnvOptions, check_seed
from stillsight.envs.registry import resolve, suite_of
from stillsight.envs.suites import SUITES
from stillsight.envs.suites.suite import NativeVecEnv
from stillsight.envs.vectorised.gymnasium_vec_env import EntryPointVecEnv
from stillsight.envs.vectorised.worker_vec_env import WorkerVecEnv
from stillsight.envs.wrappers.layout import Layout, Observation


def make_vec(
    env_id: str,
    n_envs: int = 1,
    *,
    seed: int = 0,
    options: EnvOptions | None = None,
    training: bool = True,
    workers: int = 0,
    native: bool | str | None = None,
) -> VecEnv:
    """`n_envs` copies of an environment as a Stable-Baselines3 VecEnv: uint8 `[n_envs, 3, H, W]`, 0..255.

    - Copy i is seeded with `seed + i`, its action space by `action_seed`; the same seed gives the same pixels to the
      last bit.
    - `options` default to those of the id's row; `training=False` leaves rewards unclipped and lives unended.
    - `workers=0` steps all copies in this process, which is fastest for light environments; `workers=n_envs` gives
      each its own process (SB3 has nothing in between). The pixels are the same where an environment comes from a
      module and draws from its own generator (`np_random`). What draws from numpy's, Python's or torch's gets the same
      twice in workers, each of which has its own, seeded by the copy's seed. A suite that can have one environment in a
      process gets workers, whatever is asked.
    - `native=None` trains through the first VecEnv of the environment's suite (`Suite.natives`) if that can do what is
      asked, or through the vector environment that the id was registered with if that observes images and can begin
      episodes alone (`EntryPointVecEnv`); `native=True` insists, and a name (`natives`) takes that one. The rules are
      the same, the random numbers are not. `native=False` wraps one environment per copy, as does all that is not
      training.
    - `get_images()` gives an RGB frame per copy, uint8 `[H, W, 3]`: the environment's own, or natively what was last
      observed.
    - Choices are counted from 0, see `make_env`; `get_attr("seen")` says what a copy sees, in words.
    - With several images, or vectors (`EnvOptions.pixels`, `state`), observations are dicts of arrays: `layout_of`.
    - When an episode ends, `infos[i]` holds `episode` (`r`: the unclipped return of the whole game, `l`: agent steps),
      `terminal_observation`, and `TimeLimit.truncated`.

    Raises `EnvError` for all that `make_env` does, for counts out of range, for `native=True` where that is impossible,
    and for workers in which the environment cannot be made; while it plays, `EnvFault` for what `Guard` finds, and for
    a worker that died, and where `options.step_timeout` ran out; a native environment is not watched.
    """
    if n_envs < 1:
        raise EnvError(f"{n_envs} environments were asked for; it takes at least 1. Try 8.")
    check_seed(seed, n_envs)
    if workers not in (0, n_envs):
        raise EnvError(
            f"{workers} workers were asked for {n_envs} environments; a worker runs exactly one. "
            f"Give 0 (all in this process) or {n_envs}."
        )
    row = resolve(env_id)
    options = options or row.options
    if suite_of(env_id).one_a_process:
        workers = n_envs
    venv = _native(env_id, n_envs, options, native, workers, training=training, seed=seed)
    if venv is not None:
        venv.seed(seed)
        return venv
    space = None
    if workers:
        # A mistake inside a worker would reach the user as a broken pipe; here it is a sentence.
        first = make_env(env_id, options, training=training, seed=seed)
        space = first.observation_space
        first.close()
    # A worker is watched from outside, where it can be ended whatever it does.
    own = replace(options, step_timeout=0.0) if workers else options
    makers = [partial(make_env, env_id, own, training=training, seed=seed + i) for i in range(n_envs)]
    if workers:
        made: VecEnv = WorkerVecEnv(env_id, makers, options.step_timeout, space, seed)
    else:
        envs = [maker() for maker in makers]
        if len({id(env.unwrapped) for env in envs}) < n_envs:
            raise EnvError(
                f"{env_id} was made {n_envs} times, and its entry point gave one and the same environment more than "
                "once: a step of one copy would be one of another. Have it make a new one each time, or type "
                "--workers on, which gives each copy a process of its own."
            )
        made = DummyVecEnv([partial(_itself, env) for env in envs])
    made.seed(seed)
    return made


def _itself(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return env


GYMNASIUM = "gymnasium"
"""The native VecEnv of an id that was registered with a vector environment."""


def natives(env_id: str) -> dict[str, NativeVecEnv]:
    """What steps all copies of an id that `resolve` knows by itself, by the name that `make_vec(native=...)` takes.

    The first is preferred; whether it can do what is asked, its `objection` says.
    """
    suite = suite_of(env_id)
    found: dict[str, NativeVecEnv] = {}
    for name in suite.natives:
        vec_env = suite.native_class(name)
        assert vec_env is not None
        found[name] = vec_env
    # Where a suite has its own, those are its vector environments, by the rules of make_env.
    if not found and gym.registry[env_id.rpartition(":")[2]].vector_entry_point is not None:
        found[GYMNASIUM] = EntryPointVecEnv
    return found


def _native(
    env_id: str,
    n_envs: int,
    options: EnvOptions,
    native: bool | str | None,
    workers: int,
    *,
    training: bool,
    seed: int,
) -> VecEnv | None:
    """The native VecEnv that was asked for, or that is preferred where nothing was said; None for none."""
    if native is False or (native is None and (workers or not training)):
        return None  # evaluation keeps one environment per copy, as videos do
    there = natives(env_id)
    if native is not None:
        _check_native(env_id, native, workers, there)
        name = next(iter(there)) if native is True else str(native)
        return there[name](env_id, n_envs, options, training=training, seed=seed)
    name = next(iter(there), "")
    if name == GYMNASIUM:
        try:
            return EntryPointVecEnv(env_id, n_envs, options, training=training, seed=seed, drawing=False)
        except EnvError:
            return None  # what is a mistake is one for single environments as well
    if name and there[name].objection(env_id, options, training=True) is None:
        return there[name](env_id, n_envs, options, training=training, seed=seed)
    return None


def _check_native(env_id: str, native: bool | str, workers: int, there: Mapping[str, NativeVecEnv]) -> None:
    """Refuse to insist on a native VecEnv where there is none, or beside workers."""
    suites = [suite for suite in SUITES if suite.natives]
    name = " or ".join(suite.name for suite in suites)
    if workers:
        raise EnvError(
            f"The native {name} environment was asked for with {workers} workers, and it runs threads of its own. "
            "Give workers=0 or native=False."
        )
    if native is not True and native not in there:
        known = f"has {', '.join(there)}" if there else "has none"
        raise EnvError(
            f"The native environment {native!r} was asked for, and {env_id} {known}."
            f"{did_you_mean(str(native), there)} Give native=None or False (--native auto or off)."
        )
    if not there:
        raise EnvError(
            f"The native {name} environment was asked for, and {env_id} is no {' or '.join(s.kind for s in suites)}. "
            "Give native=None or False."
        )


def action_offset(venv: VecEnv) -> int | tuple[int, ...]:
    """What `make_env` adds to an action before the game gets it, see `actions.FromZero`; 0 for most games."""
    if not venv.has_attr("action_offset"):
        return 0
    offset = venv.get_attr("action_offset", 0)[0]
    return offset if isinstance(offset, int) else tuple(int(each) for each in offset)


def layout_of(venv: VecEnv) -> Layout | None:
    """What each environment of a VecEnv shows, with its texts where it is one of `make_vec`; None where that is neither
    uint8 images `[3, H, W]` or `[H, W, 3]` nor a Dict of these and of float vectors `[D]`."""
    found = Layout.of(venv.observation_space)
    if found is not None and venv.has_attr("layout"):
        told = venv.get_attr("layout", 0)[0]  # of the environment; what stands around it may show something else
        if isinstance(told, Layout) and (told.images, told.vectors) == (found.images, found.vectors):
            return told
    return found


def shown_by(observations: VecEnvObs) -> Observation:
    """Observations of a VecEnv as a layout takes them apart: SB3's type has tuples, which no environment here gives."""
    return observations if isinstance(observations, dict) else np.asarray(observations)
