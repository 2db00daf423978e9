"""Looks that change a picture's colours and tones, alike in every step of an episode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from stillsight.envs.shifts.rows import Image, Look


def hue(random: np.random.Generator, strength: float) -> Look:
    """Turn all colours about the grey axis, by half to all of `strength` x 180 degrees either way, and make them
    brighter or darker, by half to all of `strength` x 60 %."""
    turn, light = random.choice((-1.0, 1.0), 2) * random.uniform(0.5, 1.0, 2) * strength
    angle = np.pi * turn
    # Rodrigues' formula for the axis (1, 1, 1): r + g + b stays what it is.
    cross = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3.0)
    rotation = np.cos(angle) * np.eye(3) + (1.0 - np.cos(angle)) / 3.0 + np.sin(angle) * cross
    matrix = rotation * (1.0 + 0.6 * light)
    return lambda image, _: cv2.transform(image, matrix).astype(np.uint8, copy=False)


def brightness(random: np.random.Generator, strength: float) -> Look:
    """Add half to all of `strength` x 50 % of full scale to every channel, or take it off.

    ImageNet-C adds 10 % to 50 % to the value of HSV: at half strength this is its first to third severity.
    """
    added = 127.5 * strength * _either(random)
    return _table(lambda values: values + added)


def contrast(random: np.random.Generator, strength: float) -> Look:
    """Bring every channel nearer to its mean in the picture, or further from it, by a factor of 4 to the power of half
    to all of `strength`, either way.

    ImageNet-C multiplies by 0.4 to 0.05: at half strength this is 0.71 to 0.5, or 1.4 to 2; at full strength down to
    0.25.
    """
    factor = 4.0 ** (strength * _either(random))

    def look(image: Image, _: int) -> Image:
        means = np.array(cv2.mean(image)[:3])
        shown: Image = np.clip(np.rint(means + factor * (image - means)), 0.0, 255.0).astype(np.uint8)
        return shown

    return look


def gamma(random: np.random.Generator, strength: float) -> Look:
    """Raise every channel, as a part of full scale, to the power of 4 to the power of half to all of `strength`, either
    way: 0.5 to 0.71 or 1.4 to 2 at half strength. Black and white stay."""
    power = 4.0 ** (strength * _either(random))
    return _table(lambda values: 255.0 * (values / 255.0) ** power)


def _either(random: np.random.Generator) -> float:
    """A half to one, with a sign."""
    return float(random.choice((-1.0, 1.0)) * random.uniform(0.5, 1.0))


def _table(change: Any) -> Look:
    """A look that changes each number of a picture by itself."""
    numbers = np.clip(np.rint(change(np.arange(256.0))), 0.0, 255.0).astype(np.uint8)
    return lambda image, _: cv2.LUT(np.ascontiguousarray(image), numbers).astype(np.uint8, copy=False)
