"""What a `Backbone` promises, checked on its network: what it breaks would otherwise be found in nobody's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillsight.encoders.backbone import Backbone
from stillsight.encoders.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor, nn

SIDES = (48, 96, 224)
"""Sides in pixels of the images by which a network is looked at; the first that passes through all stages."""


def sides(backbone: Backbone) -> list[int]:
    """Sides in pixels of the images by which this network can be looked at."""
    if backbone.fixed is not None:
        return [backbone.fixed]
    unit = backbone.multiple
    return [side for side in SIDES if side % unit == 0] or [-(-side // unit) * unit for side in SIDES]


def check(path: str, backbone: Backbone) -> None:
    """Refuse a backbone whose stages are not what they must be.

    Args:
        path: what the encoder is called in messages.
        backbone: as its function returned it.

    Raises:
        EncoderError: a stage returns something else than one float32 tensor, or maps with their channels last; or it
            computes with a parameter of the model that no stage holds, so that it is neither loaded, hashed nor frozen.
    """
    import torch

    for side in sides(backbone):
        for shape in ((side, 2 * side), (side, side)):  # sides that differ tell channels from rows
            try:
                with torch.enable_grad():
                    outputs = run(backbone, torch.rand(2, 3, *shape) * 2 - 1)
            except Exception:  # too small for some stage, or not square: another image may pass
                continue
            for stage, output in outputs.items():
                _check_output(path, stage, output, shape)
            _check_ownership(path, backbone, list(outputs.values())[-1])
            return


def probe(backbone: Backbone) -> tuple[int, dict[str, Tensor]] | None:
    """Side of the smallest square image that passes through all stages, and what each hands on; None if none does."""
    import torch

    for side in sides(backbone):
        try:
            with torch.no_grad():
                device = next(backbone.model.parameters()).device
                return side, run(backbone, torch.zeros(1, 3, side, side, device=device))
        except Exception:
            continue
    return None


def run(backbone: Backbone, images: Any) -> dict[str, Tensor]:
    """What each stage hands on, in eval mode; train flags, gradients and buffers are as they were afterwards."""
    modules: list[nn.Module] = [module for stage in backbone.stages.values() for module in stage.modules()]
    flags = [(module, module.training) for module in modules]
    outputs: dict[str, Any] = {}
    try:
        for name, stage in backbone.stages.items():
            images = stage.eval()(images)
            outputs[name] = images
    finally:
        for module, training in flags:
            module.training = training
    return outputs


def _check_output(path: str, stage: str, output: Any, image: tuple[int, int]) -> None:
    import torch

    if not isinstance(output, torch.Tensor):
        raise EncoderError(
            f"Stage {stage} of {path} returns a {type(output).__name__}, and a stage must hand on one tensor. Wrap it "
            "in a module that returns the tensor alone."
        )
    if output.dtype != torch.float32:
        raise EncoderError(
            f"Stage {stage} of {path} computes in {str(output.dtype).removeprefix('torch.')}, and weights are kept in "
            "float32 here; --precision bf16 rounds where it pays. Return model.float()."
        )
    if output.dim() not in (2, 3, 4):
        raise EncoderError(
            f"Stage {stage} of {path} hands on {list(output.shape)}. Allowed: a map [N, C, h, w], tokens [N, L, C] or "
            "a vector [N, C]."
        )
    if output.dim() == 4 and _channels_last(tuple(output.shape[1:]), image):
        raise EncoderError(
            f"Stage {stage} of {path} hands on {list(output.shape)}, which is a map with its channels last. Let the "
            "stage end with: maps.permute(0, 3, 1, 2)."
        )


def _channels_last(shape: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether the proportions of the image are found in the first two sides and not in the last two."""
    wide = image[1] / image[0]

    def fits(rows: int, columns: int) -> bool:
        return abs(columns / rows - wide) < 0.35 * wide

    if image[0] == image[1]:
        return shape[0] == shape[1] != shape[2]
    return fits(shape[0], shape[1]) and not fits(shape[1], shape[2])


def _check_ownership(path: str, backbone: Backbone, output: Any) -> None:
    import torch

    owned = {id(parameter) for stage in backbone.stages.values() for parameter in stage.parameters()}
    others = {name: p for name, p in backbone.model.named_parameters() if id(p) not in owned and p.requires_grad}
    if not others or not output.requires_grad:
        return
    gradients = torch.autograd.grad(output.sum(), list(others.values()), allow_unused=True)
    used = [name for name, gradient in zip(others, gradients, strict=True) if gradient is not None]
    if used:
        raise EncoderError(
            f"{path} computes with {used[0]}, which none of its stages holds: it would be neither loaded nor hashed, "
            "nor frozen. Let the stage that uses it keep it as a parameter or a sub-module: self.name = model.name."
        )
