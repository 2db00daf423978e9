"""Principal components of what a stage hands on: maps as three colours, the same for all images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHOWN = (0.01, 0.99)
"""Shares of the values of a component between which its colour goes from dark to bright."""


def components(vectors: np.ndarray, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Mean and the first principal directions of `vectors`, by their covariance matrix (Pearson 1901).

    A direction and its opposite are one component; the one whose largest part is positive is taken.

    Args:
        vectors: `[N, C]`.
        count: of directions; fewer where there are fewer channels.

    Returns:
        mean float64 `[C]`, and directions float64 `[count, C]`, orthonormal, of falling variance.
    """
    numbers = vectors.astype(np.float64)
    mean = numbers.mean(0)
    centred = numbers - mean
    _, directions = np.linalg.eigh(centred.T @ centred / max(1, len(centred)))
    first = directions[:, ::-1][:, :count].T
    largest = np.abs(first).argmax(1)
    return mean, first * np.sign(first[np.arange(len(first)), largest])[:, None]


def colours(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Maps as colours: the first three components over all places of all maps are red, green and blue.

    Args:
        maps: `[C, h, w]` each, of one C.

    Returns:
        uint8 `[h, w, 3]` each; where C is below three, the colours that are left are black.
    """
    places = [one.reshape(len(one), -1).T for one in maps]
    mean, directions = components(np.concatenate(places))
    values = [(place - mean) @ directions.T for place in places]
    low, high = np.quantile(np.concatenate(values), SHOWN, axis=0)
    painted = []
    for one, value in zip(maps, values, strict=True):
        shares = ((value - low) / np.where(high > low, high - low, 1.0)).clip(0, 1)
        image = np.zeros((*one.shape[1:], 3), np.uint8)
        image[..., : len(directions)] = np.rint(255 * shares).reshape(*one.shape[1:], -1)
        painted.append(image)
    return painted
