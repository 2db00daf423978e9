"""Head: a classifier on features, what fitting one gives, and how fitted ones are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Labelled = tuple[Tensor, Tensor]
"""Features float32 `[N, D]` and labels int64 `[N]`, on one device."""


class Head(Protocol):
    """Features float32 `[N, D]` -> logits `[N, classes]`."""

    def __call__(self, features: Tensor) -> Tensor: ...

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `kinds.read` makes this head again."""
        ...


@dataclass(frozen=True)
class Fitted:
    """A head and how it came about.

    Attributes:
        head: fitted on the training images, and on the validation images as well where `refit` is true.
        validation_accuracy: 0..1, of the head before it was refitted; NaN without validation images.
        chosen: hyperparameters that the validation images decided, by name.
        refit: whether the validation images were learned in the end.
    """

    head: Head
    validation_accuracy: float
    chosen: dict[str, float]
    refit: bool


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share (0..1) of the rows `[N, classes]` whose largest logit is the label's; NaN of none."""
    return (logits.argmax(1) == labels).float().mean().item()


def score(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """What is chosen by: accuracy, and among equals, which are common where images are few, the mean log likelihood."""
    return accuracy(logits, labels), -F.cross_entropy(logits.float(), labels).item()


def concatenate(train: Labelled, validation: Labelled) -> Labelled:
    """Training and validation images as one set."""
    return torch.cat([train[0], validation[0]]), torch.cat([train[1], validation[1]])


def mean_and_std(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each of the features `[N, D]`, `[D]` each, to standardise by.

    A feature that never changes, as many do not after a ReLU where images are few, has the deviation one: divided by
    almost nothing, the first image that it fires in would drown all others. What is almost nothing is said by the other
    features: those of a MobileNetV2 with random weights all lie near 1e-10, and are as good as any for that.
    """
    std = features.std(0, correction=0)
    return features.mean(0), torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std))
