"""What every network must tell of itself before it can be an encoder: its stages in order, and its preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How pixels become the network's input; it travels with the weights.

    Attributes:
        mean, std: per channel (RGB), of pixels scaled to 0..1.
        size: side in pixels that the recipe of the weights evaluates at (for ImageNet networks usually 224).
        interpolation: how the recipe resizes.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    size: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network, cut into named stages that run one after the other, with all that an encoder must know of it.

    The function that `--encoder my_module:function` names returns one. If it takes an argument `pretrained`, it is
    called with `pretrained=True` in the modes frozen and finetune, and with `pretrained=False` in random and scratch.

    Attributes:
        model: the network as its author built it; its state_dict gives parameters their official names.
        stages: name -> module, in order of execution. Each hands on a map `[N, C, h, w]`, tokens `[N, L, C]` or a
            vector `[N, C]`. Modules are shared with `model`, not copied.
        preprocessing: the recipe of its weights.
        tap: stage that is read by default, as classifiers do.
        pooling: pooling by default.
        control: tap and pooling for agents by default, which need to know where things are. None: the last stage whose
            maps are an eighth of the image's side or larger, on a grid.
        class_tokens: how many tokens stand before the patches: the class token and registers.
        least: smallest side in pixels of the images that a stage can take, by stage, as far as it is known.
        multiple: image sides must be multiples of this many pixels (patch size of a vision transformer).
        fixed: the only side in pixels that images may have; None for any.
        pretrained: whether `model` holds pretrained weights as it was returned.
        weights: file of pretrained weights, if they are not in `model` already.
        licence: of the pretrained weights.
    """

    model: nn.Module
    stages: Mapping[str, nn.Module]
    preprocessing: Preprocessing
    tap: str
    pooling: str = "global"
    control: tuple[str, str] | None = None
    class_tokens: int = 0
    least: Mapping[str, int] | None = None
    multiple: int = 1
    fixed: int | None = None
    pretrained: bool = False
    weights: str | None = None
    licence: str = ""
