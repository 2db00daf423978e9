"""Choose the memory layout in which a network trains: NCHW, or NHWC, which torch calls channels last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from stillsight.encoders.device import wants_bf16
from stillsight.encoders.learned import Learned
from stillsight.encoders.supervised.training.recipe import Recipe

NARROW = 64
"""Channels below which a convolution is faster channels last on a CPU in float32."""


def channels_last(learned: Learned, recipe: Recipe, device: torch.device) -> bool:
    """Whether `learned` should train channels last: what the recipe says, or by default what is faster.

    GPUs and bfloat16 kernels prefer it. In float32 on a CPU an update of ResNet-18 at 64 px took 14 % less time without
    it, one of the narrow retina 8 % less with it, and one of MobileNetV2, whose convolutions are depthwise, 38 % less.
    The choice is a rule and no measurement, since the layout decides in which order sums are rounded: the same run must
    make the same choice.
    """
    if recipe.channels_last is not None:
        return recipe.channels_last
    if device.type == "mps":
        return False
    if device.type != "cpu" or wants_bf16(device, recipe.precision):
        return True
    convolutions = [module for module in learned.modules() if isinstance(module, nn.Conv2d)]
    return any(module.groups > 1 or module.out_channels < NARROW for module in convolutions)


def lay_out(learned: Learned, last: bool) -> None:
    """Lay the weights of `learned` out, and from now on what enters its first stage with weights."""
    learned.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    first = next((step for step in learned.steps if any(True for _ in step.parameters())), None)
    if first is not None:
        # A convolution takes the layout of its input over that of its weights, and the preprocessing and a frozen part
        # give channels last.
        first.register_forward_pre_hook(_channels_last if last else _contiguous)


def _channels_last(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    def lay(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    return _laid_out(lay, inputs)


def _contiguous(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return _laid_out(torch.Tensor.contiguous, inputs)


def _laid_out(lay: Callable[[torch.Tensor], torch.Tensor], inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a stage takes, behind a tap a tuple of tensors, laid out."""
    first = inputs[0]
    return (tuple(map(lay, first)) if isinstance(first, tuple) else lay(first), *inputs[1:])
