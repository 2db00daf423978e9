"""Places on a sphere, and which way a camera looks from there."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


def spherical(place: Array) -> Array:
    """Radius, angle about the vertical, and angle from the vertical."""
    return np.array(
        [np.linalg.norm(place), np.arctan2(place[1], place[0]), np.arctan2(np.hypot(place[0], place[1]), place[2])]
    )


def cartesian(sphere: Array) -> Array:
    """The way back from `spherical`."""
    radius, sideways, polar = sphere
    direction = np.array([np.sin(polar) * np.cos(sideways), np.sin(polar) * np.sin(sideways), np.cos(polar)])
    return direction * float(radius)


def looking(place: Array, target: Array, *, down: bool) -> Array:
    """MuJoCo's camera matrix `[3, 3]` (to the right, up, backwards) at `place` towards `target`.

    Upright; where it looked straight down, the smallest turn from there, since upright has no meaning.
    """
    back = (place - target) / np.linalg.norm(place - target)
    vertical = np.array([0.0, 0.0, 1.0])
    axis = np.cross(vertical, back)
    sine = np.linalg.norm(axis)
    if not down and sine > 1e-9:
        right = axis / sine
        return np.column_stack([right, np.cross(back, right), back])
    if sine < 1e-9:
        return np.eye(3)
    x, y, z = axis / sine
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turned: Array = np.eye(3) + sine * cross + (1.0 - back[2]) * cross @ cross
    return turned


def about_z(angle: float) -> Array:
    """The turn `[3, 3]` by an angle about the third axis."""
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def between(angle: float) -> float:
    """The same angle, -pi to pi."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
