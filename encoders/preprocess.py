"""Pixels to a network's input, by the recipe of its weights; and the count of the images that took this way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders.backbone import Preprocessing, Sides
from stillsight.encoders.taps.handover import Layout


class ImageCounter:
    """Counts the images that enter a network, over all copies of it: copies of a module share one counter.

    Attributes:
        images: that entered.
        at_hand: that had no need to, because their features were kept from before.
    """

    def __init__(self) -> None:
        self.images = 0
        self.at_hand = 0

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def add(self, images: int) -> None:
        """Count `images` more.

        torch's compiler, which takes a number of Python's for a constant and compiles anew when it changes, leaves this
        call out of what it compiles.
        """
        self.images += images

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the images that are encoded inside out of the count (evaluation, probing of shapes)."""
        before = self.images
        try:
            yield
        finally:
            self.images = before

    def __deepcopy__(self, memo: object) -> ImageCounter:
        return self


class Preprocess(nn.Module):
    """Pixels 0..255 `[N, 3, H, W]` (uint8 or float) -> normalised float32 `[N, 3, h, w]`, by the recipe of the weights.

    What is resized stays within 0..255, as in torchvision's own transforms of pictures, which round as well: the two
    differ by up to half a grey level.

    Args:
        recipe: mean, standard deviation and interpolation.
        resolution: the side to resize to, in pixels; None takes images as they come. The whole image is kept: cropping
            its centre, as the ImageNet recipes do, would cut an agent's world.
        counter: of the images that pass; None where another counts them.
        layout: notes the size of the images.
        sides: that images must have behind it.
        first_sight: called with height and width of what the network sees, see `zoo.contract.first_sight.FirstSight`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        recipe: Preprocessing,
        resolution: int | None,
        counter: ImageCounter | None,
        layout: Layout | None = None,
        sides: Sides | None = None,
        first_sight: Callable[[tuple[int, int]], None] | None = None,
    ) -> None:
        super().__init__()
        self.first_sight = first_sight
        self.sides = sides or Sides()
        self.recipe, self.resolution, self.counter, self.layout = recipe, resolution, counter, layout or Layout()
        # Not persistent: the recipe is data of the registry, and a state_dict holds what the weights file holds.
        self.register_buffer("mean", torch.tensor(recipe.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        if self.counter is not None:
            self.counter.add(len(pixels))
        self.note(pixels)
        images = pixels.to(torch.float32, memory_format=torch.channels_last)
        if self.resolution is not None and tuple(pixels.shape[2:]) != (self.resolution, self.resolution):
            images = F.interpolate(
                images, size=(self.resolution, self.resolution), mode=self.recipe.interpolation, antialias=True
            )
            if self.recipe.interpolation == "bicubic":  # its negative lobes overshoot, where no pixel can be
                images = images.clamp(0, 255)
        return (images - self.mean).div_(self.std)

    def note(self, pixels: Tensor) -> None:
        """Note the size of these images in the layout, and refuse one that the network would crop, or a network that
        breaks its contract on it; not where a compiler or an exporter only looks.

        Raises:
            EncoderError: see `Sides.check` and `zoo.contract.first_sight.FirstSight`.
        """
        if not torch.compiler.is_compiling():
            height, width = pixels.shape[2:]
            self.layout.pixels = (height, width)
            self.layout.image = (height, width) if self.resolution is None else (self.resolution, self.resolution)
            self.sides.check(self.layout.image)
            if self.first_sight is not None:
                self.first_sight(self.layout.image)

    def uncounted(self) -> Preprocess:
        """The same recipe for an engine, whose images its caller counts."""
        return Preprocess(self.recipe, self.resolution, None, self.layout, self.sides)
