"""Reference features: what a network makes of two fixed images, by which a change of its code is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from stillsight.encoders import device as devices
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.frozen import Frozen
from stillsight.encoders.learned import Learned
from stillsight.encoders.part import kept_modes

REFERENCE = "reference_features"
"""Under which name a run keeps them."""
SAME = 1e-4
"""Largest difference of two float32 computations of one function, as a share of the largest value. Folded and plain
layers, and batches of 2 and 16, differ by 6e-7 in retina and by 2e-6 in MobileNetV2."""


@torch.no_grad()
def reference_features(frozen: Frozen, size: Sequence[int], learned: Learned | None = None) -> Tensor:
    """Float32 features `[D]` of two fixed images, one after the other, by the stages as their author wrote them.

    They are computed in full float32 and in eval mode whatever a run computes in: bfloat16 moves features by several
    per cent, and so may a change that one must not overlook. The first image is noise, which shows how it is resized;
    the second has larger spots.

    Args:
        frozen: the part before the cut. The images are not counted.
        size: height and width of the images in pixels.
        learned: the part after the cut; without it, what stands at the cut.
    """
    height, width = size
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
    noise[1] = noise[1, :, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width]
    with frozen.counter.paused(), devices.exact_math():
        tensor = _run(frozen.steps, noise.to(frozen.device))
        if learned is not None:
            tensor = _run(learned.steps, tensor)
    return tensor.float().flatten().cpu()


def check_reference(name: str, features: Tensor, kept: object, folder: Path) -> None:
    """Refuse an encoder that computes other features now than when a run was made with it.

    Args:
        name: of the encoder.
        features: of now.
        kept: those that the run keeps.
        folder: of the run.

    Raises:
        EncoderError: they differ, or are none.
    """
    if not isinstance(kept, Tensor) or kept.dtype != torch.float32:
        raise EncoderError(f"The features of two fixed images that {folder} keeps are none. Restore its files.")
    if same_function(features, kept):
        return
    if features.shape != kept.shape:
        difference = f"{len(kept):,} numbers from two fixed images, and {len(features):,} now"
    else:
        share = float((features - kept).abs().max() / kept.abs().max())
        difference = f"those of two fixed images differ by {share:.2g} of the largest"
    raise EncoderError(
        f"{folder} was trained with a {name} that computed other features from the same weights: {difference}. Its "
        "code has changed since, or a package that it is built from. Restore that code, or train again with this one."
    )


def same_function(features: Tensor, kept: Tensor) -> bool:
    """Whether two `reference_features` are those of one function, whoever computed them, and on what."""
    return kept.shape == features.shape and bool((features - kept).abs().max() <= SAME * features.abs().max())


def _run(steps: nn.ModuleList, tensor: Tensor) -> Tensor:
    placed = next((one.device for one in (*steps.parameters(), *steps.buffers())), tensor.device)
    tensor = tensor.to(placed)
    with kept_modes([steps]):
        for step in steps.eval():
            tensor = step(tensor)
    return tensor
