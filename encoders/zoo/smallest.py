"""What is measured of a network's stages: how much each reduces images, and the smallest that it can take."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stillsight.encoders.backbone import Backbone
from stillsight.encoders.part import kept_modes

LARGEST = 1_024
"""Pixels of the side up to which sizes are tried."""
MULTIPLES = (1, 2, 4, 7, 8, 14, 16, 28, 32, 56, 64)
"""Of how many pixels the sides of images may have to be multiples."""
USUAL = 224
"""Pixels of the side that most networks were made for."""
ODD = 97
"""Pixels of a side that is a multiple of nothing."""
TRIED = 96
"""Pixels of images by which multiples are tried, and some multiples of each above it."""


class Sizes(NamedTuple):
    """Which images a network takes.

    Attributes:
        least: smallest side in pixels, by stage.
        multiple: sides are multiples of this.
        fixed: the only side, if there is but one.
    """

    least: dict[str, int]
    multiple: int
    fixed: int | None


def without_content(build: Callable[[], Backbone]) -> Backbone:
    """The network that `build` makes, without the numbers in it (torch's device "meta"): its shapes in a moment."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build()
        except NotImplementedError:  # it computes with numbers while it is built
            backbone = build()
            backbone.model.to("meta")
            return backbone


def sizes(backbone: Backbone, usual: int, *, whole_patches: bool = True) -> Sizes:
    """Measure which images a network takes, by running it on images of many sizes.

    Args:
        backbone: its tensors may have no content (torch's device "meta"), which is quick.
        usual: side in pixels that it was made for.
        whole_patches: sides must be multiples of the patches that the first convolution cuts, beside whose last one
            something would be left over.
    """
    stages = backbone.stages
    device = next(backbone.model.parameters()).device
    multiple = math.lcm(backbone.multiple, _patch(stages, device)) if whole_patches else backbone.multiple
    if backbone.fixed is None:
        fitting = (unit for unit in MULTIPLES if unit % multiple == 0 or multiple % unit == 0)
        units = dict.fromkeys((multiple, *(unit for unit in fitting if unit > multiple)))
        multiple = next((unit for unit in units if _takes_multiples(stages, unit, device)), 0)
    if backbone.fixed is not None or not multiple:
        side = backbone.fixed or usual
        return Sizes(dict.fromkeys(stages, side), 1, side)
    return Sizes(_least(stages, multiple, device), multiple, None)


def sizes_of_theirs(backbone: Backbone) -> Sizes:
    """The same of a third party's network, as its function returned it; what its author says of it goes first.

    Of a network that is not known to pass any image, nothing is measured.
    """
    least = backbone.least or {}
    said = {stage: least.get(stage, backbone.fixed or 1) for stage in backbone.stages}
    unknown = Sizes(said, backbone.multiple, backbone.fixed)
    if not any(True for _ in backbone.model.parameters()):
        return unknown
    bare = _copied_without_content(backbone) or backbone
    usual = backbone.preprocessing.size or USUAL
    measured = sizes(bare, usual, whole_patches=False)  # its author says of what sides must be multiples
    if measured.fixed is not None and not _passes(bare, measured.fixed):
        return unknown
    return measured._replace(least={**measured.least, **least})


def _copied_without_content(backbone: Backbone) -> Backbone | None:
    """A copy of a network without the numbers in it; None of one that cannot be copied, or that computes with numbers
    (a branch on a value, a tensor that is no buffer) and gives no shapes without them."""
    try:
        bare = copy.deepcopy(backbone)
        for module in (bare.model, *bare.stages.values()):
            module.to("meta")
    except Exception:  # whatever a third party's network says to that
        return None
    tried = -(-TRIED // bare.multiple) * bare.multiple
    sides = (bare.fixed or tried, bare.preprocessing.size or USUAL)
    return bare if any(_passes(bare, side) for side in sides) else None


def _passes(backbone: Backbone, side: int) -> bool:
    device = next(backbone.model.parameters()).device
    return len(handed_on(backbone.stages, side, device)) == len(backbone.stages)


@torch.no_grad()
def _patch(stages: Mapping[str, nn.Module], device: torch.device) -> int:
    """Side in pixels of the patches that the first convolution cuts images into, one beside the other; 1 where its
    windows overlap, or where images were padded to whole patches before it. Of images with other sides it would leave
    out what is left over."""
    cut: list[int] = []

    def look(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        if cut or not isinstance(layer, nn.Conv2d):
            return
        side = layer.kernel_size[0]
        beside = layer.stride[0] == side and layer.padding in ("valid", (0, 0))
        cut.append(side if beside and tuple(given[0].shape[1:]) == (3, ODD, ODD) else 1)

    first = next(iter(stages.values()))
    hooks = [layer.register_forward_pre_hook(look) for layer in first.modules() if isinstance(layer, nn.Conv2d)]
    try:
        handed_on({"first": first}, ODD, device)
    finally:
        for hook in hooks:
            hook.remove()
    return cut[0] if cut else 1


def _takes_multiples(stages: Mapping[str, nn.Module], unit: int, device: torch.device) -> bool:
    """Whether images of several sides that are multiples of `unit` pass, even and odd ones among them."""
    first = -(-TRIED // unit)
    return all(len(handed_on(stages, unit * count, device)) == len(stages) for count in (first, first + 1, first + 4))


def _least(stages: Mapping[str, nn.Module], unit: int, device: torch.device) -> dict[str, int]:
    """Smallest side by stage: that which passes, and not less than a pixel of what the stage hands on stands for."""
    tried: dict[int, list[Tensor]] = {}

    def reached(count: int) -> int:
        if count not in tried:
            tried[count] = handed_on(stages, unit * count, device)
        return len(tried[count])

    whole = 1
    while reached(whole) < len(stages) and unit * whole < LARGEST:
        whole *= 2
    side = unit * max(whole, -(-4 * 32 // unit))
    reductions = [_reduction(output, side, unit) for output in handed_on(stages, side, device)]
    least: dict[str, int] = {}
    below = 1
    for number, stage in enumerate(stages, 1):
        low, high = below, whole
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) >= number else (middle + 1, high)
        below = low
        reduced = max(reductions[:number], default=unit)
        least[stage] = max(unit * low, -(-reduced // unit) * unit)
    return least


def _reduction(output: Tensor, side: int, unit: int) -> int:
    return round(side / output.shape[2]) if output.dim() == 4 else unit


@torch.no_grad()
def handed_on(stages: Mapping[str, nn.Module], side: int, device: torch.device) -> list[Tensor]:
    """What the stages hand on of one image, in eval mode, as far as it gets."""
    outputs: list[Tensor] = []
    images = torch.zeros(1, 3, side, side, device=device)
    # An error says that the side is too small, or one that the stage does not take, in whatever words.
    with kept_modes(stages.values()), suppress(Exception):
        for stage in stages.values():
            images = stage.eval()(images)
            if not images.numel():
                break
            outputs.append(images)
    return outputs
