"""The stages of a backbone, run one after the other: on images of which sizes, and how far what they give is apart."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from stillsight.encoders.backbone import Backbone

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SIDES = (48, 96, 224)
"""Sides in pixels of the images by which a network is looked at, before that of its recipe; the first that passes
through all stages."""
SAME = 1e-3
"""How far features that should be equal may be apart, relative to the largest: other kernels round otherwise."""


def sides(backbone: Backbone) -> list[int]:
    """Sides in pixels of the images by which this network can be looked at."""
    if backbone.fixed is not None:
        return [backbone.fixed]
    unit, made = backbone.multiple, backbone.preprocessing.size
    tried = dict.fromkeys((*SIDES, *([made] if made else [])))
    return [side for side in tried if side % unit == 0] or [-(-side // unit) * unit for side in tried]


def probe(backbone: Backbone) -> tuple[int, dict[str, Tensor]] | None:
    """Side of the smallest square image that passes through all stages, and what each hands on; None if none does."""
    import torch

    for side in sides(backbone):
        try:
            with torch.no_grad():
                return side, run(backbone, torch.zeros(1, 3, side, side, device=device_of(backbone)))
        except Exception:
            continue
    return None


def run(backbone: Backbone, images: Any, outputs: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """What each stage hands on, in eval mode and float32; train flags are as they were afterwards.

    Args:
        backbone: whose stages run one after the other.
        images: `[N, 3, H, W]`, normalised.
        outputs: filled as far as the images get.
    """
    import torch

    modules: list[nn.Module] = [module for stage in backbone.stages.values() for module in stage.modules()]
    flags = [(module, module.training) for module in modules]
    outputs = {} if outputs is None else outputs
    try:
        # A network may be known by shapes alone, of which nothing is cast.
        with nullcontext() if images.is_meta else torch.autocast(images.device.type, enabled=False):
            for name, stage in backbone.stages.items():
                images = stage.eval()(images)
                outputs[name] = images
    finally:
        for module, training in flags:
            module.training = training
    return outputs


def apart(one: Tensor, other: Tensor) -> float:
    """How far two tensors are apart at most, relative to the largest number of the second."""
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-12))


def first_apart(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[str, float] | None:
    """The first stage whose output is another, and by how much; numbers that are not finite are alike."""
    import torch

    for stage, output in expected.items():
        if found[stage].shape != output.shape:
            return stage, 1.0
        # On a GPU products are rounded to 10 bits, in each batch size by other kernels.
        allowed = SAME if output.device.type == "cpu" else 10 * SAME
        one, other = (torch.nan_to_num(each, 0.0, 0.0, 0.0) for each in (found[stage], output))
        if output.numel() and (difference := apart(one, other)) > allowed:
            return stage, difference
    return None


def noise(backbone: Backbone, image: tuple[int, int]) -> Tensor:
    """Two images `[2, 3, H, W]` that differ in brightness and contrast, so that statistics of both are those of
    neither."""
    import torch

    noise = torch.rand(2, 3, *image, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise[1] = noise[1] / 2 + 0.4
    return noise.to(device_of(backbone))


def device_of(backbone: Backbone) -> torch.device:
    import torch

    return next((tensor.device for tensor in backbone.model.parameters()), torch.device("cpu"))
