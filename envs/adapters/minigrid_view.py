"""The view of a MiniGrid world: drawn by MiniGrid's own wrappers, with the mission as text."""

from __future__ import annotations

import io
import string
from contextlib import redirect_stdout
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from stillsight.envs.options import EnvOptions
from stillsight.envs.suites.minigrid import picture_of
from stillsight.envs.wrappers.rules import skip_frames

WORDS = 512
"""Characters that a mission may have."""


class Hushed(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps to itself what BabyAI (of minigrid 3.2) prints while it looks for a world whose mission can be done."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new world."""
        with redirect_stdout(io.StringIO()):
            return self.env.reset(seed=seed, options=options)


def draw_tiles(env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
    """MiniGrid's own wrapper that draws what the agent sees, or one that looks from above (`view=full`).

    The mission becomes a `Text`: MiniGrid's own space of missions cannot be told from others, nor written down.
    """
    from minigrid.wrappers import RGBImgObsWrapper, RGBImgPartialObsWrapper

    view, tile_size = picture_of(options)
    drawn: Any = (RGBImgObsWrapper if view == "full" else RGBImgPartialObsWrapper)(Hushed(env), tile_size=tile_size)
    parts = dict(drawn.observation_space.spaces)
    if "mission" in parts:
        parts["mission"] = spaces.Text(WORDS, min_length=0, charset=string.printable)
    drawn.observation_space = spaces.Dict(parts)
    return skip_frames(drawn, options)
