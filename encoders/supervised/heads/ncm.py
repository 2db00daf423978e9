"""The nearest-class-mean head: one mean feature a class. Nothing is trained, and one image a class is enough."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stillsight.encoders.supervised.heads.head import Fitted, Labelled, concatenate, score

SCALES = (10.0, 1.0, 3.0, 30.0, 100.0)
"""Factors of the logits that are tried. They change no decision, but how sure it is; the first is taken without
validation images."""


@dataclass(frozen=True)
class NearestMean:
    """The class whose mean is nearest, among features that were centred and brought to length one ("CL2N" of Wang et
    al. 2019, "SimpleShot").

    Attributes:
        mean: of the training features, `[D]`.
        means: of the centred features of length one of each class, `[classes, D]`.
        scale: of the logits, scalar.
    """

    mean: Tensor
    means: Tensor
    scale: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits `[N, classes]`: minus the squared distance, times the scale."""
        return -self.scale * torch.cdist(F.normalize(features - self.mean, dim=1), self.means).square()

    def state(self) -> dict[str, Tensor]:
        """See `Head`."""
        return dict(vars(self))


def fit(train: Labelled, validation: Labelled, classes: int, *, refit: bool, seed: int = 0) -> Fitted:  # noqa: ARG001
    """Average each class, and take the scale whose validation images are likeliest, see `kinds.fit`."""
    reached, chosen = (float("nan"), 0.0), SCALES[0]
    if len(validation[1]):
        scores = {scale: score(_average(train, classes, scale)(validation[0]), validation[1]) for scale in SCALES}
        chosen = max(scores, key=lambda scale: scores[scale][1])
        reached = scores[chosen]
    head = _average(concatenate(train, validation) if refit else train, classes, chosen)
    return Fitted(head, reached[0], {"scale": chosen}, refit)


def _average(train: Labelled, classes: int, scale: float) -> NearestMean:
    inputs, labels = train
    mean = inputs.mean(0)
    rows = F.normalize(inputs - mean, dim=1)
    sums = rows.new_zeros(classes, rows.shape[1]).index_add_(0, labels, rows)
    counts = labels.bincount(minlength=classes).unsqueeze(1)
    return NearestMean(mean, sums / counts, torch.tensor(scale, device=rows.device))
