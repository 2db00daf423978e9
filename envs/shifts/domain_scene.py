"""Domain randomisation that environments bring themselves: its colours and lights alone, by a generator of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from stillsight.envs.errors import EnvError
from stillsight.envs.shifts.pictures import Pictures
from stillsight.envs.shifts.staged import Scene
from stillsight.envs.wrappers.parts import name

COLOURS = ("road_color", "bg_color", "grass_color")
"""What CarRacing's `domain_randomize` draws."""
SEEN = (
    *("sky_color", "light_pos", "light_color", "light_ambient", "obj_color_bias"),
    *("cam_pitch", "cam_fov_y", "cam_height", "cam_fwd_disp"),
)
"""Those parameters of MiniWorld's `domain_rand` that change what is seen. The others change steps and turns: another
game."""


class Domain(Scene):
    """The colours and lights of an environment's own domain randomisation, as far away from its defaults as the
    strength says: at 1 as the environment draws them.

    CarRacing's (`domain_randomize`) are drawn by its own code; MiniWorld's parameters (`domain_rand`) uniformly from
    its own ranges. The environment's argument must be left alone: with it the game draws them itself, by the numbers
    that decide its tracks and rooms, too.
    """

    def __init__(self, env: gym.Env[Any, Any], strength: float, _pictures: Pictures | None) -> None:
        bare: Any = env.unwrapped
        given: dict[str, Callable[[Any, float], Drawing]] = {
            "domain_randomize": CarRacingColours,
            "domain_rand": MiniWorldParameters,
        }
        argument = next((argument for argument in given if hasattr(bare, argument)), None)
        if argument is None:
            raise EnvError(f"{name(env)} has no domain randomisation of its own. CarRacing and MiniWorld have.")
        if getattr(bare, argument):
            raise EnvError(
                f"{name(env)} was made with {argument}, and the shift domain draws in its place. Drop one of them."
            )
        self._draw = given[argument](bare, strength)

    def begin(self, random: np.random.Generator) -> None:
        """Colours and lights of an episode."""
        self._draw(random)

    def show(self, step: int) -> None:
        """They stay for an episode."""


class Drawing(Protocol):
    """Draws an episode's colours."""

    def __call__(self, random: np.random.Generator) -> None:
        """Put them into the environment, before it is reset."""


class CarRacingColours:
    """CarRacing's: road, ground and grass."""

    def __init__(self, game: Any, strength: float) -> None:
        self._game, self._strength = game, strength
        self._plain = {colour: np.array(getattr(game, colour), np.float64) for colour in COLOURS}

    def __call__(self, random: np.random.Generator) -> None:
        """By the game's own code, with this generator in place of its own."""
        game, own = self._game, self._game._np_random
        game._np_random, game.domain_randomize = random, True
        try:
            game._init_colors()
        finally:
            game._np_random, game.domain_randomize = own, False
        for colour, plain in self._plain.items():
            setattr(game, colour, (1.0 - self._strength) * plain + self._strength * getattr(game, colour))


class MiniWorldParameters:
    """MiniWorld's: sky, light, colours of things, and the camera."""

    def __init__(self, world: Any, strength: float) -> None:
        self._world, self._strength = world, strength
        self._plain = world.params

    def __call__(self, random: np.random.Generator) -> None:
        """As the defaults of the parameters, which a world takes that is not to draw any."""
        drawn = self._plain.copy()
        for parameter in (one for one in SEEN if one in drawn.params):
            default, low, high, kind = self._plain.params[parameter]
            value = (1.0 - self._strength) * default + self._strength * random.uniform(low, high)
            drawn.set(parameter, value, type=kind)
        self._world.params = drawn
