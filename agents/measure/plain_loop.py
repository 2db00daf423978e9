"""Train the plain way, as torchvision's reference scripts are written: what ours is measured beside."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import v2

from stillsight.encoders.device import autocast, synchronize
from stillsight.encoders.supervised.classifier import Classifier
from stillsight.encoders.supervised.data.split import Split
from stillsight.encoders.supervised.training.mixing import mix
from stillsight.encoders.supervised.training.recipe import Recipe


class Pictures:
    """A data set as torchvision.datasets.CIFAR10 is one: an array in memory, a PIL image and its transform an item."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images = split.images.permute(0, 2, 3, 1).cpu().numpy()
        self.labels = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def transform(model: Classifier, recipe: Recipe, side: int) -> v2.Compose:
    """The augmentation of `recipe` for one PIL image, then the encoder's preprocessing: what workers do."""
    encoder = model.encoder
    steps: list[nn.Module] = []
    if recipe.crop:
        steps.append(v2.RandomCrop(side, padding=recipe.crop, padding_mode="reflect"))
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.rotation:
        steps.append(v2.RandomRotation(recipe.rotation, interpolation=v2.InterpolationMode.BILINEAR))
    if recipe.randaugment:
        steps.append(v2.RandAugment(magnitude=recipe.randaugment))
    if encoder.resolution is not None and encoder.resolution != side:
        steps.append(v2.Resize((encoder.resolution, encoder.resolution)))
    preprocessing = encoder.preprocessing
    steps += [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    steps.append(v2.Normalize(list(preprocessing.mean), list(preprocessing.std)))
    if recipe.erasing:
        steps.append(v2.RandomErasing(recipe.erasing))
    return v2.Compose(steps)


def mixed(batch: list[tuple[Tensor, int]], recipe: Recipe, classes: int) -> tuple[Tensor, Tensor]:
    """Put a list of images and labels together, then mix them, in the worker, as torchvision's scripts do."""
    images, labels = default_collate(batch)
    return mix(images, labels, recipe, classes)


def network(model: Classifier) -> nn.Sequential:
    """A copy of `model` for images that are normalised already, with its weights laid out as torch makes them."""
    steps = [*model.encoder.frozen.steps, *model.encoder.learned.steps][1:]  # the first one normalises
    copies = copy.deepcopy(nn.Sequential(*steps, model.dropout, model.head))
    return copies.to(memory_format=torch.contiguous_format)


def plain_epochs(
    model: Classifier, split: Split, recipe: Recipe, device: torch.device, workers: int
) -> Iterator[float]:
    """Train epoch after epoch the plain way, yielding the images/s of each.

    Written after references/classification/train.py of torchvision: DataLoader workers, transforms image by image,
    mixing in the collate function, the loss and the hits of every batch fetched for a log. The clock starts when the
    first batch has arrived, which favours this way a little: what the workers have fetched ahead is not timed. What of
    the encoder is frozen is in eval mode and has no gradients.

    Args:
        model: copied, see `network`.
        split: the images.
        recipe: resolved; without averaging, accumulation and early stopping.
        device: where to train.
        workers: DataLoader processes.
    """
    loader: DataLoader[Any] = DataLoader(
        Pictures(split, transform(model, recipe, split.images.shape[3])),  # type: ignore[arg-type] # it needs no base
        batch_size=recipe.batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        collate_fn=partial(mixed, recipe=recipe, classes=model.head.out_features),
    )
    trained = network(model).to(device).train()
    frozen = len(model.encoder.frozen.steps)
    trained[: max(frozen - 1, 0)].eval()  # less the step that normalises
    assert recipe.lr is not None, "an unresolved recipe"
    assert recipe.weight_decay is not None, "an unresolved recipe"
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[recipe.optimizer]
    options = {"momentum": 0.9, "nesterov": True} if recipe.optimizer == "sgd" else {}
    learning = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimizer = kind(learning, lr=recipe.lr, weight_decay=recipe.weight_decay, **options)
    while True:
        began, count = 0.0, 0
        for images, targets in loader:
            if began:
                count += len(images)
            images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            with autocast(device, recipe.precision):
                output = trained(images)
                loss = F.cross_entropy(output, targets, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            labels = targets.argmax(1) if targets.dim() > 1 else targets
            (output.argmax(1) == labels).float().mean().item()
            if not began:
                synchronize(device)
                began = time.perf_counter()
        synchronize(device)
        yield count / (time.perf_counter() - began)
