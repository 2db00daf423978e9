"""GymnasiumVecEnv: a vector environment of Gymnasium's interface as a VecEnv, in every autoreset mode."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from stillsight.envs.errors import EnvError, EnvFault
from stillsight.envs.making import dressed, make_rendering
from stillsight.envs.options import EnvOptions, check_seed
from stillsight.envs.random_play import action_seed
from stillsight.envs.registry import resolve, suite_of
from stillsight.envs.shifts.terms import terms
from stillsight.envs.wrappers.actions import offset
from stillsight.envs.wrappers.rules import Step, skip_frames
from stillsight.envs.wrappers.seen import Seen, SeenParts

MODE = "autoreset_mode"
"""Key in a vector environment's metadata under which Gymnasium's interface has the mode."""

FINAL = ("final_obs", "final_info")
"""What the infos of SAME_STEP hold of the episode that ended."""

TRIAL = 2
"""Steps within episodes before one copy of a vector environment is begun anew, to see whether the others stay."""

MOST_TRIAL = 300
"""Steps in which an episode should end, to see whether its copy is then begun alone for good, see `_try_end`."""

SURE = 3
"""Ends after which nothing happened where something could have, until that is taken for no chance."""

Begun = tuple[Any, dict[str, Any]]


class Copy(gym.Env[Any, Any]):
    """One environment of a vector environment, which hands on what that gave for it; wrappers stand on it as on any.

    Attributes:
        outcome: of the step that the vector environment has just made.
        first: what a new episode of it begins with, where the vector environment has begun one.
    """

    def __init__(self, venv: GymnasiumVecEnv, number: int) -> None:
        native = venv.native
        self._venv, self._number = venv, number
        self.observation_space = native.single_observation_space
        self.action_space = deepcopy(native.single_action_space)
        self.metadata, self.spec, self.render_mode = native.metadata, native.spec, native.render_mode
        self.outcome: Step | None = None
        self.first: Begun | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Begun:  # noqa: ARG002
        """The new episode that was begun with the others, or one that is begun alone; seeds went to all at once."""
        first = self._venv.begin_alone(self._number) if self.first is None else self.first
        self.first = None
        return first

    def step(self, action: Any) -> Step:  # noqa: ARG002 - the vector environment was given it, with those of the others
        """What the vector environment gave."""
        assert self.outcome is not None, "GymnasiumVecEnv.step_wait makes the steps"
        outcome, self.outcome = self.outcome, None
        return outcome

    def render(self) -> Any:
        """Its frame, as the vector environment draws it."""
        return self._venv.frames()[self._number]


class GymnasiumVecEnv(DummyVecEnv):
    """A `gymnasium.vector.VectorEnv` as a Stable-Baselines3 VecEnv that shows what `make_vec` shows: uint8 `[n, 3, H,
    W]`, or a dict of images and vectors, behind the same wrappers, with the same `infos`.

    Whatever the autoreset mode, a step that ends an episode answers with the first observation of the next, with the
    last one in `infos[i]["terminal_observation"]`, and each step that the agent sees is a step of the game:

    - SAME_STEP: the last observation and its info are those in `final_obs` and `final_info`.
    - DISABLED and NEXT_STEP: a new episode is begun at once, alone, by `reset(options={"reset_mask": ...})`.
      So the step in which NEXT_STEP would begin it, which ignores the action and pays nothing, never happens and cannot
      be learned from.

    Where a vector environment cannot begin some episodes alone (it is tried with two copies or more), these two modes
    are refused: all that could be had then is the transition from an end to a beginning. So is NEXT_STEP where the step
    after such a beginning begins the episode once more, which is tried where one ends within 300 steps. So are rendered
    images in SAME_STEP, whose last frame cannot be drawn any more.

    Frames are not skipped, and a seed goes to the vector environment, which spreads it in its own way.

    Attributes:
        native: the vector environment.
    """

    KIND = "a vector environment"
    """What it is called in sentences."""

    def __init__(
        self,
        native: VectorEnv[Any, Any, Any],
        options: EnvOptions | None = None,
        *,
        training: bool = True,
        seed: int = 0,
        mode: AutoresetMode | None = None,
        alone: bool = False,
    ) -> None:
        """Args:
            native: which is closed with this one.
            options: how it is shown; as it is by default.
            training: whether `options.clip_rewards` holds.
            seed: of the first copy, and by `action_seed` of its action space; the others follow.
            mode: that of `native.metadata` by default.
            alone: it is known that some episodes can be begun alone, and need not be tried.

        Raises:
            EnvError: no mode is known, what is asked for cannot be had of `native`, and what `make_env` says of images.
        """
        options = options or EnvOptions()
        check_seed(seed, native.num_envs)
        self.native, self._name = native, _name(native)
        known = mode or native.metadata.get(MODE)
        if known is None:
            raise EnvError(
                f"{self._name} does not say how it begins new episodes: its metadata have no {MODE!r}. Give "
                "mode=gymnasium.vector.AutoresetMode.NEXT_STEP, SAME_STEP or DISABLED."
            )
        self.mode = AutoresetMode(known)
        apart = native.unwrapped
        if isinstance(apart, AsyncVectorEnv) and not apart.shared_memory and self.mode is AutoresetMode.NEXT_STEP:
            raise EnvError(  # its workers forget only with shared memory that an episode has ended (Gymnasium 1.4)
                "Gymnasium's AsyncVectorEnv with shared_memory=False begins an episode that was begun alone a second "
                "time (NEXT_STEP). Make it with shared_memory=True, or with autoreset_mode DISABLED."
            )
        if options.frame_skip > 1 or options.terminal_on_life_loss:
            raise EnvError(
                f"{self._name} steps all its copies at once: none can skip frames, or play on after a lost life, by "
                "itself. Have the vector environment do so; leave frame_skip at 1 and terminal_on_life_loss at False."
            )
        needed = self.mode is not AutoresetMode.SAME_STEP or options.max_episode_steps
        if needed and not alone and native.num_envs > 1:
            self._try_alone()
        self._frames: Any = None
        self._offset = offset(native.single_action_space)
        kind: type[Copy] = type(self._name, (Copy,), {})  # by the name of their class sentences call environments
        self._copies = [kind(self, number) for number in range(native.num_envs)]
        self._begin(native.reset(seed=seed))
        shown = replace(options, step_timeout=0.0)  # what would be timed is the handing on
        super().__init__([partial(dressed, copy, shown, {}, training=training) for copy in self._copies])
        if self.mode is AutoresetMode.SAME_STEP and self.rendered:
            raise EnvError(
                f"{self._name} has begun the next episode when a step that ends one comes back (SAME_STEP): its last "
                "frame cannot be drawn any more. Make it with autoreset_mode DISABLED."
            )
        if self.observed and _stacks_frames(native):
            raise EnvError(
                f"{self._name} is made of environments that stack frames by FrameStackObservation, and which of their "
                "axes are frames and which are colours cannot be told from outside. Leave it out, and stack frames by "
                "--frame-stack, or stable_baselines3's VecFrameStack."
            )
        for number, env in enumerate(self.envs):
            env.action_space.seed(action_seed(seed + number))
        self.action_space.seed(action_seed(seed))
        self.seed(seed)

    @property
    def rendered(self) -> bool:
        """Whether an image that is seen is drawn by `render()`."""
        return "rendering" in self._sources()

    @property
    def observed(self) -> bool:
        """Whether an image that is seen is one that is observed."""
        return "observation" in self._sources()

    def _sources(self) -> set[str]:
        seen: Seen | SeenParts = self.envs[0].get_wrapper_attr("seen")
        return {image.source for image in ((seen,) if isinstance(seen, Seen) else seen.images)}

    def reset(self) -> VecEnvObs:
        """New episodes everywhere, from the seeds given since the last reset or from where the generators stand."""
        self._begin(self.native.reset(seed=_seeds(self._seeds)))
        return super().reset()

    def step_wait(self) -> VecEnvStepReturn:
        """One step of every copy; those whose episode ended have begun the next."""
        actions = np.asarray(self.actions) + self._offset
        space = self.native.action_space
        actions = actions.astype(space.dtype).reshape(space.shape)
        observations, rewards, terminated, truncated, infos = self.native.step(actions)
        self._observations, self._frames = self._apart(observations), None
        for i, (copy, shown) in enumerate(zip(self._copies, self._observations, strict=True)):
            info = _one(infos, i, self.num_envs)
            over = bool(terminated[i]) or bool(truncated[i])
            if over and self.mode is AutoresetMode.SAME_STEP:
                copy.first = (shown, info)
                if FINAL[0] not in infos:
                    raise EnvFault(
                        f"{self._name} broke its word: its mode is SAME_STEP, and where an episode ends its infos have "
                        f"no {FINAL[0]!r}."
                    )
                shown = _part(infos[FINAL[0]], i)
                info = _one(infos.get(FINAL[1], {}), i, self.num_envs)
            else:
                copy.first = None
            copy.outcome = (shown, float(rewards[i]), bool(terminated[i]), bool(truncated[i]), info)
        return super().step_wait()

    def begin_alone(self, number: int) -> Begun:
        """A new episode of one copy, while the others stay where they are.

        Raises:
            EnvFault: the others did not.
        """
        count = self.native.num_envs
        if count == 1:
            observations, infos = self.native.reset()
            shown = self._apart(observations)
        else:
            mask = np.arange(count) == number
            observations, infos = self.native.reset(options={"reset_mask": mask})
            shown = self._apart(observations)
            if not all(_same(shown[i], self._observations[i]) for i in np.flatnonzero(~mask)):
                raise EnvFault(
                    f"{self._name} was told to begin copy {number} anew, alone (reset_mask), and has changed others."
                )
        self._observations, self._frames = shown, None
        return shown[number], _one(infos, number, count)

    def frames(self) -> Sequence[Any]:
        """What the vector environment draws, a frame for each copy."""
        if self._frames is None:
            frames: Any = self.native.render()
            self._frames = [None] * self.native.num_envs if frames is None else frames
        return self._frames  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the vector environment; twice is no mistake."""
        if not getattr(self, "_closed", False):
            self._closed = True
            self.native.close()

    def _begin(self, begun: tuple[Any, dict[str, Any]]) -> None:
        observations, infos = begun
        self._observations, self._frames = self._apart(observations), None
        for i, copy in enumerate(self._copies):
            copy.first, copy.outcome = (self._observations[i], _one(infos, i, len(self._copies))), None

    def _apart(self, observations: Any) -> list[Any]:
        """The observation of each copy, in arrays of its own: the vector environment may write into these again."""
        return [deepcopy(one) for one in iterate(self.native.observation_space, observations)]

    def _try_end(self) -> bool:
        """Whether a copy whose episode has ended, and which was then begun alone, plays in the next step (NEXT_STEP).

        One that has kept for itself that it is over ignores the action, pays nothing and shows the beginning, in a step
        in which an episode that was begun with all others shows or pays something. Where none ends, nothing is known.
        """
        native, dead = self.native, 0
        native.reset(seed=0)
        for _ in range(MOST_TRIAL):
            _, _, terminated, truncated, _ = native.step(native.action_space.sample())
            over = np.flatnonzero(np.asarray(terminated) | np.asarray(truncated))
            if not len(over):
                continue
            actions = native.action_space.sample()
            mask = np.arange(native.num_envs) == over[0]
            if not self._idle(native.reset(options={"reset_mask": mask}), actions)[over[0]]:
                return True
            dead += not self._idle(native.reset(seed=0), actions)[over[0]]
            if dead == SURE:
                break
        return dead == 0

    def _idle(self, begun: tuple[Any, dict[str, Any]], actions: Any) -> list[bool]:
        """Of each copy, whether a step pays nothing and shows what it began with."""
        before = self._apart(begun[0])
        shown, rewards, *_ = self.native.step(actions)
        after = self._apart(shown)
        return [_same(*pair) and not paid for *pair, paid in zip(before, after, rewards, strict=True)]

    def _try_alone(self) -> None:
        """Raise `EnvError` unless some episodes can be begun while the others go on."""
        native = self.native
        native.action_space.seed(action_seed(0))
        observations, _ = native.reset(seed=0)
        steps = 0
        for _ in range(10 * TRIAL):
            observations, _, terminated, truncated, _ = native.step(native.action_space.sample())
            steps += 1
            if np.any(terminated) or np.any(truncated):
                observations, _ = native.reset()
                steps = 0
            elif steps == TRIAL:
                break
        before = self._apart(observations)
        mask = np.arange(native.num_envs) == 0
        try:
            after, _ = native.reset(options={"reset_mask": mask})
            alone = all(_same(one, other) for one, other in zip(before[1:], self._apart(after)[1:], strict=True))
        except Exception as error:
            reason = f"it raises {type(error).__name__}: {error}"
        else:
            if alone and (self.mode is not AutoresetMode.NEXT_STEP or self._try_end()):
                return
            reason = "it begins the others anew as well"
            if alone:
                reason = "where an episode has ended, the next step begins the new one once more"
        wanted = "new episodes where others go on"
        if self.mode is AutoresetMode.NEXT_STEP:
            wanted = "a new episode at once, so that no agent learns from the step in which it would begin by itself"
        raise EnvError(
            f"{self._name} cannot begin some episodes alone, by reset(options={{'reset_mask': ...}}): {reason}. Its "
            f"autoreset mode, {self.mode.name}, takes that for {wanted}. Have it take reset_mask, or begin episodes in "
            "the SAME_STEP, or step single environments (native=False)."
        )


class EntryPointVecEnv(GymnasiumVecEnv):
    """The vector environment that an id was registered with (`vector_entry_point`), as a VecEnv."""

    def __init__(
        self,
        env_id: str,
        n_envs: int,
        options: EnvOptions | None = None,
        *,
        training: bool = True,
        seed: int = 0,
        drawing: bool = True,
    ) -> None:
        """Args:
            env_id, n_envs, options, training, seed: as `make_vec`.
            drawing: False refuses one whose images must be drawn.

        Raises:
            EnvError: what `objection` says, and see `GymnasiumVecEnv`.
        """
        options = options or resolve(env_id).options
        if reason := self.objection(env_id, options, training=training):
            raise EnvError(f"The vector environment of {env_id} was asked for, and {reason}. Give native=False.")
        spec = gym.registry[env_id.rpartition(":")[2]]
        kwargs: dict[str, Any] = dict(options.kwargs)
        if options.max_episode_steps and spec.max_episode_steps:  # in place of its own, as make_env has it
            kwargs["max_episode_steps"] = options.max_episode_steps
            options = replace(options, max_episode_steps=0)
        maker = partial(gym.make_vec, env_id, n_envs, vectorization_mode="vector_entry_point", **kwargs)
        try:
            native = make_rendering(maker)
        except TypeError as error:
            raise EnvError(f"The vector environment of {env_id} refuses its arguments: {error}.") from error
        except ImportError as error:
            raise EnvError(f"The vector environment of {env_id} needs a package: {error}.") from error
        try:
            super().__init__(native, options, training=training, seed=seed)
            if self.rendered and not drawing:
                raise EnvError(f"The vector environment of {env_id} observes no image.")
        except EnvError:
            native.close()
            raise

    @staticmethod
    def objection(env_id: str, options: EnvOptions, *, training: bool = True) -> str | None:
        """Why it cannot show an id that `resolve` knows as these options ask, or `None` if it can."""
        suite, spec = suite_of(env_id), gym.registry[env_id.rpartition(":")[2]]
        if spec.vector_entry_point is None:
            return "it was registered without one"
        if spec.additional_wrappers:
            return "it was registered with wrappers, which stand around single environments"
        if suite.replacement is not None or suite.wrapping != f"{skip_frames.__module__}:{skip_frames.__name__}":
            return f"{suite.name} has wrappers of its own, which stand around single environments"
        if options.frame_skip > 1 or (training and options.terminal_on_life_loss):
            return "it steps all copies at once, where none can skip frames or lose lives alone"
        if options.shift is not None and any(term.name in suite.shifts for term in terms(options.shift)):
            return f"the shift {options.shift!r} changes what a single environment draws"
        return None


def _name(native: VectorEnv[Any, Any, Any]) -> str:
    return native.spec.id if native.spec is not None else type(native.unwrapped).__name__


def _stacks_frames(native: VectorEnv[Any, Any, Any]) -> bool:
    """Whether Gymnasium's own `FrameStackObservation` stands around the copies, as far as they can be asked."""
    apart = native.unwrapped
    if not isinstance(apart, SyncVectorEnv | AsyncVectorEnv):
        return False
    return all(bool(each) for name in ("stack_size", "obs_queue") for each in apart.call("has_wrapper_attr", name))


def _seeds(seeds: Sequence[int | None]) -> Any:
    """Seeds as Gymnasium's interface has them: one number where they follow each other, which all vector environments
    take, else a list."""
    numbers = [None if seed is None else int(seed) for seed in seeds]
    first = numbers[0]
    if all(number is None for number in numbers):
        return None
    return first if first is not None and numbers == list(range(first, first + len(numbers))) else numbers


def _one(infos: dict[str, Any], i: int, n_envs: int) -> dict[str, Any]:
    """The info of one copy, from those of all: an entry counts where its mask, "_NAME", says so or is missing."""
    info = {}
    for key, value in infos.items():
        if key in FINAL or (key.startswith("_") and key[1:] in infos):
            continue
        mask = infos.get(f"_{key}")
        if mask is not None and not mask[i]:
            continue
        if isinstance(value, dict):
            info[key] = _one(value, i, n_envs)
        else:
            each = getattr(value, "shape", (None,))[:1] == (n_envs,) or (
                isinstance(value, list) and len(value) == n_envs
            )
            info[key] = value[i] if each else value
    return info


def _part(final: Any, i: int) -> Any:
    """The last observation of a copy: that of an array of objects, as Gymnasium's own have it, or row i of a batch."""
    if isinstance(final, dict):
        return {key: _part(part, i) for key, part in final.items()}
    if isinstance(final, tuple):
        return tuple(_part(part, i) for part in final)
    return deepcopy(final[i])


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(_same(part, other[key]) for key, part in one.items())
    if isinstance(one, tuple):
        return all(_same(*pair) for pair in zip(one, other, strict=True))
    one, other = np.asarray(one), np.asarray(other)
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
