"""Looks that move what a picture shows: a camera that shakes, and one that is nearer or further."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from stillsight.envs.shifts.rows import Image, Look


def jitter(random: np.random.Generator, strength: float) -> Look:
    """Move the picture by up to `strength` x 10 % of its sides and turn it by up to `strength` x 10 degrees, either way
    and anew in every step; its edge is repeated where nothing is seen.

    At half strength 4 pixels of 84, the random shifts of DrQ (Kostrikov et al. 2021).
    """
    key = int(random.integers(2**62))

    def look(image: Image, step: int) -> Image:
        down, right, turn = np.random.default_rng((key, step)).uniform(-1.0, 1.0, 3) * strength
        return _moved(image, down=0.1 * down, right=0.1 * right, degrees=10.0 * turn)

    return look


def zoom(random: np.random.Generator, strength: float) -> Look:
    """Enlarge or shrink the picture about its centre by 1.5 to the power of half to all of `strength`; its edge is
    repeated where nothing is seen. At half strength 1.11 to 1.22 times, or one over it."""
    scale = 1.5 ** float(random.choice((-1.0, 1.0)) * random.uniform(0.5, 1.0) * strength)
    return lambda image, _: _moved(image, scale=scale)


def _moved(image: Image, *, down: float = 0.0, right: float = 0.0, degrees: float = 0.0, scale: float = 1.0) -> Image:
    """A picture turned anticlockwise and enlarged about its centre, then moved by parts of its sides."""
    height, width = image.shape[:2]
    middle = np.array([(width - 1) / 2, (height - 1) / 2])  # x, y: pixels are counted from their centres
    sine, cosine = math.sin(math.radians(degrees)) * scale, math.cos(math.radians(degrees)) * scale
    turn = np.array([[cosine, sine], [-sine, cosine]])
    offset = middle - turn @ middle + (right * width, down * height)
    return cv2.warpAffine(
        np.ascontiguousarray(image),
        np.column_stack([turn, offset]),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.uint8, copy=False)
