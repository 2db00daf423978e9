"""k-NN head: the nearest training images vote, k chosen on validation images. Nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stillsight.encoders.supervised.heads.head import Fitted, Labelled, concatenate, score

COUNTS = (1, 5, 10, 20, 50, 100, 200)
"""Neighbours that are tried; DINO (Caron et al. 2021) tries 10 to 200."""
TEMPERATURE = 0.07
"""A neighbour's vote is exp(cosine / temperature), as in DINO's evaluation (Wu et al. 2018, section 3.4)."""
ROWS = 1000
"""Images classified at a time: a thousand times 50,000 similarities are 200 MB."""


@dataclass(frozen=True)
class NearestNeighbours:
    """Votes of the nearest training images, by the cosine between centred features.

    Centring takes out what all images share, which after a ReLU is most of a feature vector (Wang et al. 2019,
    "SimpleShot").

    Attributes:
        mean: of the training features, `[D]`.
        known: training features, centred and of length one, `[N, D]`.
        labels: theirs, int64 `[N]`.
        count: how many neighbours vote, int64 scalar.
        classes: number of classes, int64 scalar.
    """

    mean: Tensor
    known: Tensor
    labels: Tensor
    count: Tensor
    classes: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits `[N, classes]`: the logarithm of each class's share of the votes, where none is 1e-6."""
        return torch.cat([self._logits(*self._nearest(rows), int(self.count)) for rows in features.split(ROWS)])

    def _nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Votes and labels of as many neighbours as any count asks for, nearest first."""
        cosine = F.normalize(features - self.mean, dim=1) @ self.known.T
        nearest = cosine.topk(min(max(COUNTS), len(self.known)), dim=1)
        # One is taken off, so that no vote overflows; shares stay what they are.
        return ((nearest.values - 1) / TEMPERATURE).exp(), self.labels[nearest.indices]

    def _logits(self, votes: Tensor, labels: Tensor, count: int) -> Tensor:
        tally = votes.new_zeros(len(votes), int(self.classes))
        tally.scatter_add_(1, labels[:, :count], votes[:, :count])
        return (tally / tally.sum(1, keepdim=True)).clamp_min(1e-6).log()

    def sweep(self, features: Tensor) -> dict[int, Tensor]:
        """Logits for every count in COUNTS that there are images for, from one search."""
        votes, labels = map(torch.cat, zip(*(self._nearest(rows) for rows in features.split(ROWS)), strict=True))
        return {count: self._logits(votes, labels, count) for count in COUNTS if count <= len(self.known)}

    def state(self) -> dict[str, Tensor]:
        """See `Head`."""
        return dict(vars(self))


def fit(train: Labelled, validation: Labelled, classes: int, *, refit: bool, seed: int = 0) -> Fitted:  # noqa: ARG001
    """Remember the training features, and take the count that does best on the validation images, see `kinds.fit`."""
    chosen, reached = COUNTS[0], (float("nan"), 0.0)
    if len(validation[1]):
        scores = {
            count: score(logits, validation[1])
            for count, logits in _remember(train, classes, 1).sweep(validation[0]).items()
        }
        chosen = max(scores, key=scores.__getitem__)
        reached = scores[chosen]
    head = _remember(concatenate(train, validation) if refit else train, classes, chosen)
    return Fitted(head, reached[0], {"neighbours": chosen}, refit)


def _remember(train: Labelled, classes: int, count: int) -> NearestNeighbours:
    inputs, labels = train
    mean = inputs.mean(0)
    sizes = (torch.tensor(number, device=inputs.device) for number in (count, classes))
    return NearestNeighbours(mean, F.normalize(inputs - mean, dim=1), labels, *sizes)
