"""Mixup and CutMix: mix the images of a batch in pairs, and their labels with them."""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms import v2

from stillsight.encoders.supervised.training.recipe import Recipe


def mix(images: Tensor, labels: Tensor, recipe: Recipe, classes: int) -> tuple[Tensor, Tensor]:
    """Mix a batch by one share, drawn from torch's own random state; with both kinds, one of them at even odds.

    Pairs are neighbours within `images`: what one process computes in one part.

    Args:
        images: uint8 `[N, 3, H, W]`, in random order.
        labels: int64 `[N]`.
        recipe: its `mixup` and `cutmix`; without either, the same images and labels come back.
        classes: number of classes.

    Returns:
        Images, float32 0..255 if they were mixed, and targets, float32 `[N, classes]` if they were mixed.
    """
    kinds: list[v2.Transform] = []
    if recipe.mixup:
        kinds.append(v2.MixUp(alpha=recipe.mixup, num_classes=classes))
    if recipe.cutmix:
        kinds.append(v2.CutMix(alpha=recipe.cutmix, num_classes=classes))
    if not kinds:
        return images, labels
    mixed: tuple[Tensor, Tensor] = v2.RandomChoice(kinds)(images.float(), labels)
    return mixed
