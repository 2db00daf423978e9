"""Random shifts: the augmentation that lets a network learn control from pixels alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RandomShift(nn.Module):
    """Moves each observation by a few pixels, all its frames alike, while the policy learns; acting leaves it alone.

    Whole pixels, the border repeated: Kostrikov et al. 2021 (DrQ), Yarats et al. 2021 (DrQ-v2), both with 4 pixels for
    images of 84. SB3 sets target networks to evaluation mode, so that they see next observations as they are, which is
    DrQ with K = 0 and M = 1 but for the actor's look at the next observation.

    Args:
        pixels: largest shift each way.
    """

    def __init__(self, pixels: int = 4) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, observations: Tensor) -> Tensor:
        """`[N, frames, 3, H, W]` -> the same, each of the N moved by its own draw from torch's generator."""
        if not self.training:
            return observations
        count, _, _, height, width = observations.shape
        down, right = torch.randint(-self.pixels, self.pixels + 1, (2, count, 1), device=observations.device)
        rows = (torch.arange(height, device=observations.device) + down).clamp(0, height - 1)
        columns = (torch.arange(width, device=observations.device) + right).clamp(0, width - 1)
        moved = observations.gather(3, rows[:, None, None, :, None].expand_as(observations))
        return moved.gather(4, columns[:, None, None, None, :].expand_as(observations))
