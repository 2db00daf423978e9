"""What an orchard looks like: backgrounds, fruit, hazards and the basket, drawn with numpy alone.

All kinds share one list of hues, fruit have a green leaf and stones green moss, fruit a white highlight and wasps white
wings: the colours of an object say nothing about whether to catch it.
"""

from __future__ import annotations

from collections.abc import Callable
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Colour = tuple[float, float, float] | NDArray[np.float64]

SIZE = 48
"""Side of the square frame in pixels."""
FRUIT = ("apple", "pear", "cherries")
HAZARDS = ("stone", "wasp")
KINDS = FRUIT + HAZARDS
"""Every kind of object; an index into this tuple names a kind."""
HUES = (0.0, 0.08, 0.15, 0.30, 0.78, 0.92)
"""Red, orange, yellow, green, violet, pink, as parts of the colour circle."""

_FINE = 8  # sub-pixels per pixel and axis: the sprites' edges are smoothed by averaging
_INK = (0.10, 0.07, 0.10)
_LEAF = (0.30, 0.62, 0.22)
_WHITE = (0.97, 0.97, 0.95)


@dataclass(frozen=True)
class Sprite:
    """A small picture with soft edges, ready to be mixed into a frame."""

    ink: NDArray[np.uint16]
    """`[h, w, 3]`: colour times opacity times 255, 0..65025."""
    clear: NDArray[np.uint16]
    """`[h, w, 1]`: how much of the background shows through, 0..255."""


def place(frame: NDArray[np.uint8], sprite: Sprite, row: int, column: int) -> None:
    """Mix a sprite into `frame` `[H, W, 3]` in place, its centre at (row, column); it must fit inside."""
    height, width = sprite.clear.shape[:2]
    top, left = row - height // 2, column - width // 2
    window = frame[top : top + height, left : left + width]
    window[:] = (sprite.ink + sprite.clear * window) // 255


class _Canvas:
    """A drawing surface with x and y from -1 to 1 and x to the right, y downwards."""

    def __init__(self, height: int, width: int) -> None:
        rows, columns = height * _FINE, width * _FINE
        y = (np.arange(rows) + 0.5) / rows * 2 - 1
        x = (np.arange(columns) + 0.5) / columns * 2 - 1
        self.y, self.x = np.meshgrid(y, x, indexing="ij")
        self.pixels = np.zeros((rows, columns, 4))

    def disc(self, x: float, y: float, rx: float, ry: float | None = None, turn: float = 0.0) -> Mask:
        """An ellipse of radii `rx`, `ry` (a circle without `ry`), turned by `turn` radians."""
        dx, dy = self.x - x, self.y - y
        along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        inside: Mask = (along / rx) ** 2 + (across / (ry or rx)) ** 2 <= 1.0
        return inside

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float) -> Mask:
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
        return np.hypot(self.x - x0 - along * dx, self.y - y0 - along * dy) <= width / 2

    def paint(self, mask: Mask, colour: Colour, shade: NDArray[np.float64] | float = 1.0) -> None:
        field = np.clip(np.multiply.outer(np.broadcast_to(shade, mask.shape), np.asarray(colour)), 0.0, 1.0)
        self.pixels[mask, :3] = field[mask]
        self.pixels[mask, 3] = 1.0

    def sprite(self) -> Sprite:
        rows, columns = self.pixels.shape[:2]
        premultiplied = self.pixels.copy()
        premultiplied[..., :3] *= self.pixels[..., 3:]
        small = premultiplied.reshape(rows // _FINE, _FINE, columns // _FINE, _FINE, 4).mean(axis=(1, 3))
        clear = np.rint((1.0 - small[..., 3:]) * 255).astype(np.uint16)
        # Rounding colour and opacity apart could pass 255 by one; the cap keeps `place` inside uint8.
        ink = np.minimum(np.rint(small[..., :3] * 255) * 255, (255 - clear) * 255.0).astype(np.uint16)
        return Sprite(ink, clear)


def _ball(canvas: _Canvas, x: float, y: float, radius: float, colour: Colour) -> None:
    light = 1.12 - 0.55 * np.hypot(canvas.x - x + 0.4 * radius, canvas.y - y + 0.4 * radius) / (1.4 * radius)
    canvas.paint(canvas.disc(x, y, radius), colour, light)
    canvas.paint(canvas.disc(x - 0.35 * radius, y - 0.35 * radius, 0.27 * radius), _WHITE)


def _apple(canvas: _Canvas, colour: Colour) -> None:
    canvas.paint(canvas.disc(0.0, 0.14, 0.86), _INK)
    canvas.paint(canvas.line(0.0, -0.5, 0.08, -0.95, 0.16), _INK)
    _ball(canvas, 0.0, 0.14, 0.72, colour)
    canvas.paint(canvas.disc(0.42, -0.76, 0.36, 0.2, -0.3), _LEAF)


def _pear(canvas: _Canvas, colour: Colour) -> None:
    canvas.paint(canvas.line(0.0, -0.5, 0.1, -0.98, 0.16), _INK)
    canvas.paint(canvas.disc(0.0, 0.36, 0.64) | canvas.disc(0.0, -0.25, 0.46), _INK)
    canvas.paint(canvas.disc(0.0, -0.25, 0.33), colour, 1.0)
    _ball(canvas, 0.0, 0.36, 0.51, colour)
    canvas.paint(canvas.disc(0.44, -0.72, 0.34, 0.19, -0.3), _LEAF)


def _cherries(canvas: _Canvas, colour: Colour) -> None:
    for x, y in ((-0.5, 0.4), (0.5, 0.48)):
        canvas.paint(canvas.line(x, y, 0.1, -0.8, 0.15), _INK)
        canvas.paint(canvas.disc(x, y, 0.48), _INK)
        _ball(canvas, x, y, 0.37, colour)
    canvas.paint(canvas.disc(0.42, -0.74, 0.42, 0.22, -0.2), _LEAF)


def _stone(canvas: _Canvas, colour: Colour) -> None:
    # A pentagon as half-planes (direction in radians, distance); flat facets and a crack, no round shading.
    sides = ((0.75, 0.72), (1.57, 0.86), (2.5, 0.78), (3.7, 0.74), (5.2, 0.72))
    depth = np.min([d - canvas.x * np.cos(a) - canvas.y * np.sin(a) for a, d in sides], axis=0)
    canvas.paint(depth >= 0.0, _INK)
    facets = np.where(canvas.x + 0.9 * canvas.y < -0.1, 1.05, np.where(canvas.y > 0.9 * canvas.x, 0.45, 0.75))
    canvas.paint(depth >= 0.14, colour, facets)
    canvas.paint(canvas.line(0.1, -0.6, 0.25, 0.0, 0.16) | canvas.line(0.25, 0.0, -0.05, 0.5, 0.16), _INK)
    canvas.paint(canvas.disc(-0.35, 0.62, 0.34, 0.2) & (depth >= 0.14), _LEAF)


def _wasp(canvas: _Canvas, colour: Colour) -> None:
    for x, turn in ((-0.35, 0.9), (0.3, 2.2)):
        canvas.paint(canvas.disc(x, -0.5, 0.50, 0.30, turn), _INK)
        canvas.paint(canvas.disc(x, -0.5, 0.38, 0.19, turn), _WHITE)
    canvas.paint(canvas.line(0.7, 0.32, 0.98, 0.45, 0.16), _INK)
    canvas.paint(canvas.disc(0.0, 0.25, 0.86, 0.52), _INK)
    body = canvas.disc(0.0, 0.25, 0.74, 0.40)
    canvas.paint(body, colour)
    canvas.paint(body & ((np.abs(canvas.x + 0.08) < 0.11) | (np.abs(canvas.x - 0.36) < 0.11)), _INK)
    canvas.paint(body & (canvas.x < -0.48), _INK)


_DRAW: dict[str, Callable[[_Canvas, Colour], None]] = {
    "apple": _apple,
    "pear": _pear,
    "cherries": _cherries,
    "stone": _stone,
    "wasp": _wasp,
}


@cache
def sprites() -> tuple[tuple[Sprite, ...], ...]:
    """Every object, 11 x 11 pixels, as `sprites()[kind][hue]`; drawn once per process."""

    def draw(kind: str, hue: float) -> Sprite:
        canvas = _Canvas(11, 11)
        _DRAW[kind](canvas, np.array(hsv_to_rgb(hue, 0.85, 0.95)))
        return canvas.sprite()

    return tuple(tuple(draw(kind, hue) for hue in HUES) for kind in KINDS)


@cache
def basket() -> Sprite:
    """The basket, 9 x 13 pixels: dark outline, woven sides, a bright rim."""
    canvas = _Canvas(9, 13)
    wall = np.abs(canvas.x) <= 1.0 - 0.12 * (canvas.y + 1.0)
    inside = (np.abs(canvas.x) <= 0.85 - 0.12 * (canvas.y + 1.0)) & (np.abs(canvas.y) <= 0.8)
    weave = 0.8 + 0.25 * ((np.floor(canvas.x * 4.3) + np.floor(canvas.y * 3.0)) % 2)
    canvas.paint(wall, _INK)
    canvas.paint(inside, (0.80, 0.56, 0.28), weave)
    canvas.paint(wall & (canvas.y > -0.78) & (canvas.y < -0.45), (0.98, 0.86, 0.58))
    return canvas.sprite()


@cache
def _stretch(coarse: int) -> NDArray[np.float64]:
    """`[48, coarse]`: straight-line interpolation from `coarse` values to the frame's 48."""
    position = np.linspace(0.0, coarse - 1.0, SIZE)[:, None]
    return np.maximum(0.0, 1.0 - np.abs(position - np.arange(coarse)))


def background(random: np.random.Generator) -> NDArray[np.uint8]:
    """A new scene, uint8 `[48, 48, 3]`: a sky between two colours, three ranges of hills, cloudy and grainy texture.

    Paler than the objects: a scene is there to vary what an encoder sees, not to hide what matters.
    """

    def colour(saturation: float, value: float) -> NDArray[np.float64]:
        return np.array(hsv_to_rgb(random.random(), saturation * random.uniform(0.5, 1.0), value))

    down = np.linspace(0.0, 1.0, SIZE)[:, None, None]
    sky_top, sky_low = colour(0.35, random.uniform(0.75, 0.9)), colour(0.3, random.uniform(0.85, 0.97))
    scene = np.broadcast_to(sky_top + down * (sky_low - sky_top), (SIZE, SIZE, 3)).copy()
    x, y = np.linspace(0.0, 2 * np.pi, SIZE), np.arange(SIZE)[:, None]
    for layer, value in enumerate((0.80, 0.71, 0.62)):
        slow, fast = random.uniform(0.4, 1.2), random.uniform(1.5, 3.0)
        phase, other = random.uniform(0.0, 2 * np.pi, 2)
        crest = 21 + 8 * layer + random.uniform(-3, 3) + 4 * np.sin(slow * x + phase) + 2 * np.sin(fast * x + other)
        scene[y >= crest] = colour(0.4, value)
    stretch = _stretch(9)
    # Mostly light and shadow, a little colour.
    coarse = random.normal(0.0, 0.03, (1, 9, 9)) + random.normal(0.0, 0.012, (3, 9, 9))
    clouds = stretch @ coarse @ stretch.T
    grain = random.normal(0.0, 0.014, (SIZE, SIZE, 1))
    return np.rint(np.clip(scene + clouds.transpose(1, 2, 0) + grain, 0.0, 1.0) * 255).astype(np.uint8)
