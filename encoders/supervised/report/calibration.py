"""Calibration of a classifier: of the images that it is 80 % sure about, are 80 % right?

The bins are ours because no library gives them: scikit-learn's calibration_curve is for two classes, leaves empty bins
out and has no counts, and torchmetrics gives the expected calibration error alone, without the bins of table and chart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15
"""Bins of equal width, as in Guo et al. 2017, "On calibration of modern neural networks", section 4."""


@dataclass(frozen=True)
class Reliability:
    """Confidence beside accuracy, bin by bin; a bin (m-1)/M < confidence <= m/M holds its upper end.

    Attributes:
        counts: images in each bin, int64 `[bins]`.
        confidence, accuracy: their means in each bin, float64 `[bins]`, 0..1; NaN where a bin is empty.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error, 0..1: mean over all images of |accuracy - confidence| of their bin (equation 3
        of Guo et al. 2017)."""
        filled = self.counts > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((self.counts[filled] * gaps).sum() / self.counts.sum())

    def rows(self) -> list[dict[str, float | int | None]]:
        """One row a bin, as JSON has it: an empty bin has no means."""
        edges = self.edges().tolist()
        columns = (edges[:-1], edges[1:], self.counts.tolist(), self.confidence.tolist(), self.accuracy.tolist())
        return [
            {
                "above": low,
                "up_to": high,
                "images": count,
                "confidence": confidence if count else None,
                "accuracy": accuracy if count else None,
            }
            for low, high, count, confidence, accuracy in zip(*columns, strict=True)
        ]

    def edges(self) -> np.ndarray:
        """Borders of the bins, float64 `[bins + 1]`, from 0 to 1."""
        return np.linspace(0.0, 1.0, len(self.counts) + 1)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Bin predictions by their confidence.

    Args:
        confidence: probability of the predicted class, float `[N]`, 0..1.
        correct: bool `[N]`.
        bins: number of bins.
    """
    borders = np.linspace(0.0, 1.0, bins + 1)
    # A softmax can round to 1 + 1e-16, which no bin holds; 0 goes into the first.
    places = np.clip(np.digitize(confidence, borders, right=True) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    sums, hits = (np.bincount(places, weights=values, minlength=bins) for values in (confidence, correct.astype(float)))
    with np.errstate(invalid="ignore"):
        return Reliability(counts, sums / counts, hits / counts)
