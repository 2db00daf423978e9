"""Draw the confusion matrix and the reliability diagram with matplotlib, where it is installed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stillsight.encoders.supervised.report.calibration import Reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERED = 20
"""Up to so many classes each cell of the confusion matrix shows its count; more would not be legible."""


def confusion_chart(matrix: np.ndarray, names: Sequence[str]) -> bytes:
    """The confusion matrix as PNG: colour is the share of the true class, numbers are images.

    Args:
        matrix: int64 `[classes, classes]`, rows are true classes.
        names: of the classes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no window

    count = len(names)
    side = 3 + 0.45 * min(count, NUMBERED)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if count <= NUMBERED else max(2.0, 180 / count)
    axes.set_xticks(range(count), names, rotation=90, fontsize=size, parse_math=False)  # $100_to_$200 is no formula
    axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= NUMBERED:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=8)
    return _png(figure)


def reliability_chart(reliability: Reliability) -> bytes:
    """Accuracy over confidence as PNG, with the share of images in each bin; on the diagonal confidence is earned.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    edges = reliability.edges()
    shares = reliability.counts / reliability.counts.sum()
    axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color="0.88", label="share of the images")
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle=":")
    filled = reliability.counts > 0
    confidence, accuracy = reliability.confidence[filled], reliability.accuracy[filled]
    axes.plot(confidence, accuracy, "o-", markersize=4, linewidth=1.2, label="accuracy")
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_title(f"expected calibration error {reliability.error:.3f}", fontsize=10)
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
