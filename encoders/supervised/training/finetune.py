"""Train an encoder and its head on labelled images that lie on the device, in one process or many."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillsight.encoders.errors import EncoderError
from stillsight.encoders.supervised.classifier import Classifier, logits
from stillsight.encoders.supervised.data.split import Split
from stillsight.encoders.supervised.training.augment import augment, draw
from stillsight.encoders.supervised.training.average import averaged
from stillsight.encoders.supervised.training.distributed import World, current
from stillsight.encoders.supervised.training.layout import channels_last, lay_out
from stillsight.encoders.supervised.training.mixing import mix
from stillsight.encoders.supervised.training.optimizer import optimizer, schedule
from stillsight.encoders.supervised.training.recipe import Recipe
from stillsight.encoders.supervised.training.training_state import Progress
from stillsight.encoders.supervised.training.update import Part, Update, gradient_step
from stillsight.encoders.system import stopping
from stillsight.encoders.system.stopping import Stop

Report = Callable[[dict[str, Any]], None]

STOP_EVERY = 8
"""Updates after which processes that train together ask each other whether a signal has reached one of them."""

ERRORS = 2.0
"""Standard errors by which an epoch must beat a start that competes. With one, a training on 5 CIFAR-10 images a class,
whose validation images are ten, ended four points below its start on the test images."""


def start(model: Classifier, recipe: Recipe, seed: int) -> Progress:
    """What a fresh training begins with: no epoch made, an optimizer, a random generator and an average if wanted."""
    device = next(model.parameters()).device
    lay_out(model.encoder.learned, channels_last(model.encoder.learned, recipe, device))
    average = averaged(model, recipe.ema) if recipe.ema else None
    learner = optimizer(model, recipe.resolved(model.pretrained))
    return Progress(0, learner, torch.Generator().manual_seed(seed), average)


def train(
    model: Classifier,
    train_split: Split,
    validation: Split,
    recipe: Recipe,
    progress: Progress,
    report: Report,
    *,
    world: World | None = None,
    update: Update = gradient_step,
) -> Iterator[int]:
    """Train, yielding the number of finished epochs whenever the caller should save `progress.state(model)`.

    That is after each epoch, and within one by `Recipe.save_every`. At the end `model` holds the weights to use: those
    of the best epoch where the recipe may stop early or `keep_start` was called, or else the running average where it
    does at least as well on the validation images. Every process of `world` calls this alike; each computes its share
    of every batch, and only the main one calls `report`.

    Args:
        model: on its device.
        train_split, validation: on the same device.
        recipe: see `Recipe`.
        progress: from `start`, or restored.
        report: called after each epoch with its metrics.
        world: the processes to share batches with; by default those that have joined, see `distributed.joined`.
        update: makes one step of the optimizer on one batch; augmentation, rate, average and metrics are not its
            business.

    Raises:
        EncoderError: a batch cannot be shared evenly, or is larger than the training images; BatchNorm would see too
            little, see `check_batchnorm`; the loss is lost.
        Stop: a signal asked for it under `stopping.answering(deferred=True)`; the caller has been yielded to before.
    """
    recipe = recipe.resolved(model.pretrained)
    world = current() if world is None else world
    recipe.check_shares(world.size)
    updates = len(train_split) // recipe.batch
    if not updates:
        raise EncoderError(
            f"--batch {recipe.batch} is larger than the {len(train_split):,} training images. Type a smaller one."
        )
    check_batchnorm(model, train_split, recipe, world)
    device = train_split.images.device
    network: Any = world.data_parallel(model, device)
    if recipe.compile:
        network = torch.compile(network)
    rates = schedule(progress.optimizer, recipe, updates * recipe.epochs, progress.epoch * updates + progress.update)
    while progress.epoch < recipe.epochs and not _out_of_patience(progress, recipe):
        if progress.order is None:
            progress.begin(len(train_split), device)
        began, before = time.perf_counter(), progress.update
        since = began
        model.train()
        while progress.update < updates:
            if (number := _asked_to_stop(progress, world)) is not None:
                if progress.update:
                    _average_buffers(model, progress, world)
                    progress.gather(world)
                    progress.count_seconds(since, device)
                    yield progress.epoch
                world.broadcast(None)  # torchrun ends all where one ends: the main one has saved now
                raise Stop(number)
            update(network, _parts(train_split, model.head.out_features, recipe, progress, world), progress, recipe)
            if progress.average is not None:
                progress.average.update_parameters(model)
            rates.step()
            progress.update += 1
            if recipe.save_every and progress.update % recipe.save_every == 0 and progress.update < updates:
                _average_buffers(model, progress, world)
                progress.gather(world)
                progress.count_seconds(since, device)
                yield progress.epoch
                since = time.perf_counter()
                model.train()  # the caller may have looked at it in eval mode
        images = updates * recipe.batch
        row = {
            "epoch": progress.epoch + 1,
            "loss": _checked(world.sum(progress.loss).item() / updates / world.size, recipe, progress),
            "train_accuracy": world.sum(progress.hits).item() / images,
            "lr": (recipe.lr or 0) * rates.lr_lambdas[0](rates.last_epoch - 1),  # of the epoch's last update
            "images_per_s": (updates - before) * recipe.batch / (time.perf_counter() - began),
        }
        progress.count_seconds(since, device)
        row |= {} if progress.train_seconds is None else {"train_seconds": progress.train_seconds}
        progress.end()
        row |= _validate(model, validation, recipe, progress, world)
        if world.is_main:
            report(row)
        yield progress.epoch
    if progress.kept is not None:
        model.load_state_dict(progress.kept)
    elif progress.average is not None and progress.averaged_is_better:
        model.load_state_dict(progress.average.module.state_dict())


def _asked_to_stop(progress: Progress, world: World) -> int | None:
    """The signal that asked to stop, if one did; all processes of `world` hear of it before the same update."""
    if world.size == 1:
        return stopping.asked()
    if progress.update % STOP_EVERY:
        return None
    heard = int(world.sum(torch.tensor(int(stopping.asked() is not None))))
    return (stopping.asked() or signal.SIGTERM) if heard else None


def keep_start(model: Classifier, validation: Split, recipe: Recipe, progress: Progress, world: World) -> float:
    """Let the weights as they are before training compete with those of every epoch, and return their accuracy.

    The validation images decide. Where they are few, some of many epochs gets one or two of them more right by chance,
    so an epoch replaces the start only if it is better by more than `ERRORS` standard errors of the start's accuracy,
    after the rule of Breiman et al. 1984 ("Classification and Regression Trees", section 3.4.3), who take one.

    Args:
        model, validation, recipe, progress, world: as for `train`, before it.
    """
    accuracy = _accuracy(model, validation, recipe.resolved(model.pretrained), world)
    progress.best, progress.best_epoch = accuracy, 0
    progress.margin = ERRORS * math.sqrt(accuracy * (1 - accuracy) / len(validation))
    progress.keep(model)
    return accuracy


@torch.no_grad()
def check_batchnorm(model: Classifier, split: Split, recipe: Recipe, world: World) -> None:
    """Refuse batches that leave a BatchNorm layer that follows them one value a channel, which has no variance.

    Args:
        model: on its device.
        split: the training images; two of them are looked at.
        recipe, world: what a batch is and how it is shared.

    Raises:
        EncoderError: some layer would see too little.
    """
    model.train()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    moving = {name: module for name, module in layers.items() if module.training}
    model.eval()
    if not moving:
        return
    places: dict[str, int] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: places.update({name: inputs[0][0, 0].numel()})

    hooks = [module.register_forward_pre_hook(look(name)) for name, module in moving.items()]
    try:
        with model.encoder.counter.paused():
            model(split.images[:2])
    finally:
        for hook in hooks:
            hook.remove()
    # On GPUs several processes make one SyncBatchNorm, see `World.data_parallel`.
    alone = 1 if split.images.device.type == "cuda" else world.size
    images = recipe.batch // alone // recipe.accumulate
    smallest = min(places, key=lambda name: places[name], default=None)
    if smallest is None or places[smallest] * images > 1:
        return
    key = smallest.removeprefix("encoder.learned.steps.") + ".running_mean"
    layer = model.encoder.learned.official.get(key, key).removesuffix(".running_mean")
    among = f", each of {alone} processes" if alone > 1 else ""
    fewer = ", a smaller --accumulate" if recipe.accumulate > 1 else ""
    raise EncoderError(
        f"--batch {recipe.batch} with --accumulate {recipe.accumulate} shows BatchNorm one image at a time{among}, "
        f"and {layer} of the encoder sees one value a channel of it, which has no variance. Type --batch "
        f"{4 * alone * recipe.accumulate}{fewer}, a larger --resolution, or --batchnorm frozen."
    )


def _parts(split: Split, classes: int, recipe: Recipe, progress: Progress, world: World) -> Iterator[Part]:
    """This process's share of the next batch, in the parts of `Recipe.accumulate`; each is made when asked for."""
    assert progress.order is not None
    device = split.images.device
    height, width = split.images.shape[2:]
    rows = progress.order[progress.update * recipe.batch : (progress.update + 1) * recipe.batch]
    # Every process draws for the whole batch, and so all stay at the same place of the same stream.
    draws = draw(recipe, recipe.batch, (height, width), progress.generator)
    _seed(device, int(torch.randint(2**62, (), generator=progress.generator)) + world.rank)
    size = recipe.batch // world.size // recipe.accumulate
    for number in range(recipe.accumulate):
        first = (world.rank * recipe.accumulate + number) * size
        part = slice(first, first + size)
        chosen = rows[part].to(device, non_blocking=True)
        labels = split.labels[chosen]
        images = augment(split.images[chosen], {name: drawn[part] for name, drawn in draws.items()}, recipe)
        yield Part(*mix(images, labels, recipe, classes), labels)


def _checked(loss: float, recipe: Recipe, progress: Progress) -> float:
    """The loss, if it is a number."""
    if not math.isfinite(loss):
        raise EncoderError(
            f"The loss became {loss} in epoch {progress.epoch + 1}: the weights have run away. What was saved before "
            f"is kept. Start again with a lower rate, say --lr {(recipe.lr or 0) / 10:g}."
        )
    return loss


def _seed(device: torch.device, seed: int) -> None:
    """Set the random state of `device` and of the CPU. `torch.manual_seed` would wake up devices that are not used."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _average_buffers(model: Classifier, progress: Progress, world: World) -> None:
    """Bring together what the shares of several processes have moved apart, before one of them saves or all judge."""
    if not model.encoder.learned.moves_statistics:  # which a mean would round
        return
    world.average_buffers(model)
    if progress.average is not None:
        world.average_buffers(progress.average.module)


def _validate(
    model: Classifier, validation: Split, recipe: Recipe, progress: Progress, world: World
) -> dict[str, float]:
    """Accuracies on the validation images after an epoch, and what follows from them for the weights to end with."""
    _average_buffers(model, progress, world)
    scores = {"validation_accuracy": _accuracy(model, validation, recipe, world)}
    better: nn.Module = model
    if progress.average is not None:
        twin = progress.average.module
        scores["averaged_validation_accuracy"] = _accuracy(twin, validation, recipe, world)
        progress.averaged_is_better = scores["averaged_validation_accuracy"] >= scores["validation_accuracy"]
        better = twin if progress.averaged_is_better else model
    best = max(scores.values())
    # Of two epochs that do alike the later one has learned more and at a lower rate, but patience waits for a better.
    alike = best == progress.best and progress.best_epoch > 0 and not recipe.patience
    margin = 0.0 if progress.best_epoch else progress.margin
    if best > progress.best + margin or alike:
        progress.best, progress.best_epoch = best, progress.epoch
        if recipe.patience or progress.kept is not None:
            progress.keep(better)
    return scores


def _out_of_patience(progress: Progress, recipe: Recipe) -> bool:
    return bool(recipe.patience) and progress.epoch - progress.best_epoch >= recipe.patience


def _accuracy(model: nn.Module, split: Split, recipe: Recipe, world: World) -> float:
    """Accuracy on `split`, of which each process looks at its share."""
    share = Split(split.images[world.rank :: world.size], split.labels[world.rank :: world.size])
    predicted = logits(model, share.images, recipe.precision, tta=recipe.tta).argmax(1)
    return int(world.sum((predicted == share.labels).sum())) / len(split)
