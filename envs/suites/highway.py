"""The highway-env suite (Leurent 2018): driving among other cars, seen from above."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import replace
from typing import Any

from stillsight.envs.errors import EnvError, did_you_mean
from stillsight.envs.options import EnvOptions, Scalar
from stillsight.envs.spec import EnvSpec, Preset
from stillsight.envs.suites.suite import EVERY, Suite

ROAD: tuple[tuple[str, Scalar], ...] = (("screen_width", 128), ("screen_height", 64), ("scaling", 1.75))
"""Its documentation's size and pixels a metre of pictures to learn from, in colour; a car is 9 x 4 pixels."""

SQUARE: tuple[tuple[str, Scalar], ...] = (("screen_width", 128), ("screen_height", 128), ("scaling", 1.75))

DRIVE = EnvSpec(id="", extra="highway", needs=("highway_env",), options=EnvOptions(size=0, kwargs=SQUARE))

ROWS = {
    "highway-fast-v0": ("overtake on a motorway of three lanes", "discrete", ROAD),
    "highway-v0": ("the same with more cars, and slower", "discrete", ROAD),
    "merge-v1": ("let a car merge", "discrete", ROAD),
    "exit-v1": ("take an exit", "discrete", ROAD),
    "roundabout-v1": ("cross a roundabout", "discrete", SQUARE),
    "intersection-v2": ("turn left through crossing cars", "discrete", SQUARE),
    "racetrack-v1": ("follow a track by steering", "continuous", SQUARE),
    "parking-v0": ("park", "continuous", SQUARE),
}
RANDOM: dict[str, float] = {
    "highway-fast-v0": 8.182,
    "highway-v0": 11.46,
    "merge-v1": 7.343,
    "exit-v1": 0.5037,
    "roundabout-v1": 7.173,
    "intersection-v2": 1.509,
    "racetrack-v1": 5.515,
    "parking-v0": -46.33,
}


RULES = ("DISTANCE_WANTED", "COMFORT_ACC_MAX", "COMFORT_ACC_MIN")
"""What an intersection of highway-env (1.12) writes into the class of all drivers at each reset: distances in metres
and accelerations in m/s2."""

FIRST_RULES: dict[type, dict[str, float]] = {}
"""Those of each class of drivers before anything was made here, see `remember_rules`."""


def rules_of(drivers: type) -> dict[str, float]:
    """The rules that a class of drivers has at the moment."""
    return {rule: getattr(drivers, rule) for rule in RULES if hasattr(drivers, rule)}


def remember_rules(drivers: type) -> None:
    """Keep the rules of a class of drivers, and of those that are built on it, the first time that they are seen.

    It must be called before a road is made: an intersection writes its own rules while it is built, which would be
    taken for everybody's.
    """
    FIRST_RULES.setdefault(drivers, rules_of(drivers))
    further: type
    for further in drivers.__subclasses__():
        remember_rules(further)


def register() -> None:
    """Registers every road, and keeps the rules of the drivers as they are before one is made."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not os.environ.get("DISPLAY"):
        # Else SDL looks for a display, and complains. By "dummy", the usual choice, highway-env draws nothing.
        os.environ.setdefault("SDL_VIDEODRIVER", "offscreen")
    import gymnasium as gym
    import highway_env
    from highway_env.vehicle.behavior import IDMVehicle

    gym.register_envs(highway_env)
    remember_rules(IDMVehicle)


def check_drawing(env_id: str) -> None:
    """Raise `EnvError` where pygame is told not to draw."""
    if os.environ.get("SDL_VIDEODRIVER") == "dummy":
        raise EnvError(
            f"{env_id} would be black: SDL_VIDEODRIVER is dummy, by which highway-env draws nothing. Type: export "
            "SDL_VIDEODRIVER=offscreen"
        )


def arguments(env_id: str, options: EnvOptions) -> dict[str, Any]:
    """The user's arguments as the `config` of highway-env, drawn off the screen.

    Raises `EnvError` for a setting that the environment does not have, which highway-env would take and do nothing, and
    where pygame is told not to draw: then its pictures are black.
    """
    import gymnasium as gym
    from gymnasium.envs.registration import load_env_creator
    from highway_env.utils import class_from_path

    check_drawing(env_id)
    registered = gym.registry[env_id.rpartition(":")[2]]
    entry: Any = registered.entry_point
    creator: Any = load_env_creator(entry) if isinstance(entry, str) else entry
    known = creator.default_config()
    for name, _ in options.kwargs:
        if name not in known:
            raise EnvError(
                f"{env_id} has no setting {name!r}.{did_you_mean(name, known)} Settings are those of highway-env's "
                "config that are numbers or words. Type, say: --env-set vehicles_count=20"
            )
    config = {**(registered.kwargs.get("config") or {}), "offscreen_rendering": True}
    if options.max_episode_steps and "duration" in known:
        config["duration"] = math.inf  # ours takes the place of the road's own clock, on which nothing else depends
    config |= dict(options.kwargs)
    with suppress(ImportError, AttributeError, ValueError):  # a slip in its name is told when the road is made
        remember_rules(class_from_path({**known, **config}["other_vehicles_type"]))
    return {"config": config}


SUITE = Suite(
    name="highway-env",
    noun="road",
    place=8,
    default=DRIVE,
    rows=tuple(
        replace(
            DRIVE,
            id=env_id,
            summary=f"highway-env: {summary}",
            actions=actions,  # type: ignore[arg-type]
            options=EnvOptions(size=0, kwargs=drawn),
            random=RANDOM.get(env_id),
        )
        for env_id, (summary, actions, drawn) in ROWS.items()
    ),
    presets={
        (EVERY, "dqn"): Preset(
            settings={
                "learning_rate": 5e-4,
                "buffer_size": 15_000,
                "learning_starts": 200,
                "batch_size": 32,
                "gamma": 0.8,
                "train_freq": 1,
                "gradient_steps": 1,
                "target_update_interval": 50,
                "exploration_fraction": 0.7,
                "exploration_final_eps": 0.05,
            },
            source="highway-env's own script sb3_highway_dqn_cnn.py, made for 100,000 steps",
        ),
    },
    unprefixed=True,
    entry_point="highway_env",
    base="highway_env.envs.common.abstract:AbstractEnv",
    register=register,
    reserved={
        "config": "its settings are arguments of their own, say --env-set vehicles_count=20",
        "offscreen_rendering": "it is always True",
        "manual_control": "an agent drives",
    },
    harmless={
        "screen_width": int,
        "screen_height": int,
        "scaling": float,
        "vehicles_count": int,
        "lanes_count": int,
        "duration": int,
        "policy_frequency": int,
        "simulation_frequency": int,
    },
    arguments=arguments,
    takes_all=True,
    wrapping="stillsight.envs.adapters.highway_rules:drive_by_own_rules",
)
