"""The linear head on frozen features: logistic regression, its regularisation chosen on validation images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)
"""L2 penalties that are tried, on standardised features; a coarse form of DINOv2's sweep (Oquab et al. 2024)."""


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier over standardised features.

    Attributes:
        mean, std: of the training features, `[D]`.
        weight, bias: `[classes, D]` and `[classes]`.
        penalty: the L2 penalty that did best on the validation images.
        validation_accuracy: 0..1.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    penalty: float
    validation_accuracy: float

    def __call__(self, features: Tensor) -> Tensor:
        """Logits `[N, classes]`."""
        return F.linear((features - self.mean) / self.std, self.weight, self.bias)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest logit is the label's."""
    return (logits.argmax(1) == labels).float().mean().item()


def fit(
    train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], classes: int, iterations: int = 100
) -> LinearHead:
    """Fit a linear head by L-BFGS for each penalty and return the one that does best on the validation images.

    The problem is convex, so there is no learning rate to get wrong; each fit starts from the one before.

    Args:
        train, validation: features float32 `[N, D]` and labels int64 `[N]`.
        classes: number of classes.
        iterations: of L-BFGS, for each penalty.
    """
    inputs, labels = train
    mean, std = inputs.mean(0), inputs.std(0).clamp_min(1e-6)
    scaled = (inputs - mean) / std
    head = nn.Linear(inputs.shape[1], classes, device=inputs.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    best: LinearHead | None = None
    for penalty in sorted(PENALTIES, reverse=True):
        _lbfgs(head, scaled, labels, penalty, iterations)
        weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
        candidate = LinearHead(mean, std, weight, bias, penalty, 0.0)
        score = accuracy(candidate(validation[0]), validation[1])
        if best is None or score > best.validation_accuracy:
            best = LinearHead(mean, std, weight, bias, penalty, score)
    assert best is not None
    return best


def _lbfgs(head: nn.Linear, inputs: Tensor, labels: Tensor, penalty: float, iterations: int) -> None:
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(head(inputs), labels) + penalty * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
