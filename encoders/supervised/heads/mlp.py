"""The MLP head: one hidden layer on standardised features, its dropout chosen on validation images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders.supervised.heads.head import Fitted, Labelled, concatenate, mean_and_std, score

HIDDEN, EPOCHS, BATCH = 256, 10, 256
DROPOUTS = (0.5, 0.2)
"""Shares of the hidden layer that are dropped in training (Srivastava et al. 2014 recommend 0.5)."""
UPDATES = 300
"""At least: ten epochs of fifty images would be ten updates."""
LR, WEIGHT_DECAY = 1e-3, 1e-2
"""AdamW's defaults in torch."""


@dataclass(frozen=True)
class MlpHead:
    """Linear, ReLU, linear over standardised features.

    Attributes:
        mean, std: of the training features, `[D]`.
        weight1, bias1: `[HIDDEN, D]` and `[HIDDEN]`.
        weight2, bias2: `[classes, HIDDEN]` and `[classes]`.
    """

    mean: Tensor
    std: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits `[N, classes]`."""
        hidden = F.linear((features - self.mean) / self.std, self.weight1, self.bias1).relu()
        return F.linear(hidden, self.weight2, self.bias2)

    def state(self) -> dict[str, Tensor]:
        """See `Head`."""
        return dict(vars(self))


def fit(train: Labelled, validation: Labelled, classes: int, *, refit: bool, seed: int = 0) -> Fitted:
    """Train with each dropout and take the one that does best on the validation images, see `kinds.fit`."""
    best, chosen = _train(train, classes, DROPOUTS[0], seed), DROPOUTS[0]
    reached = score(best(validation[0]), validation[1])
    for dropout in DROPOUTS[1:]:
        candidate = _train(train, classes, dropout, seed)
        scored = score(candidate(validation[0]), validation[1])
        if scored > reached:
            best, chosen, reached = candidate, dropout, scored
    if refit:
        best = _train(concatenate(train, validation), classes, chosen, seed)
    return Fitted(best, reached[0], {"dropout": chosen}, refit)


def _train(train: Labelled, classes: int, dropout: float, seed: int) -> MlpHead:
    """Minimise the cross entropy by AdamW, its rate falling in a cosine to zero."""
    inputs, labels = train
    mean, std = mean_and_std(inputs)
    inputs = (inputs - mean) / std
    device = inputs.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        layers = (nn.Linear(inputs.shape[1], HIDDEN, device=device), nn.Linear(HIDDEN, classes, device=device))
        weights = [parameter for layer in layers for parameter in layer.parameters()]
        optimizer = torch.optim.AdamW(weights, lr=LR, weight_decay=WEIGHT_DECAY)
        batch = min(BATCH, len(labels))
        updates = max(EPOCHS * len(labels) // batch, UPDATES)
        rows = torch.empty(0, dtype=torch.long, device=device)
        for update in range(updates):
            if len(rows) < batch:
                rows = torch.randperm(len(labels), device=device)
            chosen, rows = rows[:batch], rows[batch:]
            for group in optimizer.param_groups:
                group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * update / updates))
            hidden = F.dropout(layers[0](inputs[chosen]).relu(), dropout)
            loss = F.cross_entropy(layers[1](hidden), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return MlpHead(mean, std, *(weight.detach() for weight in weights))
