"""What an encoder costs, stage by stage: channels, maps, parameters and multiply-adds, counted on its own network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stillsight.encoders.backbone import Backbone
from stillsight.encoders.encoder import up_to
from stillsight.encoders.errors import EncoderError, first_line
from stillsight.encoders.taps.handover import Layout
from stillsight.encoders.taps.learned_pooling import make_pooling
from stillsight.encoders.taps.tap import taps
from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.registry import make_backbone, spec

USUAL_SIDE = 224
"""Pixels of the images of a network whose recipe names no size."""


@dataclass(frozen=True)
class StageCost:
    """What has been computed when a stage has run.

    Attributes:
        name: of the stage.
        dims: channels of what it hands on.
        shape: of that, without the batch: (C, h, w) of a map, (L, C) of tokens, (C,) of a vector.
        parameters: of this stage and those before it.
        multiply_adds: of one image, in this stage and those before it, of convolutions, matrix products and attention.
            A multiplication and its addition count once, as in the papers that publish such numbers (ResNet-18 at 224
            px: 1.8e9; He et al. 2016, table 1, call them FLOPs).
    """

    name: str
    dims: int
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Cost:
    """What an encoder costs at one size of images.

    Attributes:
        backbone: the network; its tensors may have no content.
        side: of the square images, in pixels.
        stages: by name, in order of execution, as far as images of that side get.
        parameters: of the whole network as it was built: with its classifier, except timm's, which are built without.
    """

    backbone: Backbone
    side: int
    stages: dict[str, StageCost]
    parameters: int

    def features(self, tap: str, pooling: str) -> int:
        """How many numbers a frame becomes.

        Args:
            tap: one of `stages`, or several with commas between them.
            pooling: one for all of them, or as many, those that learn too.

        Raises:
            EncoderError: a pooling does not fit what its stage hands on.
        """
        tokens, first = self.backbone.class_tokens, self.backbone.class_first
        width = 0
        with torch.no_grad(), torch.device("meta"):  # where no weights of a pooling that learns are drawn
            for one in taps(tap, pooling):
                stage = self.stages[one.stage]
                pool = make_pooling(one, stage.dims, tokens, Layout(), class_first=first)
                features: Tensor = pool(torch.zeros(1, *stage.shape))
                width += features.shape[1]
        return width


def measure(name: str, side: int | None = None) -> Cost:
    """Build the encoder called `name` and count.

    On torch's device "meta", which computes shapes and no numbers, so that the largest network takes a moment and no
    memory; where a network does not run there, on the CPU.

    Args:
        name: of a row, or `module:function`.
        side: of the images in pixels; that of the recipe of its weights by default.

    Raises:
        EncoderError: no such encoder, or images of this side do not get through its first stage.
    """
    row = spec(name)
    try:
        with torch.device("meta"):
            return _counted(row, side)
    except (
        Exception
    ):  # too small, a function that loads files, or a layer without a rule for shapes: the CPU says which
        with torch.random.fork_rng(devices=[]):
            return _counted(row, side, shorter=True)


def _counted(row: EncoderSpec, side: int | None, *, shorter: bool = False) -> Cost:
    """See `measure`; `shorter` takes a stage that images do not get through as the end."""
    backbone = make_backbone(row.name)
    side = side or backbone.preprocessing.size or USUAL_SIDE
    row.check_size(side, next(iter(row.stages)), "--resolution")
    images: Tensor = torch.zeros(1, 3, side, side)
    stages: dict[str, StageCost] = {}
    multiply_adds = 0
    for stage, module in backbone.stages.items():
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                images = module.eval()(images)
        except (EncoderError, RuntimeError) as error:
            if shorter and stages:  # the images are too small for this one
                break
            told = f"Images of {side} px do not get through {stage} of {row.name} ({first_line(error)})."
            raise EncoderError(told) from error
        multiply_adds += counter.get_total_flops() // 2  # torch counts a multiplication and its addition as two
        shape = tuple(images.shape[1:])
        dims = shape[1] if len(shape) == 2 else shape[0]
        parameters = _parameters(up_to(backbone, stage, row.name).values())
        stages[stage] = StageCost(stage, dims, shape, parameters, multiply_adds)
    return Cost(backbone, side, stages, _parameters([backbone.model]))


def _parameters(modules: Iterable[nn.Module]) -> int:
    """Numbers that could learn in `modules`, those that they share counted once."""
    unique = {id(parameter): parameter.numel() for module in modules for parameter in module.parameters()}
    return sum(unique.values())
