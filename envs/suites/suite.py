"""Suite: a family of environments that are registered, made and wrapped alike, as one record.

A record is light: its functions import the suite's own package when they are called, and classes that are built on
Gymnasium or SB3 live in files of their own and are named `"module:name"`. So the command line reads every row at no
cost, and what an environment needs is imported when one is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal, Protocol

from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions, Scalar
from stillsight.envs.spec import EnvSpec, OwnImage, Preset

if TYPE_CHECKING:
    import gymnasium as gym
    from stable_baselines3.common.vec_env import VecEnv


EVERY = "*"
"""In `Suite.presets`, every id of a suite."""

ROBOT_PPO = Preset(
    settings={
        "n_steps": 2048,
        "batch_size": 64,
        "n_epochs": 10,
        "learning_rate": 3e-4,
        "clip_range": 0.2,
        "ent_coef": 0.0,
    },
    n_envs=1,
    source="SB3's defaults, as rl-baselines3-zoo's preset of Ant-v3 has them; without its normalised rewards",
)
"""PPO's settings for robots, whose actions are continuous: PPO's own row here is made for Atari."""


class NativeVecEnv(Protocol):
    """What `Suite.natives` name: a VecEnv class that steps all copies by itself, in threads or on a device."""

    def __call__(self, env_id: str, n_envs: int, options: EnvOptions, *, training: bool, seed: int) -> VecEnv:
        """As `make_vec`. Raises `EnvError` for what `objection` finds."""

    def objection(self, env_id: str, options: EnvOptions, *, training: bool) -> str | None:
        """Why it cannot show an id of the suite as these options ask, as the end of a sentence, or None if it can."""


def _register_nothing() -> None:
    """For a suite whose ids come with Gymnasium."""


def _no_arguments(_env_id: str, _options: EnvOptions) -> dict[str, Any]:
    return {}


def rewarding_clock(env_id: str, own: float, steps: int, longer: str = "") -> None:
    """Refuse an episode that would be longer than a clock allows by which rewards are counted: with another clock it
    would be another game, and that is not for a time limit to say.

    Args:
        env_id: whose clock it is.
        own: steps after which the environment ends an episode itself.
        steps: of the environment, that were asked for.
        longer: what to type for the game with a later end; "" where there is none.

    Raises:
        EnvError: `steps` are more than `own`.
    """
    if steps > own:
        other = f"Type {longer} for the game with that end, or a" if longer else "A"
        raise EnvError(
            f"{env_id} ends an episode itself after {own:,.0f} steps, by which it counts its rewards too, and "
            f"{steps:,} were asked for. {other}sk for no more than its own, or for none: --max-episode-steps 0"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Suite:
    """A family of environments. Only `name`, `noun` and `default` must be given; the rest is for what is special."""

    name: str
    """As it stands in a sentence: "Atari"."""
    noun: str
    """What one of its environments is called: "game", as in "is no Atari game"."""
    default: EnvSpec
    """What holds for an id of the suite that has no row; the rows are copies of it with an id and a summary."""
    rows: tuple[EnvSpec, ...] = ()
    """The environments that are listed."""
    place: int = 100
    """Where its rows stand in lists: suites of one place by the names of their files."""
    presets: Mapping[tuple[str, str], Preset] = field(default_factory=dict)
    """Settings by (id, algorithm); `EVERY` in place of an id holds for all that have none of their own."""

    prefix: str | tuple[str, ...] | None = None
    """How ids of the suite begin, which tells them before anything is imported; None: by its rows alone."""
    unprefixed: bool = False
    """Whether its package registers ids without the prefix, too: it is then asked for ids that nobody else knows."""
    entry_point: str | None = None
    """What Gymnasium makes the suite's environments from, which tells them, whatever their id, once they are
    registered: a package, a module or `module:Class`. None: they are told by prefix and rows."""
    base: str | None = None
    """`module:Class` that its environments are built on. One of a user's own that is built on it is of no suite, and
    gets the suite's `wrapping` all the same, without which such environments disturb each other."""
    register: Callable[[], None] = _register_nothing
    """Registers the suite's ids with Gymnasium; called only where `default.needs` can be imported."""
    draws: Literal["mujoco", "opengl"] | None = None
    """With what it draws, which must be told how before it is imported, see `rendering.prepare`."""
    image: OwnImage | None = None
    """The image that its environments observe, where arguments can make it too small to count as one; what `render()`
    draws never takes its place."""
    one_a_process: bool = False
    """Whether its package can have one environment in a process and no more, so that several take workers."""

    own_options: tuple[str, ...] = ()
    """Names of the fields of `EnvOptions` that no environment has but this suite's and others' that name them."""
    reserved: Mapping[str, str] = field(default_factory=dict)
    """Arguments of `gymnasium.make` that a user may not set, with what to do instead."""
    harmless: Mapping[str, type | str] = field(default_factory=dict)
    """Arguments of `gymnasium.make` that a file of a stranger's may set too, with their type or, of text, a regular
    expression: those that say how the game is played, and name neither a file nor code."""
    arguments: Callable[[str, EnvOptions], dict[str, Any]] = _no_arguments
    """Arguments of `gymnasium.make` for an id and its options; the user's own come on top, see `takes_all`. It may
    raise `EnvError` for the user's (`options.kwargs`)."""
    clock: Callable[[str, Any, int], None] | None = None
    """Has the bare environment of an id play on for a number of its steps, in place of its own clock. None where there
    is none but Gymnasium's `TimeLimit`, and where `arguments` stop it. It may raise `EnvError`: `rewarding_clock`."""
    takes_all: bool = False
    """Whether `arguments` gives all that `gymnasium.make` is to get, what it wants of the user's own included: the
    others are for `wrapping`."""
    replacement: str | None = None
    """`module:Class` that is made in place of the registered one."""
    wrapping: str = "stillsight.envs.wrappers.rules:skip_frames"
    """`module:function` from a made environment and `EnvOptions` to the environment whose image is taken, frames
    skipped."""
    state: str | None = None
    """`module:Class` of a `stillsight.envs.state.StateOf`, which saves the bare environments of the suite in the middle
    of an episode; None where they cannot be, or do it themselves (`snapshot`)."""
    shifts: Mapping[str, str] = field(default_factory=dict)
    """Names of `SHIFTS` and `SUITE_SHIFTS` -> `module:Class` of a `stillsight.envs.shifts.staged.Scene`: shifts that
    the suite gives by what it draws, and those that it alone can give."""
    natives: Mapping[str, str] = field(default_factory=dict)
    """`module:Class` of each `NativeVecEnv`, by the name that is typed for it. The first is preferred for training
    wherever it has no objection, the others are taken where they are named: which one steps decides what a seed draws,
    and neither a package that was installed nor a busy moment may."""

    def takes_unasked(self, name: str, value: Scalar) -> bool:
        """Whether an argument is one of `harmless`, with a value of its type."""
        kind = self.harmless.get(name)
        if kind is None or isinstance(value, bool):
            return kind is bool
        if isinstance(kind, str):
            return isinstance(value, str) and re.fullmatch(kind, value) is not None
        return isinstance(value, (int, float) if kind is float else kind)

    @property
    def kind(self) -> str:
        """What one of its environments is, in full: "Atari game"."""
        return f"{self.name} {self.noun}"

    @property
    def word(self) -> str:
        """What is typed for it: "classic-control"."""
        return self.name.lower().replace(" ", "-")

    @property
    def installed(self) -> bool:
        """Whether the modules that the suite needs can be imported."""
        return all(find_spec(module) is not None for module in self.default.needs)

    def packages(self, row: EnvSpec) -> tuple[str, ...]:
        """The modules that an environment of the suite steps and draws with, beside its maker."""
        return (*row.needs, *(("mujoco",) if self.draws == "mujoco" else ()))

    def covers(self, env_id: str) -> bool:
        """Whether an id, without a `module:` before it, is of this suite as far as its name tells."""
        named = self.prefix is not None and env_id.startswith(self.prefix)
        return named or any(row.id == env_id for row in self.rows)

    def makes(self, env_id: str, entry_point: str) -> bool:
        """Whether an id that Gymnasium makes from `entry_point` is of this suite."""
        if self.entry_point is None:
            return self.covers(env_id)
        return entry_point == self.entry_point or entry_point.startswith(
            (f"{self.entry_point}.", f"{self.entry_point}:")
        )

    def preset(self, env_id: str, algo: str) -> Preset | None:
        """What is known of an algorithm in an environment of the suite, by its id without a `module:`."""
        return self.presets.get((env_id, algo), self.presets.get((EVERY, algo)))

    def spec(self, env_id: str) -> EnvSpec:
        """The row of an id, or the suite's default under that id."""
        return next((row for row in self.rows if row.id == env_id), replace(self.default, id=env_id))

    def wrap(self, env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
        """Put the suite's own wrappers around an environment that was just made."""
        wrapped: gym.Env[Any, Any] = resolve_name(self.wrapping)(env, options)
        return wrapped

    def native_class(self, name: str | None = None) -> NativeVecEnv | None:
        """The class of `natives` that is called so, or the first, imported; None where the suite has none."""
        if not self.natives:
            return None
        vec_env: NativeVecEnv = resolve_name(self.natives[next(iter(self.natives)) if name is None else name])
        return vec_env
