"""RandAugment a batch: each image has its own operations, and images with the same one are computed together."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

ROUNDS = 2
"""Operations an image, one after the other (Cubuk et al. 2020, table 2)."""

STEPS = 30
"""The magnitude at which an operation is strongest; torchvision counts 31 of them, from 0."""

Operation = Callable[[Tensor, float], Tensor]


def _affine(images: Tensor, *, move: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    # As in the paper's code an image is sheared about its corner, and given as a tangent.
    slant = [math.degrees(math.atan(tangent)) for tangent in shear]
    corner = [0.0, 0.0] if any(shear) else None
    moved: Tensor = tv.affine(images, angle=0.0, translate=list(move), scale=1.0, shear=slant, center=corner)
    return moved


OPERATIONS: dict[str, tuple[Operation, bool]] = {
    "Identity": (lambda images, _: images, False),
    "ShearX": (lambda images, m: _affine(images, shear=(0.3 * m, 0.0)), True),
    "ShearY": (lambda images, m: _affine(images, shear=(0.0, 0.3 * m)), True),
    "TranslateX": (lambda images, m: _affine(images, move=(int(150 / 331 * images.shape[3] * m), 0)), True),
    "TranslateY": (lambda images, m: _affine(images, move=(0, int(150 / 331 * images.shape[2] * m))), True),
    "Rotate": (lambda images, m: tv.rotate(images, 30.0 * m), True),
    "Brightness": (lambda images, m: tv.adjust_brightness(images, 1 + 0.9 * m), True),
    "Color": (lambda images, m: tv.adjust_saturation(images, 1 + 0.9 * m), True),
    "Contrast": (lambda images, m: tv.adjust_contrast(images, 1 + 0.9 * m), True),
    "Sharpness": (lambda images, m: tv.adjust_sharpness(images, 1 + 0.9 * m), True),
    "Posterize": (lambda images, m: tv.posterize(images, round(8 - 4 * m)), False),
    "Solarize": (lambda images, m: tv.solarize(images, 255 * (1 - m)), False),
    "AutoContrast": (lambda images, _: tv.autocontrast(images), False),
    "Equalize": (lambda images, _: tv.equalize(images), False),
}
"""Name -> (images uint8 `[n, 3, H, W]` and strength 0..1, or -1..1 if it has a sign, -> images; whether it has one).
The operations and ranges of torchvision's RandAugment, on torchvision's functions."""


def draw(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Which operations, int64 `[N, ROUNDS]`, and with which signs, bool `[N, ROUNDS]` (True for minus)."""
    operations = torch.randint(len(OPERATIONS), (count, ROUNDS), generator=generator)
    return {"operations": operations, "signs": torch.rand(count, ROUNDS, generator=generator) < 0.5}


def distort(images: Tensor, operations: Tensor, signs: Tensor, magnitude: int) -> Tensor:
    """Apply to each image its operations.

    Args:
        images: uint8 `[N, 3, H, W]` on any device.
        operations, signs: from `draw`, on the CPU.
        magnitude: 0..STEPS, the same for all.
    """
    images = images.clone()
    for chosen, negative in zip(operations.unbind(1), signs.unbind(1), strict=True):
        for index, (operation, signed) in enumerate(OPERATIONS.values()):
            for minus in (False, True) if signed else (None,):
                wanted = (chosen == index) if minus is None else (chosen == index) & (negative == minus)
                rows = wanted.nonzero()[:, 0].to(images.device, non_blocking=True)
                if len(rows):
                    images[rows] = operation(images[rows], (-1 if minus else 1) * magnitude / STEPS)
    return images
