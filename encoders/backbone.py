"""What every network must tell of itself before it can be an encoder: its stages in order, and its preprocessing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from stillsight.encoders.errors import EncoderError, unknown

if TYPE_CHECKING:
    from torch import nn


COLOURS = 3
"""Channels of an image."""
MOST = {"mean": 2.0, "std": 10.0}
"""The largest mean and std that are of pixels scaled to 0..1: a network that wants other ranges than 0..1, -1..1 or
0..255 (std 1/255) has them within."""
INTERPOLATIONS = ("bilinear", "bicubic")
STEPS = ("pixels", "pooling", "handover")
"""What runs in an encoder beside the stages: before the first, behind the last, and on both sides of the cut."""
READ = "tap."
"""Before the name of a stage: where it is read on the way."""
RESERVED = (*STEPS, "all")
"""Names that no stage may have; "all" is every stage to `--unfreeze`."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How pixels become the network's input; it travels with the weights.

    Attributes:
        mean, std: per channel (RGB), of pixels scaled to 0..1.
        size: side in pixels that the recipe of the weights evaluates at (for ImageNet networks usually 224).
        interpolation: how the recipe resizes.

    Raises:
        EncoderError: mean and std are not three numbers each, or of pixels 0..255, or a std is not above 0; there is no
            such interpolation.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    size: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        for field, value in (("mean", self.mean), ("std", self.std)):
            numbers = _numbers(value)
            if len(numbers) != COLOURS:
                raise EncoderError(
                    f"Preprocessing({field}={value}) is not three finite numbers, and images have three colours. Give "
                    f"{field}=(red, green, blue), of pixels scaled to 0..1."
                )
            if max(map(abs, numbers)) > MOST[field]:
                scaled = ", ".join(f"{number / 255:.3g}" for number in numbers)
                raise EncoderError(
                    f"Preprocessing({field}={value}) is of pixels 0..255, and mean and std are of pixels scaled to "
                    f"0..1 here. Divide both by 255: {field}=({scaled})."
                )
            if field == "std" and min(numbers) <= 0:
                raise EncoderError(
                    f"Preprocessing(std={value}) divides by what is not above 0. Give the standard deviation of each "
                    "colour, or std=(1.0, 1.0, 1.0) for none."
                )
        if self.interpolation not in INTERPOLATIONS:
            raise EncoderError(
                unknown("interpolation", str(self.interpolation), INTERPOLATIONS, "Allowed", "interpolation:")
            )


def _numbers(value: Any) -> tuple[float, ...]:
    """`value` as finite numbers; () of anything else."""
    try:
        numbers = tuple(map(float, value))
    except (TypeError, ValueError):
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network, cut into named stages that run one after the other, with all that an encoder must know of it.

    The function that `--encoder my_module:function` names returns one. If it takes an argument `pretrained`, it is
    called with `pretrained=True` in the modes frozen and finetune, and with `pretrained=False` in random and scratch.

    Attributes:
        model: the network as its author built it; its state_dict gives parameters their official names.
        stages: name -> module, in order of execution. Each hands on a map `[N, C, h, w]`, tokens `[N, L, C]` or a
            vector `[N, C]`. Modules are shared with `model`, not copied. Those that work in place (ReLU(inplace=True))
            are told not to: what a stage is given may be kept, by a tap or in a buffer.
        preprocessing: the recipe of its weights.
        tap: stage that is read by default, as classifiers do.
        pooling: pooling by default.
        control: tap and pooling for agents by default, which need to know where things are. None: the last stage whose
            maps are an eighth of the image's side or larger, on a grid.
        class_tokens: how many tokens stand before the patches: the class token and registers.
        class_first: whether the first of them is the class token; False where they are registers alone.
        least: smallest side in pixels of the images that a stage can take, by stage; measured where it is not said.
        multiple: image sides must be multiples of this many pixels (patch size of a vision transformer).
        fixed: the only side in pixels that images may have; None for any.
        pretrained: whether `model` holds pretrained weights as it was returned.
        weights: file of pretrained weights, if they are not in `model` already.
        licence: of the pretrained weights.

    Raises:
        EncoderError: a stage has a name that cannot be typed, or that means something else.
    """

    model: nn.Module
    stages: Mapping[str, nn.Module]
    preprocessing: Preprocessing
    tap: str
    pooling: str = "global"
    control: tuple[str, str] | None = None
    class_tokens: int = 0
    class_first: bool = True
    least: Mapping[str, int] | None = None
    multiple: int = 1
    fixed: int | None = None
    pretrained: bool = False
    weights: str | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        for name in self.stages:
            _check_name(name)
        for stage in self.stages.values():
            for module in stage.modules():
                if vars(module).get("inplace") is True:
                    module.inplace = False  # type: ignore[assignment]

    @property
    def has_class_token(self) -> bool:
        """Whether there is a class token for the poolings `cls` and `cls+global` to read."""
        return self.class_first and self.class_tokens > 0


def _check_name(stage: str) -> None:
    """Refuse a stage's name that `--tap` or `--unfreeze` could not say, or that an encoder has for something else."""
    if stage in RESERVED or stage.startswith(READ) or "," in stage or stage.strip() != stage or not stage:
        raise EncoderError(
            f"A stage of the Backbone is called {stage!r}. Allowed is any name but {', '.join(RESERVED)} and those "
            f"that begin with {READ!r}, which an encoder has for something else; without commas, and spaces around it, "
            'which --tap could not say. Give it another name: Backbone(stages={"NAME": module, ...}).'
        )


@dataclass(frozen=True)
class Sides:
    """Which sides, in pixels, the images of a network may have.

    Attributes:
        name: of the encoder, for the message.
        multiple: see `Backbone.multiple`.
        fixed: see `Backbone.fixed`.
    """

    name: str = "encoder"
    multiple: int = 1
    fixed: int | None = None

    def check(self, sides: Collection[int]) -> None:
        """Refuse images with these sides where they do not fit: what is left over beside the last patch would be cut
        off without a word.

        Args:
            sides: height and width, or one of them; in pixels.

        Raises:
            EncoderError: what they are, what is allowed, what to type.
        """
        found = " x ".join(map(str, dict.fromkeys(sides)))
        if self.fixed is not None and any(side != self.fixed for side in sides):
            raise EncoderError(
                f"{self.name} takes images of {self.fixed} px alone, and these have {found} px. Add --resolution "
                f"{self.fixed}."
            )
        rest = [side for side in sides if side % self.multiple]
        if rest:
            near = max(self.multiple, round(min(sides) / self.multiple) * self.multiple)
            whose = "" if len(set(sides)) == 1 else f" of the images of {found} px"
            raise EncoderError(
                f"{self.name} cuts images into patches of {self.multiple} px, and {rest[0]} px{whose} is not a "
                f"multiple of that. Add --resolution {near}."
            )
