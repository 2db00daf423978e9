"""What learns in the part after the cut: all of it, its normalisation layers, or low-rank additions to its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import parametrize

from stillsight.encoders.backbone import READ, STEPS
from stillsight.encoders.errors import EncoderError

RMS = ("rmsnorm", "simplenorm")
"""In the names of classes that divide by the root mean square alone: timm and most authors have written their own."""

ALPHA = 8.0
"""Numerator of the low-rank scale alpha / rank: the first rank that was tried, as in Hu et al. 2021, section 4.1."""


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What a `Learned` part learns.

    Attributes:
        what: "all"; "norm", the scales and shifts of normalisation layers alone; "lora", see `LowRank`.
        batchnorm: "frozen" keeps BatchNorm in eval mode, its statistics as they are; "train" normalises by the batch
            and moves them. None: "train" where a part is not pinned and learns as a whole, "frozen" elsewhere.
        rank: of the low-rank additions.
        seed: of their random half.
    """

    what: Literal["all", "norm", "lora"] = "all"
    batchnorm: Literal["frozen", "train"] | None = None
    rank: int = 8
    seed: int = 0

    def moves_statistics(self, pinned: bool) -> bool:
        """Whether BatchNorm follows train mode."""
        if self.batchnorm is None:
            return self.what == "all" and not pinned
        return self.batchnorm == "train"

    def moving(self, steps: nn.Module, pinned: bool) -> list[Tensor]:
        """The parameters of `steps` that training changes, and the statistics that move with it."""
        statistics = [module for module in steps.modules() if isinstance(module, _BatchNorm)]
        buffers = [buffer for module in statistics for buffer in module.buffers(recurse=False)]
        learning: Iterable[Tensor] = steps.parameters()
        if self.what == "norm":
            learning = norms(steps)
        elif self.what == "lora":
            learning = (getattr(module, name) for module, name in matrices(steps))
        return [*learning, *(buffers if self.moves_statistics(pinned) else ())]

    def prepare(self, steps: nn.Module, names: Iterable[str]) -> None:
        """Leave in `steps` only what learns as parameters.

        Args:
            steps: stages whose parameters are changed in place.
            names: of the stages, for the message.

        Raises:
            EncoderError: there is nothing here that could learn in this way.
        """
        if self.what == "all":
            return
        norm = self.what == "norm"
        learning = list(norms(steps)) if norm else []
        weights = [] if norm else list(matrices(steps))
        if not learning and not weights:
            kind = "normalisation layers with weights" if norm else "convolution or linear layer"
            stages = ", ".join(name for name in names if name not in STEPS and not name.startswith(READ)) or "nothing"
            raise EncoderError(
                f"--adapt {self.what} finds no {kind} in what learns ({stages}). Type --adapt all, or train from an "
                "earlier stage on (--unfreeze STAGE)."
            )
        if computed := [layer for layer, weight in weights if not _own(layer, weight)]:
            raise EncoderError(
                f"--adapt lora adds to the weights of layers, and {len(computed)} of {len(weights)} in what learns "
                f"compute theirs from others, the first of them a {type(computed[0]).__name__} with "
                f"{_computed_from(computed[0])}. Type --adapt all or --adapt norm, or let the function remove that "
                "from its layers."
            )
        settle(steps, {id(parameter) for parameter in learning})
        generator = torch.Generator().manual_seed(self.seed)
        for module, name in weights:
            low_rank = LowRank(getattr(module, name), self.rank, generator)
            parametrize.register_parametrization(module, name, low_rank)


class LowRank(nn.Module):
    """W -> W + alpha / rank * B A, where A and B alone learn (LoRA, Hu et al. 2021, equation 3).

    B begins at zero: the first step starts from exactly the function that W computes. The weight `[out, in / groups,
    h, w]` of a convolution is taken as a matrix of `out` rows, so one A serves all groups of a grouped or depthwise
    convolution, and the rank is never larger than the smaller side of the matrix.

    Args:
        weight: W, two dimensions or more.
        rank: the r of the paper; the scale is alpha / r.
        generator: for A, drawn as torch draws a linear layer's weight and the paper's code draws A.
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.scale = ALPHA / rank
        rank = min(rank, rows, columns)
        down = torch.empty(rank, columns)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(torch.zeros(rows, rank).to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down).view_as(weight)


def merge(steps: nn.Module) -> None:
    """Add every low-rank addition to its weight for good, which leaves plain weights of the same function.

    What an author parametrised (weight_norm, spectral_norm) stays: its tensors are those that are loaded and saved.
    """
    for module in list(steps.modules()):
        if parametrize.is_parametrized(module):
            for name, added in list(module.parametrizations.items()):  # type: ignore[operator, union-attr]
                if all(isinstance(each, LowRank) for each in added):
                    parametrize.remove_parametrizations(module, name)


def norms(steps: nn.Module) -> Iterator[nn.Parameter]:
    """Scales and shifts of BatchNorm, LayerNorm, GroupNorm, InstanceNorm and RMSNorm layers."""
    for module in steps.modules():
        if isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm | _InstanceNorm) or _divides_by_rms(module):
            yield from module.parameters(recurse=False)


def _divides_by_rms(module: nn.Module) -> bool:
    """Whether a layer is an RMSNorm, torch's or, by the name of its class or of one that it is made from, another's."""
    names = (kind.__name__.lower().replace("_", "") for kind in type(module).__mro__)
    return any(known in name for name in names for known in RMS)


def matrices(steps: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules with the name of their weight: convolutions, linear layers, and queries, keys and values of attention."""
    for module in steps.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield module, "weight"
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            yield module, "in_proj_weight"


def _own(module: nn.Module, name: str) -> bool:
    """Whether a module's weight is a parameter of its own, and not computed (weight_norm, spectral_norm)."""
    return isinstance(module._parameters.get(name), nn.Parameter)


def _computed_from(module: nn.Module) -> str:
    return ", ".join(name for name, _ in module.named_parameters() if "weight" in name or "original" in name)


def settle(steps: nn.Module, learning: set[int]) -> None:
    """Turn every parameter whose id is not in `learning` into a buffer, under its name and with its values.

    Parameters that require no gradient would not do: SB3 averages them into target networks, which rounds them, and
    sb3-contrib's TRPO asks for their gradients, which raises. Buffers are still moved, copied and saved.
    """
    for module in steps.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) not in learning:
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
