"""Whether a gradient reaches every weight of a backbone that is to learn."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import dropwhile
from typing import TYPE_CHECKING

from stillsight.encoders.backbone import Backbone
from stillsight.encoders.errors import EncoderError, in_brackets
from stillsight.encoders.taps.tap import stages_of
from stillsight.encoders.zoo.contract.ownership import first_that_matters, held
from stillsight.encoders.zoo.contract.stages import run

if TYPE_CHECKING:
    from torch import Tensor, nn


def check_gradient(path: str, backbone: Backbone, images: Tensor, outputs: Mapping[str, Tensor], learns: str) -> None:
    """Refuse a network with a weight that is to learn, matters to the features, and gets no gradient: it would be
    trained, and stay as it is.

    Args:
        path: what the encoder is called in messages.
        backbone: with the stages that run, and the tap that they run for.
        images: `[N, 3, H, W]`, normalised.
        outputs: what the stages hand on of them.
        learns: the stage from which on it is to learn, "all" for all; of one that there is not the encoder says so.

    Raises:
        EncoderError: naming the weight; or no gradient can be computed.
    """
    trained = list(dropwhile(lambda stage: learns not in ("all", stage), backbone.stages))
    if not trained:
        return
    learning = {id(weight) for stage in trained for weight in backbone.stages[stage].parameters()}
    without = _without_gradient(path, backbone, images)
    blind = {name: weight for name, weight in without.items() if id(weight) in learning}
    shown = {stage: outputs[stage] for stage in stages_of(backbone.tap)}
    name = first_that_matters(backbone, blind, images, shown)
    if name is not None:
        raise EncoderError(
            f"{name} of {path} is in its features and gets no gradient, so it would be trained and stay as it is. Take "
            "torch.no_grad() and detach() out of forward(), train the stages behind them alone (--unfreeze STAGE), or "
            "keep what shall never learn as a buffer: self.register_buffer(name, tensor)."
        )


def _without_gradient(path: str, backbone: Backbone, images: Tensor) -> dict[str, nn.Parameter]:
    """The weights that get none from the features, by name; flags and gradients are as they were afterwards."""
    import torch

    weights = {name: tensor for name, tensor in held(backbone).items() if isinstance(tensor, torch.nn.Parameter)}
    before = [(weight, weight.requires_grad, weight.grad) for weight in weights.values()]
    try:
        for weight in weights.values():
            weight.grad = None
            weight.requires_grad_(weight.is_floating_point() or weight.is_complex())
        with torch.enable_grad():
            _backward(path, backbone, images)
        return {name: weight for name, weight in weights.items() if weight.grad is None}
    finally:
        for weight, flag, gradient in before:
            weight.requires_grad_(flag)
            weight.grad = gradient


def _backward(path: str, backbone: Backbone, images: Tensor) -> None:
    import torch

    tapped = stages_of(backbone.tap)
    found = run(backbone, images)
    features = [found[stage] for stage in tapped if found[stage].requires_grad]
    if not features:
        raise EncoderError(
            f"Stage {tapped[-1]} of {path} hands on features without a gradient, so nothing of it would be trained. "
            "Take torch.no_grad() and detach() out of its forward(), or type --mode frozen."
        )
    try:
        torch.autograd.backward(features, [torch.ones_like(each) for each in features])
    except Exception as error:  # whatever a network's own functions say
        raise EncoderError(
            f"No gradient of {path} can be computed ({in_brackets(error)}). Let its operations have one, or type "
            "--mode frozen."
        ) from error
