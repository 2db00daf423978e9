"""What is known of an encoder before it is built: the record that a row of the registry is, and its checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stillsight.encoders.backbone import Sides
from stillsight.encoders.errors import EncoderError, unknown


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """One row of the registry.

    Attributes:
        name: what `--encoder` takes.
        builder: `module:function`; the function returns a `Backbone` with random weights and is imported when needed.
        stages: tap name -> smallest image side, in pixels, that this stage can take. Order is the order of execution.
        tap: the stage that is read when no `--tap` is given.
        pooling: the pooling when no `--pooling` is given.
        control: tap and pooling for agents when neither is given. Control needs to know where things are, which a
            network's last, globally pooled features have lost; PIE-G (Yuan et al. 2022) taps a ResNet after layer2.
        weights: where they are from: a torchvision weights entry ("ResNet18_Weights.IMAGENET1K_V1"), "timm:NAME.TAG",
            "hf:OWNER/NAME" or "hf:OWNER/NAME/FILE" on Hugging Face, "package:DISTRIBUTION", "url:ADDRESS", "shipped", a
            third party's file, "function" where the builder itself returns pretrained weights, or None: scratch only.
        withdrawn: what became of weights that were published and are nowhere to be had: they are a file of one's own.
        licence: of the weights, where it does not follow from their source.
        accept: whether it must be accepted once before they are used, because they are gated or non-commercial.
        family: what the network is called by its authors, say "ResNet".
        arguments: passed to the builder.
        own: a third party's `module:function`, which has no row.
        multiple: image sides must be multiples of this many pixels (patch size of a vision transformer).
        fixed: the only side in pixels that images may have; None for any.
        summary: one line for `stillsight list encoders`.
    """

    name: str
    builder: str
    stages: Mapping[str, int]
    tap: str
    pooling: str = "global"
    control: tuple[str, str]
    weights: str | None = None
    withdrawn: str = ""
    licence: str = ""
    accept: bool = False
    family: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    own: bool = False
    multiple: int = 1
    fixed: int | None = None
    summary: str = ""

    def check_tap(self, tap: str) -> str:
        """Return `tap` if this encoder has such a stage; raise `EncoderError` with the nearest name otherwise."""
        if tap not in self.stages:
            raise EncoderError(unknown("stage", tap, self.stages, f"{self.name} can be tapped at", "--tap"))
        return tap

    @property
    def from_scratch(self) -> bool:
        """Whether nobody has pretrained it."""
        return self.weights is None and not self.withdrawn

    @property
    def without_weights(self) -> str:
        """What is said where pretrained weights are asked for and its record knows of none."""
        if self.withdrawn:
            return f"{self.name}: {self.withdrawn}. Give --weights FILE, or type --mode scratch or --mode random."
        own = ", or let its Backbone say pretrained=True or weights=FILE" if self.own else ""
        return (
            f"{self.name} {'says of no' if self.own else 'has no'} pretrained weights. Type --mode scratch or --mode "
            f"random, or give --weights FILE{own}."
        )

    @property
    def sides(self) -> Sides:
        """Which sides the images may have, beside the smallest ones."""
        return Sides(self.name, self.multiple, self.fixed)

    def check_size(self, size: int | tuple[int, int], tap: str, flag: str = "--size or --resolution") -> None:
        """Refuse images that cannot pass through `tap`.

        Args:
            size: height and width in pixels, or a side of square ones.
            tap: the last stage that runs.
            flag: by which larger images are to be had.

        Raises:
            EncoderError: what they are, what is allowed, what to type.
        """
        sides = (size,) if isinstance(size, int) else size
        if self.fixed is not None:
            self.sides.check(sides)
        least = self.stages[tap]
        if min(sides) < least:
            raise EncoderError(
                f"{self.name} needs images of at least {least} px to reach {tap}, and these have {min(sides)} px. "
                f"Give larger images ({flag}), or an earlier stage (--tap)."
            )
        self.sides.check(sides)
