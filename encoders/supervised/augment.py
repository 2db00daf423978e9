"""Augmentation of a whole batch where it lies: random shifts and flips, as one gather on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def shift_and_flip(images: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Shift each image by up to `pad` pixels each way (reflecting at the border) and flip half of them.

    The standard CIFAR augmentation (He et al. 2016, section 4.2), for a batch at once.

    Args:
        images: uint8 or float `[N, C, H, W]`.
        generator: on the device of `images`.
        pad: largest shift in pixels; also the width of the reflected border, so less than H and W.
    """
    count, channels, height, width = images.shape
    device = images.device
    padded = F.pad(images.float(), (pad,) * 4, mode="reflect").to(images.dtype)
    dy, dx = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator, device=device)
    rows = dy + torch.arange(height, device=device)
    columns = dx + torch.arange(width, device=device)
    flip = torch.rand(count, 1, generator=generator, device=device) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    rows = rows[:, None, :, None].expand(-1, channels, -1, padded.shape[3])
    columns = columns[:, None, None, :].expand(-1, channels, height, -1)
    return padded.gather(2, rows).gather(3, columns)
