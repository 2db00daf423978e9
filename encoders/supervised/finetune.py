"""Training an encoder and its head on labelled images that lie on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders.device import Precision, autocast
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.supervised.augment import shift_and_flip
from stillsight.encoders.supervised.dataset import Split
from stillsight.encoders.supervised.head import accuracy


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: SGD with Nesterov momentum, a linear warm-up and a cosine to zero.

    Attributes:
        epochs: passes over the training images.
        batch: images an update.
        lr: highest learning rate.
        weight_decay: on matrices and convolutions; biases and BatchNorm have none (He et al. 2019, "Bag of tricks").
        label_smoothing: share of each label that is spread over all classes.
        warmup: share of the updates during which the rate rises.
        precision: auto, float32 or bf16.
    """

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    label_smoothing: float
    warmup: float
    precision: Precision


class Classifier(nn.Module):
    """An encoder with a linear head: pixels `[N, 3, H, W]` -> logits `[N, classes]`."""

    def __init__(self, encoder: Encoder, classes: int, features: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(features, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(pixels))
        return logits


@dataclass
class Progress:
    """What a training needs beyond weights to go on where it stopped."""

    epoch: int
    optimizer: torch.optim.Optimizer
    generator: torch.Generator


def start(model: Classifier, recipe: Recipe, seed: int) -> Progress:
    """Optimizer and random generator for a fresh training."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)
    generator = torch.Generator(device=next(model.parameters()).device)
    return Progress(0, optimizer, generator.manual_seed(seed))


def rate(recipe: Recipe, done: float) -> float:
    """Learning rate when the share `done` (0..1) of all updates is made."""
    if done < recipe.warmup:
        return recipe.lr * done / recipe.warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (done - recipe.warmup) / (1 - recipe.warmup)))


def train(
    model: Classifier,
    train_split: Split,
    validation: Split,
    recipe: Recipe,
    progress: Progress,
    report: Callable[[dict[str, Any]], None],
) -> Iterator[int]:
    """Train, yielding the number of finished epochs after each, so that the caller can save.

    Args:
        model: on its device.
        train_split, validation: on the same device.
        recipe: see `Recipe`.
        progress: from `start`, or restored.
        report: called after each epoch with its metrics.
    """
    device = train_split.images.device
    updates = len(train_split) // recipe.batch
    while progress.epoch < recipe.epochs:
        began, losses, hits = time.perf_counter(), 0.0, 0
        model.train()
        order = torch.randperm(len(train_split), generator=progress.generator, device=device)
        for update in range(updates):
            rows = order[update * recipe.batch : (update + 1) * recipe.batch]
            labels = train_split.labels[rows]
            images = shift_and_flip(train_split.images[rows], progress.generator)
            for group in progress.optimizer.param_groups:
                group["lr"] = rate(recipe, (progress.epoch + update / updates) / recipe.epochs)
            with autocast(device, recipe.precision):
                logits = model(images).float()
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            progress.optimizer.zero_grad()
            loss.backward()
            progress.optimizer.step()
            losses += loss.item()
            hits += int((logits.argmax(1) == labels).sum())
        seconds = time.perf_counter() - began
        progress.epoch += 1
        report(
            {
                "epoch": progress.epoch,
                "loss": losses / updates,
                "train_accuracy": hits / (updates * recipe.batch),
                "validation_accuracy": evaluate(model, validation, recipe.precision),
                "images_per_s": updates * recipe.batch / seconds,
            }
        )
        yield progress.epoch


@torch.no_grad()
def evaluate(model: Classifier, split: Split, precision: Precision, batch: int = 500) -> float:
    """Accuracy (0..1) on `split`, in eval mode."""
    model.eval()
    device = split.images.device
    with autocast(device, precision):
        logits = torch.cat([model(part).float() for part in split.images.split(batch)])
    return accuracy(logits, split.labels)
