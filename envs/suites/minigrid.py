"""The MiniGrid and BabyAI suites (Chevalier-Boisvert et al. 2019, 2023): grid worlds with a mission in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions
from stillsight.envs.spec import EnvSpec, OwnImage, Preset, Score
from stillsight.envs.suites.suite import EVERY, Suite, rewarding_clock

WORLD = EnvSpec(id="", actions="discrete", extra="minigrid", needs=("minigrid",), options=EnvOptions(size=0))
"""What the agent sees in front of it, 7 x 7 tiles of 8 pixels."""

SUMMARIES = {
    "MiniGrid-Empty-5x5-v0": "walk to the green square of an empty room",
    "MiniGrid-Empty-8x8-v0": "walk to the green square of a larger room",
    "MiniGrid-DoorKey-5x5-v0": "fetch a key, open a door, walk to the green square",
    "MiniGrid-DoorKey-8x8-v0": "the same in a larger room",
    "MiniGrid-FourRooms-v0": "find the green square in four rooms",
    "MiniGrid-LavaGapS5-v0": "walk to the green square past lava",
    "MiniGrid-MultiRoom-N2-S4-v0": "walk through a door to the green square",
    "BabyAI-GoToRedBall-v0": "BabyAI: go to the red ball among distractors",
    "BabyAI-GoToLocal-v0": "BabyAI: go to the thing that the mission names",
}
RANDOM: dict[str, float] = {
    "MiniGrid-Empty-5x5-v0": 0.2033,
    "MiniGrid-Empty-8x8-v0": 0.07476,
    "MiniGrid-DoorKey-5x5-v0": 0.02608,
    "MiniGrid-DoorKey-8x8-v0": 0.0153,
    "MiniGrid-FourRooms-v0": 0.00892,
    "MiniGrid-LavaGapS5-v0": 0.05038,
    "MiniGrid-MultiRoom-N2-S4-v0": 0.0093,
    "BabyAI-GoToRedBall-v0": 0.1888,
    "BabyAI-GoToLocal-v0": 0.1828,
}
ZOO = "rl-baselines3-zoo's benchmark.md"
PUBLISHED = {
    "MiniGrid-DoorKey-5x5-v0": (Score(value=0.964, who="PPO on symbols, 100k", source=ZOO),),
    "MiniGrid-FourRooms-v0": (Score(value=0.573, who="PPO on symbols, 5M", source=ZOO),),
}

VIEWS = ("agent", "full")
TILES = (2, 64)
"""Least and most pixels a side of a tile."""


def register() -> None:
    """Registers every world of both suites."""
    import gymnasium as gym
    import minigrid

    gym.register_envs(minigrid)


def arguments(env_id: str, options: EnvOptions) -> dict[str, Any]:
    """The user's arguments, except `view` and `tile_size`, which are for the picture.

    Raises `EnvError` for values of these that they do not take.
    """
    view, tile_size = picture_of(options)
    if view not in VIEWS:
        raise EnvError(f"{env_id} has no view={view!r}; it takes {' or '.join(VIEWS)}. Type --env-set view=full.")
    if type(tile_size) is not int or not TILES[0] <= tile_size <= TILES[1]:
        raise EnvError(
            f"{env_id} has no tile_size={tile_size!r}; it takes a whole number of pixels, {TILES[0]} to {TILES[1]}. "
            "Type --env-set tile_size=8."
        )
    return {name: value for name, value in options.kwargs if name not in ("view", "tile_size")}


def play_on(env_id: str, world: Any, steps: int) -> None:
    """Raise `EnvError` where a world ends an episode sooner: reaching its goal pays 1 - 0.9 * step / max_steps."""
    own = world.max_steps
    if not getattr(world, "fixed_max_steps", True):  # BabyAI counts by each mission, at the least one way through all
        own = world.room_size**2 * world.num_rows * world.num_cols
    rewarding_clock(env_id, own, steps, f"--env-set max_steps={steps}")


def picture_of(options: EnvOptions) -> tuple[Any, Any]:
    """What is seen, and the pixels a side of a tile, as the user asked."""
    asked = dict(options.kwargs)
    return asked.get("view", "agent"), asked.get("tile_size", 8)


SUITE = Suite(
    name="MiniGrid",
    noun="world",
    place=7,
    default=WORLD,
    rows=tuple(
        replace(
            WORLD,
            id=env_id,
            summary=summary if summary.startswith("BabyAI") else f"MiniGrid: {summary}",
            random=RANDOM.get(env_id),
            published=PUBLISHED.get(env_id, ()),
        )
        for env_id, summary in SUMMARIES.items()
    ),
    presets={
        ("MiniGrid-FourRooms-v0", "ppo"): Preset(
            settings={
                "n_steps": 512,
                "batch_size": 64,
                "n_epochs": 10,
                "learning_rate": 2.5e-4,
                "clip_range": 0.2,
                "ent_coef": 0.0,
            },
            frame_stack=1,
            n_envs=8,
            source="rl-baselines3-zoo's preset of this world, made for symbols and 5 million steps",
        ),
        (EVERY, "ppo"): Preset(
            settings={
                "n_steps": 128,
                "batch_size": 64,
                "n_epochs": 10,
                "learning_rate": 2.5e-4,
                "clip_range": 0.2,
                "ent_coef": 0.0,
            },
            frame_stack=1,  # what it sees of a world has no velocity
            n_envs=8,
            source="rl-baselines3-zoo's preset of MiniGrid-DoorKey-5x5-v0, made for symbols",
        ),
    },
    prefix=("MiniGrid-", "BabyAI-"),
    entry_point="minigrid",
    register=register,
    image=OwnImage("image", larger="--env-set tile_size=8"),
    harmless={
        "view": "agent|full",
        "tile_size": int,
        "max_steps": int,
        "see_through_walls": bool,
        "agent_view_size": int,
    },
    arguments=arguments,
    clock=play_on,
    takes_all=True,
    wrapping="stillsight.envs.adapters.minigrid_view:draw_tiles",
)
