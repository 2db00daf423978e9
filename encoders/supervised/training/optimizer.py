"""The optimizer: which parameters decay, at which share of the rate each stage learns, and the rate over time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from stillsight.encoders.learned import Learned
from stillsight.encoders.supervised.classifier import Classifier
from stillsight.encoders.supervised.training.recipe import Recipe

FACTOR = "lr_factor"
"""Entry of a parameter group: what the recipe's rate is multiplied by. Checkpoints keep it."""


def optimizer(model: Classifier, recipe: Recipe) -> torch.optim.Optimizer:
    """An optimizer over all that learns in `model`, with one parameter group for each pair of rate and decay.

    Args:
        model: on its device.
        recipe: resolved.
    """
    factors = {id(p): recipe.encoder_lr * factor for p, factor in _stages(model.encoder.learned, recipe.layer_decay)}
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Biases and norms have no decay (He et al. 2019, "Bag of tricks", section 3.1): they have one dimension.
            decays = parameter.dim() > 1
            factor = factors.get(id(parameter), 1.0)
            weight_decay = recipe.weight_decay if decays else 0.0
            group = groups.setdefault((factor, decays), {"params": [], "weight_decay": weight_decay, FACTOR: factor})
            group["params"].append(parameter)
    assert recipe.lr is not None, "an unresolved recipe"
    ordered = [groups[key] for key in sorted(groups, reverse=True)]
    # Fused kernels read and write each weight once a step: three to five times faster, on CPUs too.
    fused = ordered[0]["params"][0].device.type in ("cpu", "cuda")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(ordered, lr=recipe.lr, fused=fused)
    return torch.optim.SGD(ordered, lr=recipe.lr, momentum=0.9, nesterov=True, fused=fused)


def _stages(learned: Learned, decay: float) -> list[tuple[nn.Parameter, float]]:
    """Each parameter with `decay` to the power of its stage's distance from the head; the last stage learns in full."""
    stages = [list(step.parameters()) for step in learned.steps]
    stages = [parameters for parameters in stages if parameters]
    return [(p, decay**distance) for distance, parameters in enumerate(reversed(stages)) for p in parameters]


def rate(recipe: Recipe, done: float) -> float:
    """Learning rate when the share `done` (0..1) of all updates is made."""
    assert recipe.lr is not None, "an unresolved recipe"
    if done < recipe.warmup:
        return recipe.lr * done / recipe.warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (done - recipe.warmup) / (1 - recipe.warmup)))


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Let every group learn at its share of `value`."""
    for group in optimizer.param_groups:
        group["lr"] = value * group[FACTOR]
