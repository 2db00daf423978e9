"""Augment a whole batch on its device. Chance is drawn for each image first, so that a batch can be shared.

torchvision's transforms make one random choice for a whole batch of tensors. Here each image has its own: what chance
decides is drawn on the CPU, one row an image, and then applied to all rows at once on the device. The same draws give
the same images on any device, and to a process that computes only its own rows of the batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from stillsight.encoders.supervised.training import randaugment
from stillsight.encoders.supervised.training.recipe import Recipe

Draws = dict[str, Tensor]
"""What chance decided, `[N, ...]` each, for the parts of the augmentation that a recipe uses."""

ERASED_AREA = (0.02, 0.33)
"""Least and largest share of an image that is erased; Zhong et al. 2020 (0.02 to 0.4), as torchvision narrows it."""

ERASED_RATIO = (0.3, 3.3)
"""Least and largest height over width of what is erased; Zhong et al. 2020, table 1."""


def draw(recipe: Recipe, count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    """Draw for `count` images of `size` (height, width) what the augmentation of `recipe` needs."""
    draws: Draws = {}
    if recipe.crop or recipe.flip:
        draws |= draw_shifts(count, recipe.crop, generator, flip=recipe.flip)
    if recipe.rotation:
        draws["degrees"] = recipe.rotation * (2 * torch.rand(count, generator=generator) - 1)
    if recipe.randaugment:
        draws |= randaugment.draw(count, generator)
    if recipe.erasing:
        draws["boxes"] = draw_boxes(recipe.erasing, count, size, generator)
    return draws


def draw_shifts(count: int, pad: int, generator: torch.Generator, *, flip: bool = True) -> Draws:
    """Shifts in -pad .. pad pixels, int64 `[N, 2]` (down, right), and which images are mirrored, bool `[N]`."""
    down, right = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator, device=generator.device) - pad
    chance = torch.rand(count, 1, generator=generator, device=generator.device)
    return {"shifts": torch.cat([down, right], 1), "flips": (chance < (0.5 if flip else 0.0))[:, 0]}


def draw_boxes(share: float, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Boxes int64 `[N, 4]` (top, left, height, width) for a `share` of the images, and empty ones for the others.

    Area and aspect ratio are drawn as by Zhong et al. 2020. Where they draw again if a box does not fit into the image,
    the box is cut to its height or width.
    """
    height, width = size
    chosen, area, ratio, top, left = torch.rand(5, count, generator=generator)
    low, high = ERASED_AREA
    pixels = height * width * (low + (high - low) * area)
    low, high = map(math.log, ERASED_RATIO)
    aspect = torch.exp(low + (high - low) * ratio)
    tall = (pixels * aspect).sqrt().round().clamp(1, height)
    wide = (pixels / aspect).sqrt().round().clamp(1, width)
    tall = torch.where(chosen < share, tall, torch.zeros_like(tall))
    places = [(top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()]
    return torch.stack([*places, tall, wide], 1).long()


def augment(images: Tensor, draws: Draws, recipe: Recipe) -> Tensor:
    """Apply `draws` to as many `images`, uint8 `[N, C, H, W]` on any device; out come the same shape and dtype."""
    if "shifts" in draws:
        images = shift(images, draws["shifts"], draws["flips"])
    if "degrees" in draws:
        images = rotate(images, draws["degrees"])
    if "operations" in draws:
        images = randaugment.distort(images, draws["operations"], draws["signs"], recipe.randaugment)
    if "boxes" in draws:
        images = erase(images, draws["boxes"])
    return images


def shift(images: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
    """Take from each image the window that lies `shifts` `[N, 2]` further, then mirror those of `flips` `[N]`.

    Beyond the border the image is reflected, its edge pixels not repeated. With `draw_shifts(N, 4, ...)` this is the
    standard augmentation of CIFAR (He et al. 2016, section 4.2).

    Args:
        images: uint8 or float `[N, C, H, W]`.
        shifts: int64, down and right in pixels, less than H and W.
        flips: bool.
    """
    channels, height, width = images.shape[1:]
    down, right = shifts.to(images.device, non_blocking=True).unbind(1)
    flips = flips.to(images.device, non_blocking=True)
    rows = _reflected(down[:, None] + torch.arange(height, device=images.device), height)
    columns = _reflected(right[:, None] + torch.arange(width, device=images.device), width)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    shifted = images.gather(2, rows[:, None, :, None].expand(-1, channels, -1, width))
    return shifted.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))


def _reflected(index: Tensor, length: int) -> Tensor:
    """-1, 0, ..., length -> 1, 0, ..., length - 2."""
    return (length - 1) - ((length - 1) - index.abs()).abs()


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image counter-clockwise about its centre by its entry of `degrees` `[N]`, reflecting at the border."""
    height, width = images.shape[2:]
    angle = torch.deg2rad(degrees.to(images.device, non_blocking=True))
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid's coordinates run from -1 to 1 along both sides, so a rotation of pixels needs the sides' ratio.
    theta = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    turned = F.grid_sample(images.float(), grid, "bilinear", "reflection", align_corners=False)
    return turned.to(images.dtype) if images.is_floating_point() else turned.round().to(images.dtype)


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Fill the box `[N, 4]` (top, left, height, width) of each image with the image's mean colour."""
    height, width = images.shape[2:]
    top, left, tall, wide = boxes.to(images.device, non_blocking=True)[:, :, None].unbind(1)
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside = ((rows >= top) & (rows < top + tall))[:, :, None] & ((columns >= left) & (columns < left + wide))[:, None]
    colour = images.float().mean((2, 3), keepdim=True)
    return torch.where(inside[:, None], colour.to(images.dtype), images)
