"""Looks that lay something over a picture, or behind it: a box, moving waves, or a user's own pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from stillsight.envs.shifts.pictures import Pictures, fitted

if TYPE_CHECKING:
    from stillsight.envs.shifts.rows import Image, Look

NEAR = 24
"""How far each channel of a pixel may be from the commonest colour for it to count as background."""


def occluder(random: np.random.Generator, strength: float) -> Look:
    """Cover a box of `strength` x half of either side with one colour; place and colour are drawn for each episode."""
    down, right = random.uniform(0.0, 1.0, 2)
    colour = random.integers(0, 256, 3, np.uint8)

    def look(image: Image, _: int) -> Image:
        height, width = (round(0.5 * strength * side) for side in image.shape[:2])
        top, left = round(down * (image.shape[0] - height)), round(right * (image.shape[1] - width))
        covered = image.copy()
        covered[top : top + height, left : left + width] = colour
        return covered

    return look


def overlay(random: np.random.Generator, strength: float, pictures: Pictures | None) -> Look:
    """Mix in, at `strength` x 60 %, three coloured waves that cross each other and move on with every step, or a user's
    own pictures: see `drawn`."""
    pattern = drawn(random, pictures)
    return lambda image, step: blended(image, pattern(image.shape[0], image.shape[1], step), 0.6 * strength)


def background(random: np.random.Generator, strength: float, pictures: Pictures | None) -> Look:
    """Put waves, or a user's own pictures, see `drawn`, in place of the background, mixed in at `strength`.

    A picture does not say what its background is: it is what has its commonest colour, or nearly (`NEAR`). A suite that
    knows better gives a background of its own, see `mujoco.sky.Background`.
    """
    pattern = drawn(random, pictures)

    def look(image: Image, step: int) -> Image:
        mixed = blended(image, pattern(image.shape[0], image.shape[1], step), strength)
        return np.where(behind(image)[..., None], mixed, image)

    return look


def behind(image: Image) -> NDArray[np.bool_]:
    """Which pixels `[H, W]` of a picture have its commonest colour, of 16 levels a channel, or nearly."""
    levels = (image >> 4).astype(np.int64)
    codes = (levels[..., 0] << 8) | (levels[..., 1] << 4) | levels[..., 2]
    most = np.bincount(codes.ravel()).argmax()
    colour = image[codes == most].mean(0)
    near: NDArray[np.bool_] = (np.abs(image - colour) <= NEAR).all(-1)
    return near


def drawn(random: np.random.Generator, pictures: Pictures | None) -> Callable[[int, int, int], Image]:
    """What is shown in an episode over or behind a scene, from height, width and step to uint8 `[height, width, 3]`.

    A user's own pictures: one of them is drawn; a film begins at a frame that is drawn, and goes on by a frame in every
    step, forwards or backwards, turning round at its ends (as in the Distracting Control Suite). Else waves.
    """
    if pictures is None:
        return waves(random)
    frame = pictures.begin(random)
    return lambda height, width, step: fitted(frame(step), height, width)


def waves(random: np.random.Generator) -> Callable[[int, int, int], Image]:
    """Three coloured waves that cross each other, 1 to 4 to a side, and move by 1/50 to 1/15 of their length in a step;
    each channel has its own phases."""
    rows, columns = random.choice((-1.0, 1.0), (2, 3)) * random.uniform(1.0, 4.0, (2, 3))
    speed = random.choice((-1.0, 1.0), 3) * random.uniform(1 / 50, 1 / 15, 3)
    phase = random.uniform(0.0, 1.0, (3, 3))  # [channel, wave]

    def pattern(height: int, width: int, step: int) -> Image:
        y, x = np.arange(height) / height, np.arange(width) / width
        # sin(a + b) = sin a cos b + cos a sin b makes a wave an outer product: no sine for each pixel.
        a = 2 * np.pi * np.outer(y, rows)
        b = 2 * np.pi * (np.outer(columns, x)[None] + (phase + speed * step)[..., None])  # [channel, wave, column]
        crossed = np.sin(a) @ np.cos(b) + np.cos(a) @ np.sin(b)  # [channel, row, column], -3..3
        pixels: Image = np.rint(np.clip(127.5 + 85.0 * crossed, 0.0, 255.0)).astype(np.uint8)
        return pixels.transpose(1, 2, 0)

    return pattern


def blended(image: Image, other: Image, share: float) -> Image:
    """A picture with `share` of another mixed in, both uint8 `[H, W, 3]`."""
    return cv2.addWeighted(image, 1.0 - share, other, share, 0.0).astype(np.uint8, copy=False)
