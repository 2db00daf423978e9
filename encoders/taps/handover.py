"""What passes between stages where several are tapped, and over the cut: the kept ones beside the current one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]
"""What was read at earlier taps, in order, and last what the current stage handed on."""


@dataclass
class Layout:
    """What an image of this size is laid out as on its way: what a flat tensor does not say of itself.

    It is noted whenever the stages run as their author wrote them, and shared by all copies of an encoder: images of
    one size go through one network.

    Attributes:
        pixels: height and width of the images as they came.
        image: height and width as the network sees them; patch tokens lie in rows and columns of these proportions.
        handed: shapes `[...]` of what one image hands over the cut, where that is more than one tensor.
        widths: features of each tap.
    """

    pixels: tuple[int, int] | None = None
    image: tuple[int, int] | None = None
    handed: tuple[tuple[int, ...], ...] = ()
    widths: tuple[int, ...] = ()

    def __deepcopy__(self, memo: object) -> Layout:
        return self

    def note_handed(self, parts: Iterable[Tensor]) -> None:
        """Note the shapes of what is handed over; not where a compiler or an exporter only looks."""
        if not torch.compiler.is_compiling():
            self.handed = tuple(tuple(part.shape[1:]) for part in parts)

    def note_widths(self, parts: Iterable[Tensor]) -> None:
        """Note how many features `[N, D]` each tap gives."""
        if not torch.compiler.is_compiling():
            self.widths = tuple(part.shape[1] for part in parts)


class Read(nn.Module):
    """A tap on the way: keep what the current stage handed on, pooled or as it is, and go on from there.

    Args:
        pooling: None keeps it as it is, for a pooling behind the cut.
    """

    def __init__(self, pooling: nn.Module | None) -> None:
        super().__init__()
        self.pooling = pooling or nn.Identity()

    def forward(self, state: Tensor | State) -> State:
        parts = state if isinstance(state, tuple) else (state,)
        return (*parts[:-1], self.pooling(parts[-1]), parts[-1])


class Onward(nn.Module):
    """A stage behind a tap: it takes the current tensor, and what was kept goes past it."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, state: State) -> State:
        return (*state[:-1], self.stage(state[-1]))


class Join(nn.Module):
    """The end of several taps: pool what was not pooled yet, and put all features one after the other, `[N, D]`.

    Args:
        poolings: of each tap; None for one that was pooled where it was read.
        layout: notes the features of each tap.
    """

    def __init__(self, poolings: Iterable[nn.Module | None], layout: Layout) -> None:
        super().__init__()
        self.poolings = nn.ModuleList(pooling or nn.Identity() for pooling in poolings)
        self.layout = layout

    def forward(self, state: State) -> Tensor:
        features = [pooling(part).float() for pooling, part in zip(self.poolings, state, strict=True)]
        self.layout.note_widths(features)
        return torch.cat(features, dim=1)


class Pack(nn.Module):
    """Several tensors of an image over the cut as one, float32 `[N, ...]` each -> `[N, D]`: a buffer keeps one."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, state: State) -> Tensor:
        self.layout.note_handed(state)
        return torch.cat([part.float().flatten(1) for part in state], dim=1)


class Unpack(nn.Module):
    """The inverse of `Pack`; its shapes are those of the images that the frozen part has seen."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, packed: Tensor) -> State:
        shapes = self.layout.handed
        parts = packed.split([math.prod(shape) for shape in shapes], dim=1)
        return tuple(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True))
