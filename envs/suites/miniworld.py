"""The MiniWorld suite (Chevalier-Boisvert et al. 2023): rooms in three dimensions, seen from within."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stillsight.envs.adapters.rendering import prepare
from stillsight.envs.options import EnvOptions
from stillsight.envs.shifts.rows import DOMAIN_SCENES
from stillsight.envs.spec import EnvSpec, OwnImage
from stillsight.envs.suites.suite import Suite, rewarding_clock

ROOM = EnvSpec(id="", actions="discrete", extra="miniworld", needs=("miniworld", "pyglet"), options=EnvOptions(size=0))
"""At its own 80 x 60 pixels."""

SUMMARIES = {
    "MiniWorld-OneRoom-v0": "walk to a red box in a room",
    "MiniWorld-Hallway-v0": "walk to a red box at the end of a hall",
    "MiniWorld-FourRooms-v0": "find a red box in four rooms",
    "MiniWorld-MazeS3-v0": "find a red box in a maze of nine rooms",
    "MiniWorld-PickupObjects-v0": "pick up what lies about",
}
RANDOM: dict[str, float] = {
    "MiniWorld-OneRoom-v0": 0.1125,
    "MiniWorld-Hallway-v0": 0.1893,
    "MiniWorld-FourRooms-v0": 0.09144,
    "MiniWorld-MazeS3-v0": 0.08869,
    "MiniWorld-PickupObjects-v0": 0.33,
}


def register() -> None:
    """Registers every world. MiniWorld imports pyglet's windows, which must know before that there is no display."""
    import gymnasium as gym

    prepare("opengl", "MiniWorld")
    import miniworld

    gym.register_envs(miniworld)


def play_on(env_id: str, world: Any, steps: int) -> None:
    """Raise `EnvError` where a world ends an episode sooner: its goal pays 1 - 0.2 * step / max_episode_steps."""
    rewarding_clock(env_id, world.max_episode_steps, steps)


SUITE = Suite(
    name="MiniWorld",
    noun="world",
    place=11,
    default=ROOM,
    rows=tuple(
        replace(ROOM, id=env_id, summary=f"MiniWorld: {summary}", random=RANDOM.get(env_id))
        for env_id, summary in SUMMARIES.items()
    ),
    prefix="MiniWorld-",
    entry_point="miniworld",
    base="miniworld.miniworld:MiniWorldEnv",
    register=register,
    draws="opengl",
    wrapping="stillsight.envs.adapters.own_context:draw_in_own_scene",
    image=OwnImage("", larger="--env-set obs_width=80 --env-set obs_height=60"),
    shifts=DOMAIN_SCENES,
    clock=play_on,
    harmless={"domain_rand": bool, "obs_width": int, "obs_height": int, "view": "agent|top"},
)
