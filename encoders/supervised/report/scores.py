"""Score a classifier, class by class: scikit-learn's confusion matrix, precision, recall, F1 and top-k accuracy."""

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
    from sklearn import metrics

    matrix: np.ndarray = metrics.confusion_matrix(labels, predicted, labels=np.arange(classes))
    return matrix


def per_class(predicted: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[ClassScore]:
    """The per-class table, in the order of `names`; other arguments as in `confusion`."""
    from sklearn import metrics

    columns = metrics.precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(names)), zero_division=np.nan
    )
    ratios = ([None if np.isnan(value) else float(value) for value in column] for column in columns[:3])
    rows = zip(names, *ratios, columns[3].tolist(), strict=True)
    return [ClassScore(name, precision, recall, f1, support) for name, precision, recall, f1, support in rows]


def macro_f1(predicted: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Mean F1 over the classes that occur, as labels or as predictions: each counts the same, however rare it is."""
    from sklearn import metrics

    score = metrics.f1_score(labels, predicted, labels=np.arange(classes), average="macro", zero_division=np.nan)
    return float(score)


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of images whose true class is among the `k` largest logits; among equal ones the first counts as larger.

    Args:
        logits: float `[N, classes]`, of three classes or more.
        labels: int `[N]`.
        k: how many guesses each image has, fewer than there are classes.
    """
    from sklearn import metrics

    classes = logits.shape[1]
    # To scikit-learn the last of equals is the largest, as to argmax the first: so the classes are counted backwards.
    score = metrics.top_k_accuracy_score(classes - 1 - labels, logits[:, ::-1], k=k, labels=np.arange(classes))
    return float(score)


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
