"""The optimizer: which parameters decay, at which share of the rate each stage learns, and the rate over time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from stillsight.encoders.errors import EncoderError
from stillsight.encoders.learned import Learned
from stillsight.encoders.supervised.classifier import Classifier
from stillsight.encoders.supervised.training.recipe import Recipe
from stillsight.encoders.taps.learned_pooling import pooling_parameters


def optimizer(model: Classifier, recipe: Recipe) -> torch.optim.Optimizer:
    """An optimizer over all that learns in `model`, with one parameter group for each pair of rate and decay.

    Args:
        model: on its device.
        recipe: resolved.
    """
    assert recipe.lr is not None, "an unresolved recipe"
    factors = {id(p): recipe.encoder_lr * factor for p, factor in _stages(model.encoder.learned, recipe.layer_decay)}
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Biases and norms have no decay (He et al. 2019, "Bag of tricks", section 3.1): they have one dimension.
            decays = parameter.dim() > 1
            factor = factors.get(id(parameter), 1.0)
            weight_decay = recipe.weight_decay if decays else 0.0
            new: dict[str, Any] = {"params": [], "weight_decay": weight_decay, "lr": recipe.lr * factor}
            group = groups.setdefault((factor, decays), new)
            group["params"].append(parameter)
    ordered = [groups[key] for key in sorted(groups, reverse=True)]
    # Fused kernels read and write each weight once a step: three to five times faster, on CPUs too.
    fused = ordered[0]["params"][0].device.type in ("cpu", "cuda")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(ordered, lr=recipe.lr, fused=fused)
    return torch.optim.SGD(ordered, lr=recipe.lr, momentum=0.9, nesterov=True, fused=fused)


def _stages(learned: Learned, decay: float) -> list[tuple[nn.Parameter, float]]:
    """Each parameter with `decay` to the power of its stage's distance from the head; the last stage learns in full.

    Poolings that learn are no stages: they begin at random, as the head does, and learn at its rate.
    """
    poolings = pooling_parameters(learned)
    stages = [[p for p in step.parameters() if id(p) not in poolings] for step in learned.steps]
    stages = [parameters for parameters in stages if parameters]
    return [(p, decay**distance) for distance, parameters in enumerate(reversed(stages)) for p in parameters]


def course(recipe: Recipe, updates: int) -> Callable[[int], float]:
    """Share (0..1] of the rate at which update 0, 1 .. `updates` - 1 is made: a line up to one, then half a cosine.

    No update is made at rate zero, the first and the last one neither: the line would begin there one update before the
    first, and the cosine ends there one after the last.

    Args:
        recipe: its `warmup`.
        updates: of the whole training, from 1.
    """
    rising = min(round(recipe.warmup * updates), updates - 1)

    def share(made: int) -> float:
        if made < rising:
            return (made + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (made - rising) / (updates - rising)))

    return share


def schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, updates: int, made: int) -> LambdaLR:
    """torch's schedule of `course`, to be stepped after each update, in the place where `made` updates leave it.

    Args:
        optimizer: fresh, or with the groups of a checkpoint, in which torch keeps each group's highest rate.
        recipe: its `warmup`.
        updates: of the whole training.
        made: of them.

    Raises:
        EncoderError: the checkpoint comes from a version whose rates had another course.
    """
    if made and any("initial_lr" not in group for group in optimizer.param_groups):
        raise EncoderError(
            "The stopped training was saved by an older version of stillsight, whose rates had another course. Start "
            "it anew, in another folder (--out FOLDER)."
        )
    return LambdaLR(optimizer, course(recipe, updates), last_epoch=made - 1 if made else -1)
