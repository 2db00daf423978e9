"""Which environments there are: rows for the known ones, and the rule for every other Gymnasium id.

Reading the rows costs no import beyond the standard library; `resolve` imports Gymnasium.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions

Actions = Literal["discrete", "continuous", "unknown"]

ATARI = EnvOptions(size=84, frame_skip=4, clip_rewards=True, noop_max=30)
"""Defaults of every Atari game. Size, skip and reward signs are Nature DQN's (Mnih et al. 2015), as are the 30 no-ops.
Whole games rather than lives, and the v5 ids' sticky actions (0.25), follow Machado et al. (2018)."""

DOOM = EnvOptions(size=64, frame_skip=4, kwargs=(("screen_resolution", "RES_160X120"),))
"""Defaults of every ViZDoom scenario: 4 frames an action, the usual choice (Kempka et al. 2016 compare others), drawn
at 160 x 120, its smallest screen, which takes a third of the time of the scenarios' own 320 x 240."""


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """What is known of an environment before it is built."""

    id: str
    """The id as a user types it: a Gymnasium id, or `module:Id` for one that a module registers when imported."""
    summary: str = ""
    """One line for lists and cards; empty for an id without a row."""
    actions: Actions = "unknown"
    extra: str | None = None
    """The pip extra of stillsight that brings what it needs."""
    needs: tuple[str, ...] = ()
    """The modules, brought by the extra, that must be importable."""
    options: EnvOptions = field(default_factory=EnvOptions)
    """How it is shown to an agent unless the user asks otherwise."""


def _atari(game: str, summary: str = "") -> EnvSpec:
    return EnvSpec(
        id=f"ALE/{game}-v5", summary=summary, actions="discrete", extra="atari", needs=("ale_py",), options=ATARI
    )


def _doom(scenario: str, summary: str = "") -> EnvSpec:
    return EnvSpec(
        id=f"Vizdoom{scenario}-v1",
        summary=summary,
        actions="discrete" if summary else "unknown",  # ids without a row may take several buttons at once
        extra="vizdoom",
        needs=("vizdoom",),
        options=DOOM,
    )


_ORCHARD = EnvOptions(size=0)  # 48 x 48 by birth

_ROWS = (
    EnvSpec(
        id="stillsight/Orchard-v0",
        summary="catch fruit, dodge stones and wasps; needs no extra, best return exactly 6",
        actions="discrete",
        options=_ORCHARD,
    ),
    EnvSpec(
        id="stillsight/OrchardContinuous-v0",
        summary="the same orchard with a continuous velocity",
        actions="continuous",
        options=_ORCHARD,
    ),
    _atari("Pong", "Atari tennis, returns -21 to 21"),
    _atari("Breakout", "Atari bricks and a ball"),
    _atari("SpaceInvaders", "Atari shooter, thin laser shots"),
    _atari("Qbert", "Atari pyramid hopping"),
    _atari("Seaquest", "Atari submarine"),
    _atari("BeamRider", "Atari space lanes"),
    _atari("Enduro", "Atari car race by day and night"),
    _atari("MsPacman", "Atari maze"),
    _atari("Freeway", "Atari chicken crossing"),
    _atari("Boxing", "Atari boxing seen from above"),
    _doom("Basic", "ViZDoom: line up with a monster and shoot it"),
    _doom("HealthGathering", "ViZDoom: find medikits on a floor of acid, returns up to 2100"),
    _doom("HealthGatheringSupreme", "ViZDoom: the same in a maze with poison"),
    _doom("DefendCenter", "ViZDoom: turn about and shoot what closes in"),
    _doom("DefendLine", "ViZDoom: shoot what comes from the other side"),
    _doom("TakeCover", "ViZDoom: step out of the way of fireballs"),
    _doom("MyWayHome", "ViZDoom: find a vest in a maze of rooms"),
    _doom("PredictPosition", "ViZDoom: hit a moving monster with one slow rocket"),
    _doom("DeadlyCorridor", "ViZDoom: run past shooting monsters to a vest"),
    EnvSpec(
        id="CarRacing-v3",
        summary="drive a random track seen from above; steering, gas, brake",
        actions="continuous",
        extra="box2d",
        needs=("Box2D", "pygame"),
        # Native 96 x 96; a skip of 2 is rl-baselines3-zoo's recipe for PPO and SAC on this environment.
        options=EnvOptions(size=0, frame_skip=2),
    ),
    EnvSpec(
        id="CartPole-v1",
        summary="balance a pole, seen through rendered pixels",
        actions="discrete",
        extra="box2d",  # for pygame, which draws it
        needs=("pygame",),
    ),
    EnvSpec(
        id="Pendulum-v1",
        summary="swing a pole up, seen through rendered pixels",
        actions="continuous",
        extra="box2d",
        needs=("pygame",),
    ),
)

ROWS: dict[str, EnvSpec] = {row.id: row for row in _ROWS}
"""The known environments by id. A new one is a new row; a third party needs none (`module:Id`)."""


def presumed(env_id: str) -> EnvSpec:
    """What `env_id` stands for as far as its name tells, without anything being imported."""
    name = env_id.rpartition(":")[2]
    if name in ROWS:
        return ROWS[name]
    return _atari("") if name.startswith("ALE/") else _doom("") if name.startswith("Vizdoom") else EnvSpec(id=name)


def is_atari(env_id: str) -> bool:
    """Whether an id that Gymnasium knows is played by ale_py, whatever its name."""
    return _player(env_id).startswith("ale_py")


def is_doom(env_id: str) -> bool:
    """Whether an id that Gymnasium knows is played by vizdoom."""
    return _player(env_id).startswith("vizdoom")


def is_racing(env_id: str) -> bool:
    """Whether an id that Gymnasium knows is its own CarRacing, and no other class."""
    return _player(env_id) == "gymnasium.envs.box2d.car_racing:CarRacing"


def _player(env_id: str) -> str:
    """What Gymnasium makes an id from, as text; "" for an id that it does not know."""
    import gymnasium as gym

    spec = gym.registry.get(env_id.rpartition(":")[2])
    return "" if spec is None else str(spec.entry_point)


def resolve(env_id: str) -> EnvSpec:
    """What `env_id` stands for, with all that it needs imported and registered, but nothing built.

    A row's id gives the row; `ALE/...` any Atari game; `Vizdoom...` any ViZDoom scenario or level; `module:Id` imports
    the module first; any other id is looked up in Gymnasium and gets `EnvOptions()`.

    Raises `EnvError` for an id that nobody registered (with the nearest one that somebody did), for a module that
    cannot be found, and for a missing extra (with the command that installs it).
    """
    import gymnasium as gym

    import_module("stillsight.envs.orchard.orchard")  # registers the project's own ids
    module, colon, name = env_id.rpartition(":")
    if colon:
        _import(module, env_id)
    row = ROWS.get(name)
    _require(env_id, presumed(name))
    if name.startswith("Vizdoom"):
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # vizdoom imports pygame, which greets
        import_module("vizdoom.gymnasium_wrapper")
    if name.startswith("ALE/") or name not in gym.registry:
        _register_atari()
    if name not in gym.registry:
        found = f"The module {module!r} registers no {name!r}." if colon else f"No environment is called {name!r}."
        near = _nearest(name, sorted({*ROWS, *gym.registry}))
        raise EnvError(
            f"{found} Did you mean {near!r}? Any Gymnasium id works, and module:Id for one that your own module "
            "registers."
        )
    if row is None:
        row = _atari("") if is_atari(name) else _doom("") if is_doom(name) else EnvSpec(id=name)
    return replace(row, id=env_id)


def _require(env_id: str, spec: EnvSpec) -> None:
    if missing := [module for module in spec.needs if find_spec(module) is None]:
        raise EnvError(
            f'{env_id} needs {" and ".join(missing)}, not found here. Run: pip install "stillsight[{spec.extra}]"'
        )


def _register_atari() -> None:
    if find_spec("ale_py") is not None:
        import gymnasium as gym

        ale_py = import_module("ale_py")
        gym.register_envs(ale_py)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for each of a hundred games


def _import(module: str, env_id: str) -> None:
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        # Only the module that was named is the user's slip; an import that fails inside it is a bug to be seen.
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise
        raise EnvError(
            f"The module {module!r} of {env_id!r} cannot be found. Write module:Id with a module that Python can "
            "import from here, for example: PYTHONPATH=. stillsight rl --env my_module:My-v0"
        ) from error


def _nearest(name: str, known: list[str]) -> str:
    # People leave out the namespace and change the case far more often than they misspell a game.
    short = {known_id.lower(): known_id for known_id in reversed(known)}
    short |= {known_id.rpartition("/")[2].lower(): known_id for known_id in reversed(known)}
    near = difflib.get_close_matches(name.lower(), short, n=1, cutoff=0.5)
    near = near or difflib.get_close_matches(name.rpartition("/")[2].lower(), short, n=1, cutoff=0.0)
    return short[near[0]]
