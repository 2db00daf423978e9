"""Standardise features by their mean and spread over frames of random play, gathered before anything is learned."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from stillsight.agents.buffers.footprint import check_memory
from stillsight.encoders.encoder import Encoder
from stillsight.envs.random_play import random_play
from stillsight.envs.vector import layout_of, shown_by

FLOOR = 0.1
"""Smallest standard deviation to divide by, as a share of the mean one of its tap: a dead feature must not become
noise."""

TINY = 1e-20
"""What to divide by where no feature changes at all. Features may be small: the last ones of a MobileNetV2 with random
weights lie near 1e-10."""

LARGEST = 10.0
"""Standardised features are clipped to this, as SB3's VecNormalize clips observations."""


class Statistics(NamedTuple):
    """Mean and standard deviation of each feature, float32 `[D]`, those of a state behind them."""

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
        statistics: None leaves features as they are, unclipped, until a checkpoint brings the numbers.
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
        self._look()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._look()

    def _look(self) -> None:
        self.leaves = bool((self.mean == 0).all() and (self.std == 1).all())
        """Whether features stay as they are."""

    def forward(self, features: Tensor) -> Tensor:
        if self.leaves:
            return features
        return ((features - self.mean) / self.std).clamp(-LARGEST, LARGEST)


BATCH = 64
"""Images encoded at once."""


CONSTANT = 1e-6
"""Spread of a number of a state, in units of its size, below which it counts as constant and is not divided by."""


def gather_statistics(venv: VecEnv, encoder: Encoder, frames: int) -> Statistics:
    """Gather mean and standard deviation of each feature, and of each number of a state, over frames of random play.

    The images are left out of the encoder's count: they are a constant, and no part of what a step costs.

    Args:
        venv: uint8 pixels `[n_envs, 3, H, W]`, or dicts of such images and of vectors; it is reset.
        encoder: as training will begin with it, the trained part included.
        frames: how many are looked at, of all environments together.

    Frames that are all alike, or hold nothing but black and the next grey, are warned of on stderr.

    Returns:
        Those of the features of each image, one after the other, and then those of the state. Numbers that do not
        change keep their scale.

    Raises:
        RunError: the machine has no memory free for so many frames.
    """
    layout = layout_of(venv)
    assert layout is not None
    needed = len(layout.images) * math.prod(layout.pixels) + 4 * layout.state
    check_memory(2 * frames * needed, frames, what="first look", flag="--standardise ", fewer="--size")
    shown, draw = [shown_by(venv.reset())], random_play(venv)
    while len(shown) * venv.num_envs < frames:
        shown.append(shown_by(venv.step(draw())[0]))
    images = np.concatenate([layout.images_of(one) for one in shown])[:frames]
    for place in range(images.shape[1]):
        warn_of_blank(images[:, place])
    pixels = torch.from_numpy(images).flatten(0, 1)
    parts: list[Statistics] = []
    if layout.images:
        was_training = encoder.training
        encoder.eval()  # where BatchNorm learns, the look must not move its statistics
        with torch.no_grad(), encoder.counter.paused():
            features = torch.cat([encoder(part.to(encoder.device)).cpu() for part in pixels.split(BATCH)])
        encoder.train(was_training)
        features = features.reshape(len(images), -1)
        parts.append(Statistics(features.mean(0), features.std(0, correction=0)))
    if layout.vectors:
        state = torch.from_numpy(np.concatenate([layout.state_of(one) for one in shown])[:frames]).double()
        mean, std = state.mean(0), state.std(0, correction=0)
        constant = std <= CONSTANT * mean.abs().clamp_min(CONSTANT)
        parts.append(Statistics(mean.float(), torch.where(constant, 1.0, std).float()))
    return parts[0] if len(parts) == 1 else Statistics(*(torch.cat(both) for both in zip(*parts, strict=True)))


def warn_of_blank(pixels: np.ndarray) -> None:
    """Say on stderr what is odd about frames uint8 `[N, 3, H, W]` that random play met."""
    if len(pixels) > 1 and (pixels == pixels[0]).all():
        what = "are all alike: either nothing moves, or the agent does not see it"
    elif pixels.max() <= 1:
        what = "are all but black (0 and 1 of 255): are these floats 0..1 behind a space of 0..255?"
    else:
        return
    print(f"stillsight: warning: the {len(pixels)} frames of the first look {what}.", file=sys.stderr)
