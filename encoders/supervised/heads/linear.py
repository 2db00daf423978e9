"""The linear head: logistic regression, its regularisation chosen on validation images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders.supervised.heads.head import Fitted, Labelled, concatenate, mean_and_std, score

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""L2 penalties that are tried, on standardised features; a coarse form of DINOv2's sweep (Oquab et al. 2024). The
strong ones are for few labels."""
ITERATIONS = 100
"""Of L-BFGS, for each penalty, at most."""
GRADIENT, CHANGE = 1e-5, 1e-6
"""Largest entry of the gradient, and change of the loss, at which L-BFGS stops. On CIFAR-10 torch's finer defaults took
nearly twice as long and changed the test accuracy by 0.02 points."""


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier over standardised features.

    Attributes:
        mean, std: of the training features, `[D]`.
        weight, bias: `[classes, D]` and `[classes]`.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits `[N, classes]`."""
        return F.linear((features - self.mean) / self.std, self.weight, self.bias)

    def state(self) -> dict[str, Tensor]:
        """See `Head`."""
        return {"mean": self.mean, "std": self.std, "weight": self.weight, "bias": self.bias}

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the same function over features as they are: what a network's last layer holds."""
        weight = self.weight / self.std
        return weight, self.bias - weight @ self.mean


def from_state(state: dict[str, Tensor]) -> LinearHead:
    """A head from its tensors; without `mean` and `std` they are over features as they are."""
    weight = state["weight"]
    plain = {"mean": weight.new_zeros(weight.shape[1]), "std": weight.new_ones(weight.shape[1])}
    return LinearHead(**(plain | state))


def fit(train: Labelled, validation: Labelled, classes: int, *, refit: bool, seed: int = 0) -> Fitted:  # noqa: ARG001
    """Fit by L-BFGS for each penalty and take the one that does best on the validation images, see `kinds.fit`.

    The problem is convex, so there is no learning rate to get wrong; each fit starts from the one before.
    """
    inputs, labels = train
    mean, std = mean_and_std(inputs)
    scaled = (inputs - mean) / std
    layer = nn.Linear(inputs.shape[1], classes, device=inputs.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    best, chosen, reached = _solve(layer, scaled, labels, mean, std, PENALTIES[0]), PENALTIES[0], (0.0, 0.0)
    reached = score(best(validation[0]), validation[1])
    for penalty in PENALTIES[1:]:
        candidate = _solve(layer, scaled, labels, mean, std, penalty)
        scored = score(candidate(validation[0]), validation[1])
        if scored > reached:
            best, chosen, reached = candidate, penalty, scored
    if refit:
        inputs, labels = concatenate(train, validation)
        mean, std = mean_and_std(inputs)
        with torch.no_grad():
            layer.weight.copy_(best.weight)
            layer.bias.copy_(best.bias)
        best = _solve(layer, (inputs - mean) / std, labels, mean, std, chosen)
    return Fitted(best, reached[0], {"penalty": chosen}, refit)


def _solve(layer: nn.Linear, inputs: Tensor, labels: Tensor, mean: Tensor, std: Tensor, penalty: float) -> LinearHead:
    """Minimise cross entropy + penalty * |W|^2 by L-BFGS, from where `layer` stands."""
    optimizer = torch.optim.LBFGS(
        layer.parameters(),
        max_iter=ITERATIONS,
        tolerance_grad=GRADIENT,
        tolerance_change=CHANGE,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(layer(inputs), labels) + penalty * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return LinearHead(mean, std, layer.weight.detach().clone(), layer.bias.detach().clone())
