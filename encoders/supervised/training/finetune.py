"""Training an encoder and its head on labelled images that lie on the device, in one process or many."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders.device import autocast
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.supervised.classifier import Classifier, evaluate, logits
from stillsight.encoders.supervised.data.dataset import Split
from stillsight.encoders.supervised.training import distributed
from stillsight.encoders.supervised.training.augment import augment, draw
from stillsight.encoders.supervised.training.average import averaged
from stillsight.encoders.supervised.training.layout import channels_last, lay_out
from stillsight.encoders.supervised.training.mixing import mix
from stillsight.encoders.supervised.training.optimizer import optimizer, rate, set_rate
from stillsight.encoders.supervised.training.recipe import Recipe
from stillsight.encoders.supervised.training.training_state import Progress

__all__ = ["Classifier", "Progress", "Recipe", "evaluate", "logits", "rate", "start", "train"]

Report = Callable[[dict[str, Any]], None]


def start(model: Classifier, recipe: Recipe, seed: int) -> Progress:
    """What a fresh training begins with: no epoch made, an optimizer, a random generator and an average if wanted."""
    device = next(model.parameters()).device
    lay_out(model.encoder.learned, channels_last(model.encoder.learned, recipe, device))
    average = averaged(model, recipe.ema) if recipe.ema else None
    made = optimizer(model, recipe.resolved(model.pretrained))
    return Progress(0, made, torch.Generator().manual_seed(seed), average)


def train(
    model: Classifier, train_split: Split, validation: Split, recipe: Recipe, progress: Progress, report: Report
) -> Iterator[int]:
    """Train, yielding the number of finished epochs whenever the caller should save `progress.state(model)`.

    That is after each epoch, and within one by `Recipe.save_every`. At the end `model` holds the weights to use: those
    of the best epoch where the recipe may stop early, or the running average where it does at least as well on the
    validation images. Under torchrun every process calls this alike; each computes its share of every batch, and only
    the first one calls `report`.

    Args:
        model: on its device.
        train_split, validation: on the same device.
        recipe: see `Recipe`.
        progress: from `start`, or restored.
        report: called after each epoch with its metrics.

    Raises:
        EncoderError: a batch cannot be shared evenly, or is larger than the training images; the loss is lost.
    """
    recipe = recipe.resolved(model.pretrained)
    here = distributed.world()
    recipe.check_shares(here.size)
    updates = len(train_split) // recipe.batch
    if not updates:
        raise EncoderError(
            f"--batch {recipe.batch} is larger than the {len(train_split):,} training images. Type a smaller one."
        )
    device = train_split.images.device
    network = distributed.together(model, device)
    run = torch.compile(network) if recipe.compile else network
    while progress.epoch < recipe.epochs and not _stale(progress, recipe):
        if progress.order is None:
            progress.begin(len(train_split), device)
        began, before = time.perf_counter(), progress.update
        model.train()
        while progress.update < updates:
            done = (progress.epoch + progress.update / updates) / recipe.epochs
            set_rate(progress.optimizer, rate(recipe, done))
            _update(model, network, run, train_split, recipe, progress)
            progress.update += 1
            if recipe.save_every and progress.update % recipe.save_every == 0 and progress.update < updates:
                _agree(model, progress)
                progress.gather()
                yield progress.epoch
                model.train()  # the caller may have looked at it in eval mode
        images = updates * recipe.batch
        row = {
            "epoch": progress.epoch + 1,
            "loss": _finite(distributed.total(progress.loss).item() / updates / here.size, recipe, progress),
            "train_accuracy": distributed.total(progress.hits).item() / images,
            "lr": rate(recipe, (progress.epoch + 1) / recipe.epochs),
            "images_per_s": (updates - before) * recipe.batch / (time.perf_counter() - began),
        }
        progress.end()
        row |= _judge(model, validation, recipe, progress)
        if here.first:
            report(row)
        yield progress.epoch
    if recipe.patience and progress.kept is not None:
        model.load_state_dict(progress.kept)
    elif progress.average is not None and progress.averaged_is_better:
        model.load_state_dict(progress.average.module.state_dict())


def _update(
    model: Classifier, network: nn.Module, run: Callable[[Tensor], Tensor], split: Split, recipe: Recipe, at: Progress
) -> None:
    """One step of the optimizer on this process's share of the next batch."""
    assert at.order is not None
    here, device = distributed.world(), split.images.device
    rows = at.order[at.update * recipe.batch : (at.update + 1) * recipe.batch]
    # Every process draws for the whole batch, and so all stay at the same place of the same stream.
    draws = draw(recipe, recipe.batch, _size(split), at.generator)
    _seed(device, int(torch.randint(2**62, (), generator=at.generator)) + here.rank)
    part = recipe.batch // here.size // recipe.accumulate
    classes = model.head.out_features
    for index in range(recipe.accumulate):
        first = (here.rank * recipe.accumulate + index) * part
        mine = slice(first, first + part)
        chosen = rows[mine].to(device, non_blocking=True)
        labels = split.labels[chosen]
        images = augment(split.images[chosen], {name: each[mine] for name, each in draws.items()}, recipe)
        inputs, targets = mix(images, labels, recipe, classes)
        last = index == recipe.accumulate - 1
        # Gradients travel with the last part alone; before it they are only added up.
        with contextlib.nullcontext() if last or network is model else network.no_sync():  # type: ignore[operator]
            with autocast(device, recipe.precision):
                found = run(inputs).float()
            loss = F.cross_entropy(found, targets, label_smoothing=recipe.label_smoothing) / recipe.accumulate
            loss.backward()
        at.loss += loss.detach()
        at.hits += (found.argmax(1) == labels).sum()
    at.optimizer.step()
    at.optimizer.zero_grad()
    if at.average is not None:
        at.average.update_parameters(model)


def _finite(loss: float, recipe: Recipe, progress: Progress) -> float:
    if not math.isfinite(loss):
        raise EncoderError(
            f"The loss became {loss} in epoch {progress.epoch + 1}: the weights have run away. What was saved before "
            f"is kept. Start again with a lower rate, say --lr {(recipe.lr or 0) / 10:g}."
        )
    return loss


def _size(split: Split) -> tuple[int, int]:
    height, width = split.images.shape[2:]
    return height, width


def _seed(device: torch.device, seed: int) -> None:
    """Set the random state of `device` and of the CPU. `torch.manual_seed` would wake up devices that are not used."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _agree(model: Classifier, progress: Progress) -> None:
    """Bring together what the shares of several processes have moved apart, before one of them saves or all judge."""
    distributed.average_statistics(model)
    if progress.average is not None:
        distributed.average_statistics(progress.average.module)


def _judge(model: Classifier, validation: Split, recipe: Recipe, progress: Progress) -> dict[str, float]:
    """Accuracies on the validation images after an epoch, and what follows from them for the weights to end with."""
    _agree(model, progress)
    scores = {"validation_accuracy": _score(model, validation, recipe)}
    better: nn.Module = model
    if progress.average is not None:
        twin = progress.average.module
        scores["averaged_validation_accuracy"] = _score(twin, validation, recipe)
        progress.averaged_is_better = scores["averaged_validation_accuracy"] >= scores["validation_accuracy"]
        better = twin if progress.averaged_is_better else model
    score = max(scores.values())
    if score > progress.best:
        progress.best, progress.best_epoch = score, progress.epoch
        if recipe.patience:
            progress.kept = {name: tensor.detach().clone() for name, tensor in better.state_dict().items()}
    return scores


def _stale(progress: Progress, recipe: Recipe) -> bool:
    return bool(recipe.patience) and progress.epoch - progress.best_epoch >= recipe.patience


def _score(model: nn.Module, split: Split, recipe: Recipe) -> float:
    """Accuracy on `split`, of which each process looks at its share."""
    here = distributed.world()
    mine = Split(split.images[here.rank :: here.size], split.labels[here.rank :: here.size])
    found = logits(model, mine.images, recipe.precision, tta=recipe.tta)
    hits = distributed.total((found.argmax(1) == mine.labels).sum())
    return int(hits) / len(split)
