"""Pictures: which arrays are an image whose meaning is clear, and how each is read as uint8 `[H, W, 3]` or `[H, W]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stillsight.envs.options import SMALLEST_IMAGE

Image: TypeAlias = NDArray[np.uint8]

MOST_CHANNELS = 16
"""Channels, on the first or last axis, up to which an array with two long sides looks like an image or several."""

_SCALES: dict[tuple[float, float], tuple[float, float, str]] = {
    (0.0, 255.0): (0.0, 1.0, ""),
    (0.0, 1.0): (0.0, 255.0, "0..1 scaled to 0..255"),
    (-1.0, 1.0): (1.0, 127.5, "-1..1 scaled to 0..255"),
    (-0.5, 0.5): (0.5, 255.0, "-0.5..0.5 scaled to 0..255"),
}
"""Bounds of floats whose black and white are clear: what is added, what is multiplied then, and how it is said."""


class Picture(NamedTuple):
    """An image as a space holds it.

    Attributes:
        native: height and width in pixels.
        read: from an array of the space to uint8 `[H, W, 3]` or `[H, W]`.
        changes: what is done to an image, in words.
    """

    native: tuple[int, int]
    read: Callable[[NDArray[Any]], Image]
    changes: tuple[str, ...]


_UNEVEN = "its values have other bounds in some places than in others, and do not say what is black and what is white"


def ends(space: spaces.Box) -> tuple[float, float] | None:
    """The least and the greatest value of an array; None where they are not the same in all its places, and of an array
    without any."""
    if 0 in space.shape:
        return None
    low, high = space.low, space.high
    if low.min() != low.max() or high.min() != high.max():
        return None
    return float(low.min()), float(high.max())


def read_picture(space: gym.Space[Any]) -> Picture | str | None:
    """How to read the image of a space; why that is not clear, as the end of a sentence; None if it is no image."""
    if not isinstance(space, spaces.Box) or space.dtype is None or space.dtype.kind not in "uif":
        return None
    shape, floats = space.shape, space.dtype.kind == "f"
    if 0 in shape or (not floats and float(space.high.max()) < 255.0):
        return None  # nothing, or a table of symbols: whole numbers that do not reach white
    if (several := _several(shape)) is not None:
        return several
    layout = _layout(shape)
    if layout is None:
        return None
    bounds = ends(space)
    if bounds is None or bounds not in _SCALES or (not floats and bounds != (0.0, 255.0)):
        # A table of numbers may well be two-dimensional; three channels, or one, make a picture of it.
        unclear = _UNEVEN
        if bounds is not None:
            unclear = f"its values, {bounds[0]:g}..{bounds[1]:g}, do not say what is black and what is white"
        return unclear if len(shape) == 3 else None
    height, width, arrange, changes = layout
    if space.dtype == np.uint8:
        return Picture((height, width), arrange, changes)
    shift, scale, said = _SCALES[bounds]
    if not floats:
        return Picture((height, width), lambda array: arrange(array.astype(np.uint8)), changes)

    def read(array: NDArray[Any]) -> Image:
        image: Image = arrange(np.rint(np.clip((array + shift) * scale, 0.0, 255.0)).astype(np.uint8))
        return image

    return Picture((height, width), read, (*changes, said) if said else changes)


def read_one_channel(space: gym.Space[Any]) -> Picture | str | None:
    """How to read an image of one channel whose numbers have other ends than grey has, as depth does: from the least to
    the greatest as black to white. Why that cannot be, as the end of a sentence; None if it has no form of an image."""
    if not isinstance(space, spaces.Box) or space.dtype is None or space.dtype.kind not in "uif":
        return None
    layout = _layout(space.shape)
    if layout is None or layout[3] != _GREY:
        return None
    bounds = ends(space)
    if bounds is None:
        return _UNEVEN
    low, high = bounds
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        return f"its values, {low:g}..{high:g}, have no ends that could be black and white"
    height, width, arrange, _ = layout

    def read(array: NDArray[Any]) -> Image:
        scaled = (np.asarray(array, np.float64) - low) * (255.0 / (high - low))
        image: Image = arrange(np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8))
        return image

    return Picture((height, width), read, (f"one channel, {low:g}..{high:g} scaled to 0..255, repeated to three",))


_GREY = ("grey, repeated to three channels",)


def _layout(shape: tuple[int, ...]) -> tuple[int, int, Callable[[NDArray[Any]], Any], tuple[str, ...]] | None:
    """Height, width, how to turn an array of this shape into `[H, W, 3]` or `[H, W]`, and what is said of that."""
    if len(shape) == 2 and min(shape) >= SMALLEST_IMAGE:
        return shape[0], shape[1], lambda image: image, _GREY
    if len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) >= SMALLEST_IMAGE:
        if shape[2] == 3:
            return shape[0], shape[1], lambda image: image, ()
        return shape[0], shape[1], lambda image: image[..., 0], _GREY
    if len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= SMALLEST_IMAGE:
        if shape[0] == 3:
            return shape[1], shape[2], lambda image: np.ascontiguousarray(image.transpose(1, 2, 0)), ()
        return shape[1], shape[2], lambda image: image[0], _GREY
    return None


def _several(shape: tuple[int, ...]) -> str | None:
    """Why an array of this shape, which looks like an image or like several, is not clear; None if it is."""
    if len(shape) == 4 and _layout(shape[1:]) is not None:
        return f"{shape[0]} images may be frames, of which the newest is wanted, or cameras"
    if len(shape) != 3 or _layout(shape) is not None:
        return None
    for channels, sides in ((shape[2], shape[:2]), (shape[0], shape[1:])):
        if min(sides) >= SMALLEST_IMAGE and channels == 4:
            return "4 channels may be colours and their opacity or 4 grey frames (--frame-stack stacks frames)"
        if min(sides) >= SMALLEST_IMAGE and channels <= MOST_CHANNELS:
            return f"{channels} channels are neither grey nor colour (--frame-stack stacks frames)"
    return None
