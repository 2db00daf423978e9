"""What the stages of a backbone hold, and that they compute with nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stillsight.encoders.backbone import Backbone
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.zoo.contract.stages import first_apart, run

if TYPE_CHECKING:
    from torch import Tensor, nn


def held(backbone: Backbone, *, lasting: bool = False) -> dict[str, Tensor]:
    """Parameters and buffers of the stages, by the names of the model where it has them.

    Args:
        backbone: whose.
        lasting: leave out buffers that are in no state_dict, which may be made when the first images pass.
    """
    names = {id(tensor): name for name, tensor in tensors_of(backbone.model).items()}
    found: dict[str, Tensor] = {}
    for stage, module in backbone.stages.items():
        own = tensors_of(module)
        if not lasting:
            own |= dict(module.named_buffers())
        found |= {names.get(id(tensor), f"{stage}.{key}"): tensor for key, tensor in own.items()}
    return found


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    import torch

    return {name: value for name, value in state_of(module).items() if isinstance(value, torch.Tensor)}


def state_of(module: nn.Module) -> dict[str, Any]:
    """What a module's state_dict holds, of whatever kind."""
    return dict(module.state_dict(keep_vars=True))


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def check_ownership(path: str, backbone: Backbone, images: Tensor, outputs: Mapping[str, Tensor]) -> None:
    """Refuse a network that computes with what no stage holds: broken on purpose, it is in what the stages hand on."""
    mine = held(backbone).values()
    ours = {id(tensor) for tensor in mine} | {tensor.untyped_storage().data_ptr() for tensor in mine}
    others = {
        name: tensor
        for name, tensor in tensors_of(backbone.model).items()
        if _writable(tensor) and ours.isdisjoint((id(tensor), tensor.untyped_storage().data_ptr()))
    }
    used = first_that_matters(backbone, others, images, outputs)
    if used is None:
        return
    raise EncoderError(
        f"{path} computes with {used}, which none of the stages that run holds: it would be "
        "neither loaded nor hashed, nor frozen. Let the stage that uses it keep it as a parameter, a buffer or a "
        "sub-module: self.name = model.name."
    )


def first_that_matters(
    backbone: Backbone, tensors: Mapping[str, Tensor], images: Tensor, outputs: Mapping[str, Tensor]
) -> str | None:
    """The name of the first of these tensors that is in `outputs`, which the stages hand on of `images`; None if none
    is."""
    if not tensors or not _moves(backbone, tensors, images, outputs):
        return None
    moving = (name for name in tensors if _moves(backbone, {name: tensors[name]}, images, outputs))
    return next(moving, next(iter(tensors)))


def _moves(backbone: Backbone, tensors: Mapping[str, Tensor], images: Tensor, outputs: Mapping[str, Tensor]) -> bool:
    """Whether the stages hand on something else than `outputs` while these tensors hold other numbers."""
    copies = copied(tensors)
    try:
        for tensor in tensors.values():
            _break(tensor)
        broken = run(backbone, images)
    except Exception:  # it is used, and does not like what it finds
        return True
    finally:
        for name, tensor in tensors.items():
            tensor.data.copy_(copies[name])
    if first_apart(broken, outputs) is not None:
        return True
    return any(bool((output.isfinite() & ~broken[stage].isfinite()).any()) for stage, output in outputs.items())


def _writable(tensor: Tensor) -> bool:
    """Whether each number of a tensor has a place of its own to be written to."""
    from torch.nn.parameter import is_lazy

    if is_lazy(tensor) or tensor.is_quantized or not tensor.numel():
        return False
    return all(stride or size == 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _break(tensor: Tensor) -> None:
    """Put other numbers into a tensor: none, which nothing that is multiplied by zero hides, or integers as large."""
    import torch

    data = tensor.data
    if data.is_floating_point() or data.is_complex():
        data.fill_(torch.nan)
    elif bool((data != data.flatten()[0]).any()):
        data.copy_(data.flatten().roll(1).view(data.shape))
    else:
        data.fill_(int(not data.any()))
