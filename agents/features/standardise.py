"""Standardise features by their mean and spread over frames of random play, gathered before anything is learned."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from stillsight.agents.buffers.footprint import check_memory
from stillsight.encoders.encoder import Encoder
from stillsight.envs.random_play import random_play

FLOOR = 0.1
"""Smallest standard deviation to divide by, as a share of the mean one of its tap: a dead feature must not become
noise."""

TINY = 1e-20
"""What to divide by where no feature changes at all. Features may be small: the last ones of a MobileNetV2 with random
weights lie near 1e-10."""

LARGEST = 10.0
"""Standardised features are clipped to this, as SB3's VecNormalize clips observations."""


class Statistics(NamedTuple):
    """Mean and standard deviation of each feature, float32 `[D]`."""

    mean: Tensor
    std: Tensor


class Standardise(nn.Module):
    """`[..., D]` -> the same, each feature with mean 0 and standard deviation 1 over frames of the game.

    Most of what a pretrained network says about a game's frame is what it says about every frame of that game: on
    Pong, a feature moves by a tenth of the spread between features. LayerNorm keeps that ratio; this removes it. The
    numbers are fixed before the first update, because a normalisation that moves would change the policy between a
    rollout and the update that learns from it.

    Args:
        width: D.
        statistics: None leaves features as they are, until a checkpoint brings the numbers.
        widths: of the taps that these features are of, which may differ in scale; all are of one by default.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, statistics: Statistics | None, widths: Sequence[int] | None = None) -> None:
        super().__init__()
        mean, std = statistics or Statistics(torch.zeros(width), torch.ones(width))
        self.register_buffer("mean", mean.clone())
        parts = std.split(list(widths or [width]))
        self.register_buffer(
            "std", torch.cat([part.clamp_min(max(FLOOR * part.mean().item(), TINY)) for part in parts])
        )

    def forward(self, features: Tensor) -> Tensor:
        return ((features - self.mean) / self.std).clamp(-LARGEST, LARGEST)


BATCH = 64
"""Images encoded at once."""


def gather_statistics(venv: VecEnv, encoder: Encoder, frames: int) -> Statistics:
    """Gather mean and standard deviation of each feature over frames of random play.

    The images are left out of the encoder's count: they are a constant, and no part of what a step costs.

    Args:
        venv: uint8 pixels `[n_envs, 3, H, W]`; it is reset.
        encoder: as training will begin with it, the trained part included.
        frames: how many are looked at, of all environments together.

    Frames that are all alike, or hold nothing but black and the next grey, are warned of on stderr.

    Raises:
        RunError: the machine has no memory free for so many frames.
    """
    shape = venv.observation_space.shape
    assert shape is not None
    check_memory(2 * frames * math.prod(shape), frames, what="first look", flag="--standardise ", fewer="--size")
    seen, draw = [np.asarray(venv.reset())], random_play(venv)
    while len(seen) * venv.num_envs < frames:
        seen.append(np.asarray(venv.step(draw())[0]))
    looked_at = np.concatenate(seen)[:frames]
    warn_of_blank(looked_at)
    pixels = torch.from_numpy(looked_at)
    was_training = encoder.training
    encoder.eval()  # where BatchNorm learns, the look must not move its statistics
    with torch.no_grad(), encoder.counter.paused():
        features = torch.cat([encoder(part.to(encoder.device)).cpu() for part in pixels.split(BATCH)])
    encoder.train(was_training)
    return Statistics(features.mean(0), features.std(0, correction=0))


def warn_of_blank(pixels: np.ndarray) -> None:
    """Say on stderr what is odd about frames uint8 `[N, 3, H, W]` that random play met."""
    if len(pixels) > 1 and (pixels == pixels[0]).all():
        what = "are all alike: either nothing moves, or the agent does not see it"
    elif pixels.max() <= 1:
        what = "are all but black (0 and 1 of 255): are these floats 0..1 behind a space of 0..255?"
    else:
        return
    print(f"stillsight: warning: the {len(pixels)} frames of the first look {what}.", file=sys.stderr)
