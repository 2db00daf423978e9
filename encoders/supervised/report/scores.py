"""How good a classifier is, class by class: the confusion matrix and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassScore:
    """One row of the per-class table. A ratio is None where it divides by nothing.

    Attributes:
        name: of the class.
        precision: share of the images called so that are so, 0..1.
        recall: share of the images that are so that are called so, 0..1.
        f1: harmonic mean of the two, 2 TP / (2 TP + FP + FN), 0..1.
        support: images that are so.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Count images by true class (row) and predicted class (column).

    Args:
        predicted, labels: integers `[N]` in 0..classes-1.
        classes: number of classes.

    Returns:
        int64 `[classes, classes]`.
    """
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def per_class(matrix: np.ndarray, names: Sequence[str]) -> list[ClassScore]:
    """The per-class table of a confusion matrix, in the order of `names`."""
    hits, called, support = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    return [
        ClassScore(name, _ratio(hit, by), _ratio(hit, of), _ratio(2 * hit, by + of), of)
        for name, hit, by, of in zip(names, hits.tolist(), called.tolist(), support.tolist(), strict=True)
    ]


def macro_f1(table: Sequence[ClassScore]) -> float:
    """Mean F1 over the classes that occur, as labels or as predictions: each counts the same, however rare it is."""
    return float(np.mean([row.f1 for row in table if row.f1 is not None]))


def top_k(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of images whose true class is among the `k` largest logits; among equal ones the first counts as larger.

    Args:
        logits: float `[N, classes]`.
        labels: int `[N]`.
        k: how many guesses each image has.
    """
    own = np.take_along_axis(logits, labels[:, None], 1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return float((rank < k).mean())


def most_confused(matrix: np.ndarray, most: int = 10) -> list[tuple[int, int, int]]:
    """(true class, predicted class, images) of the `most` frequent kinds of mistake, the most frequent first."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, wrong.shape)
    return [
        (int(row), int(column), int(wrong[row, column]))
        for row, column in zip(rows, columns, strict=True)
        if wrong[row, column]
    ]


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
