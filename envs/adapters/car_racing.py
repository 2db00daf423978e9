"""Racing: CarRacing drawn only where someone looks: of a skip the last frame, of a track what is in the picture.

Drawing is 97 % of a step of Gymnasium's environment (1.4). It draws every frame, those that a frame skip throws away as
well, and turns all 800 polygons of grass and road in Python, of which some 60 are to be seen.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.box2d.car_racing import STATE_H, STATE_W, WINDOW_H, WINDOW_W, CarRacing
from numpy.typing import NDArray

from stillsight.envs.options import EnvOptions
from stillsight.envs.wrappers.rules import skip_frames

EDGE = 2.0
"""Pixels that a smooth outline may reach beyond its polygon, and more than that."""


class Polygons(NamedTuple):
    """What a track is drawn with, in its order.

    Attributes:
        shapes: corners and colour of each, and whether it is left out beyond the window.
        centres: of the shapes, `[shapes, 2]`, in metres.
        reach: from the centre to the furthest corner, `[shapes]`.
    """

    shapes: list[tuple[Any, Any, bool]]
    centres: NDArray[np.float64]
    reach: NDArray[np.float64]

    @classmethod
    def of(cls, shapes: list[tuple[Any, Any, bool]]) -> Polygons:
        """The shapes with what tells where each of them is."""
        centres = np.array([np.mean(corners, axis=0) for corners, _, _ in shapes])
        reach = [
            np.linalg.norm(np.array(corners) - centre, axis=1).max()
            for (corners, _, _), centre in zip(shapes, centres, strict=True)
        ]
        return cls(shapes, centres, np.array(reach))

    def seen(self, zoom: float, translation: tuple[float, float], angle: float) -> list[int]:
        """Numbers of the shapes that may reach into the window, in their order; all others are outside."""
        sine, cosine = math.sin(angle), math.cos(angle)
        turned = self.centres @ np.array([[cosine, sine], [-sine, cosine]])
        away = np.abs(turned * zoom + translation - np.array([WINDOW_W, WINDOW_H]) / 2)
        inside = away <= np.array([WINDOW_W, WINDOW_H]) / 2 + (self.reach * zoom + EDGE)[:, None]
        return [int(number) for number in np.flatnonzero(inside.all(axis=1))]


class Racing(CarRacing):
    """The same game, whose `step` and `reset` return the picture of the last `draw`, uint8 `[96, 96, 3]`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drawn = np.zeros((STATE_H, STATE_W, 3), np.uint8)
        self._shown = 0.0
        self._track: Any = None
        self._polygons = Polygons([], np.zeros((0, 2)), np.zeros(0))
        self._noted: list[tuple[Any, Any, bool]] | None = None

    def draw(self) -> NDArray[np.uint8]:
        """The game as it stands, uint8 `[96, 96, 3]`: what Gymnasium's own would have observed."""
        reward, self.reward = self.reward, self._shown
        self._drawn = super()._render("state_pixels")
        self.reward = reward
        return self._drawn

    def _render(self, mode: str) -> Any:
        if mode != "state_pixels":
            return super()._render(mode)
        self._shown = self.reward  # the picture's number: Gymnasium draws before it takes the frame's cost off
        return self._drawn.copy()  # Gymnasium's checker warns of observations that share their memory

    def _render_road(self, zoom: float, translation: tuple[float, float], angle: float) -> None:
        if self._track is not self.road_poly:  # every reset makes a new list
            self._noted = []
            super()._render_road(zoom, translation, angle)  # type: ignore[no-untyped-call]
            self._track, self._polygons, self._noted = self.road_poly, Polygons.of(self._noted), None
        road = len(self._polygons.shapes) - len(self.road_poly)
        for number in self._polygons.seen(zoom, translation, angle):
            corners, colour, clip = self._polygons.shapes[number]
            if number >= road:  # tiles that were driven over take another colour
                colour = [int(channel) for channel in self.road_poly[number - road][1]]
            self._draw_colored_polygon(self.surf, corners, colour, zoom, translation, angle, clip)

    def _draw_colored_polygon(
        self, surface: Any, poly: Any, color: Any, zoom: Any, translation: Any, angle: Any, clip: bool = True
    ) -> None:
        if self._noted is None:
            super()._draw_colored_polygon(surface, poly, color, zoom, translation, angle, clip)  # type: ignore[no-untyped-call]
        else:
            self._noted.append((poly, color, clip))


class Drawn(gym.ObservationWrapper[NDArray[np.uint8], Any, Any]):
    """Observes a `Racing` as it stands; to be worn outside a frame skip."""

    def observation(self, observation: Any) -> NDArray[np.uint8]:
        """The picture of now in place of the last one drawn."""
        del observation
        game = self.env.unwrapped
        assert isinstance(game, Racing)
        return game.draw()


def draw_what_is_seen(env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
    """A `Racing` with its frames skipped, `Drawn` outside the skip: the other frames nobody sees."""
    return Drawn(skip_frames(env, options))
