"""The view of a MiniGrid world: drawn by MiniGrid's own wrappers, with the mission as text."""

from __future__ import annotations

import string
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from stillsight.envs.options import EnvOptions
from stillsight.envs.suites.minigrid import picture_of
from stillsight.envs.wrappers.rules import skip_frames

WORDS = 512
"""Characters that a mission may have."""


def draw_tiles(env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
    """MiniGrid's own wrapper that draws what the agent sees, or one that looks from above (`view=full`).

    The mission becomes a `Text`: MiniGrid's own space of missions cannot be told from others, nor written down.
    """
    from minigrid.wrappers import RGBImgObsWrapper, RGBImgPartialObsWrapper

    view, tile_size = picture_of(options)
    drawn: Any = (RGBImgObsWrapper if view == "full" else RGBImgPartialObsWrapper)(env, tile_size=tile_size)
    parts = dict(drawn.observation_space.spaces)
    if "mission" in parts:
        parts["mission"] = spaces.Text(WORDS, min_length=0, charset=string.printable)
    drawn.observation_space = spaces.Dict(parts)
    return skip_frames(drawn, options)
