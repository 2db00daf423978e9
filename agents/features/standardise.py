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
from stillsight.agents.errors import RunError
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.learned import Learned
from stillsight.envs.random_play import random_play
from stillsight.envs.vector import layout_of, shown_by
from stillsight.envs.wrappers.layout import Layout

FLOOR = 0.1
"""Smallest standard deviation to divide by, as a share of the mean one of its tap: a dead feature must not become
noise."""

TINY = 1e-20
"""What to divide by where no feature changes at all. Features may be small: the last ones of a MobileNetV2 with random
weights lie near 1e-10."""

LARGEST = 10.0
"""Standardised features are clipped to this, as SB3's VecNormalize clips observations. Numbers of a state are not: of
a goal that lies far from those of the first look it must still be seen which way it lies."""


class Statistics(NamedTuple):
    """Mean and standard deviation of each feature, or of each number of a state, float32 `[D]`."""

    mean: Tensor
    std: Tensor


class FirstLook(NamedTuple):
    """What random play shows.

    Attributes:
        features: of each image, one after the other; None where there are none, or they are left as they are.
        state: likewise.
        rounding: root mean square of what float16 would change of each feature, float32 `[D]`; None where it was not
            asked for.
    """

    features: Statistics | None
    state: Statistics | None
    rounding: Tensor | None = None


class Standardise(nn.Module):
    """`[..., D]` -> the same, each feature with mean 0 and standard deviation 1 over frames of the game.

    Most of what a pretrained network says about a game's frame is what it says about every frame of that game: on
    Pong, a feature moves by a tenth of the spread between features. LayerNorm keeps that ratio; this removes it. The
    numbers are fixed before the first update, because a normalisation that moves would change the policy between a
    rollout and the update that learns from it.

    Features stay as they are, unclipped, until `take` or a checkpoint brings the numbers.

    Args:
        width: D.
        widths: of the taps that these features are of, which may differ in scale; all are of one by default.
        state: of numbers of a state, which beyond `LARGEST` grow by their logarithm and are not clipped.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, widths: Sequence[int] | None = None, *, state: bool = False) -> None:
        super().__init__()
        self.state, self._widths = state, list(widths or [width])
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self._look()

    def take(self, statistics: Statistics) -> None:
        """Standardise by `statistics` from now on."""
        parts = statistics.std.split(self._widths)
        self.mean.copy_(statistics.mean)
        self.std.copy_(torch.cat([part.clamp_min(max(FLOOR * part.mean().item(), TINY)) for part in parts]))
        self._look()

    def check_rounding(self, statistics: Statistics, rounding: Tensor) -> None:
        """Refuse features whose differences a replay memory in float16 would round away.

        What counts is what the policy would see of it, in units of the deviations by which it divides; of features that
        do not vary there is nothing to lose, and a feature of which nothing is left is lost, however wrong it is.

        Args:
            statistics: those that `take` took.
            rounding: of the same features, see `FirstLook`.

        Raises:
            RunError: its root mean square over the features that vary is above `COARSEST`.
        """
        vary = statistics.std > CONSTANT * statistics.mean.abs()
        if not vary.any():
            return
        lost = (rounding / self.std.cpu())[vary].nan_to_num(nan=1.0).clamp(max=1.0)
        share = lost.square().mean().sqrt().item()
        if share > COARSEST:
            largest, spread = statistics.mean.abs().max().item(), statistics.std[vary].median().item()
            raise RunError(
                f"Replay memory keeps features in float16, and its rounding is {100 * share:.3g}% of what they vary by "
                f"in the first look: allowed are {COARSEST:.0%}. They lie up to {largest:.3g} from zero, and half of "
                f"those that vary do so by less than {spread:.3g}. Type --replay-dtype float32, or take another --tap."
            )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._look()

    def _look(self) -> None:
        self.leaves = bool((self.mean == 0).all() and (self.std == 1).all())
        """Whether features stay as they are."""

    def forward(self, features: Tensor) -> Tensor:
        if self.leaves:
            return features
        scaled = (features - self.mean).div_(self.std)
        clipped = scaled.clamp(-LARGEST, LARGEST)
        if not self.state:
            return clipped
        beyond = (scaled.abs() - LARGEST).clamp(0, torch.finfo(scaled.dtype).max)
        return clipped + scaled.sign() * beyond.log1p()


COARSEST = 0.1
"""Rounding of features in replay memory above which it is refused, in units of what they vary by."""

BATCH = 64
"""Images encoded at once."""

AT_ONCE = 8
"""Environments that are looked at in each step. Of more they take turns, or a first look would see nothing of their
episodes but the first moments."""


CONSTANT = 1e-6
"""Spread of a number of a state, in units of its size, below which it counts as constant and is not divided by; of a
feature, below which it does not vary."""
EPISODES = 16
"""Further episodes of each environment whose beginnings are looked at, where a number was constant: a goal may be."""
COARSE = 1e5
"""Size from which float32 has no more than two digits behind the point."""


def gather_statistics(
    venv: VecEnv, encoder: Encoder, learned: Learned | None, frames: int, *, half: bool = False
) -> FirstLook:
    """Gather mean and standard deviation of each feature, and of each number of a state, over frames of random play.

    The images are left out of the encoder's count: they are a constant, and no part of what a step costs.

    Args:
        venv: uint8 pixels `[n_envs, 3, H, W]`, or dicts of such images and of vectors; it is reset.
        encoder: through whose frozen part is looked.
        learned: the trained part behind it, as training will begin with it: a policy's own, for SB3 has initialised
            anew what of it is not pretrained. None where features are left as they are: nothing is encoded.
        frames: how many are looked at, of all environments together; see `AT_ONCE`.
        half: look also at what comes of the frozen part's features in float16, as a replay memory may keep them.

    Frames that are all alike, or hold nothing but black and the next grey, are warned of on stderr.

    Returns:
        What to standardise by. Numbers of a state that do not change, nor from one episode to the next, are divided by
        their size where that is above 1.

    Raises:
        RunError: the machine has no memory free for so many frames.
    """
    layout = layout_of(venv)
    assert layout is not None
    needed = len(layout.images) * math.prod(layout.pixels) + 4 * layout.state
    check_memory(2 * frames * needed, frames, what="first look", flag="--standardise ", fewer="--size")
    images, states = _played(venv, layout, frames)
    for place in range(images.shape[1]):
        warn_of_blank(images[:, place])
    pixels = torch.from_numpy(images).flatten(0, 1)
    of_features = of_state = rounding = None
    if layout.images and learned is not None:
        was_training = learned.training
        learned.eval()  # where BatchNorm learns, the look must not move its statistics
        with torch.no_grad(), encoder.counter.paused():
            looks, errors = [], []
            for part in pixels.split(BATCH):
                seen = encoder.frozen(part.to(encoder.device))
                looks.append(learned(seen).cpu())
                if half:
                    errors.append(learned(seen.half().to(seen.dtype)).cpu() - looks[-1])
        learned.train(was_training)
        features = torch.cat(looks).reshape(len(images), -1)
        if half:
            rounding = torch.cat(errors).reshape(len(images), -1).square().mean(0).sqrt()
        of_features = Statistics(features.mean(0), features.std(0, correction=0))
    if layout.vectors:
        of_state = _of_state(torch.from_numpy(states).double(), venv, layout)
    return FirstLook(of_features, of_state, rounding)


def _played(venv: VecEnv, layout: Layout, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """What random play shows: images uint8 `[frames, images, 3, H, W]`, states float32 `[frames, D]`."""
    looked_at, draw = min(venv.num_envs, AT_ONCE), random_play(venv)
    images: list[np.ndarray] = []
    states: list[np.ndarray] = []
    while len(images) * looked_at < frames:
        shown = shown_by(venv.step(draw())[0] if images else venv.reset())
        turn = (np.arange(looked_at) + len(images) * looked_at) % venv.num_envs
        images.append(layout.images_of(shown)[turn])
        states.append(layout.state_of(shown)[turn])
    return np.concatenate(images)[:frames], np.concatenate(states)[:frames]


def _of_state(state: Tensor, venv: VecEnv, layout: Layout) -> Statistics:
    """Mean and standard deviation of each number of float64 `[N, D]`; of those that never change, over the beginnings
    of further episodes, which are warned of on stderr where they do not change there either."""
    mean, std = state.mean(0), state.std(0, correction=0)
    if (constant := _constant(mean, std)).any():
        begun = [state[:1], *(_beginning(venv, layout) for _ in range(EPISODES))]
        first = torch.cat(begun)
        mean, std = torch.where(constant, first.mean(0), mean), torch.where(constant, first.std(0, correction=0), std)
        constant = _constant(mean, std)
    names = [f"{one.key}[{at}]" if one.width > 1 else one.key for one in layout.vectors for at in range(one.width)]
    if coarse := [name for name, lost in zip(names, constant & (mean.abs() > COARSE), strict=True) if lost]:
        print(
            f"stillsight: warning: {', '.join(coarse[:5])} did not change in the first look, and may move by less than "
            "float32 holds beside numbers so large. Let your environment show differences, say from where it began.",
            file=sys.stderr,
        )
    return Statistics(mean.float(), torch.where(constant, mean.abs().clamp_min(1.0), std).float())


def _constant(mean: Tensor, std: Tensor) -> Tensor:
    return std <= CONSTANT * mean.abs().clamp_min(CONSTANT)


def _beginning(venv: VecEnv, layout: Layout) -> Tensor:
    """The state of each environment at the beginning of another episode, float64 `[n_envs, D]`."""
    return torch.from_numpy(layout.state_of(shown_by(venv.reset()))).double()


def warn_of_blank(pixels: np.ndarray) -> None:
    """Say on stderr what is odd about frames uint8 `[N, 3, H, W]` or `[N, H, W, 3]` that random play met."""
    if len(pixels) > 1 and (pixels == pixels[0]).all():
        what = "are all alike: either nothing moves, or the agent does not see it."
    elif pixels.max() <= 1:
        what = "are all but black (0 and 1 of 255): are these floats 0..1 behind a space of 0..255?"
    else:
        return
    print(f"stillsight: warning: the {len(pixels)} frames of the first look {what}", file=sys.stderr)
