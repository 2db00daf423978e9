"""The encoder: pixels in, features out, with a cut. What stands before it is frozen, what stands after it learns."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stillsight.encoders import device as devices
from stillsight.encoders.adapt import Adaptation
from stillsight.encoders.backbone import Backbone
from stillsight.encoders.errors import EncoderError, unknown
from stillsight.encoders.frozen import Frozen
from stillsight.encoders.learned import Learned
from stillsight.encoders.pooling import Pooling
from stillsight.encoders.preprocess import ImageCounter, Preprocess


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where an encoder's weights came from.

    Attributes:
        kind: "shipped", "file", "run", "folder", "package", "cache", "download", "function" (a third party's own) or
            "random".
        name: file name, torchvision's weights entry, or the seed of random weights.
        sha256: of the file, or empty for random weights.
        licence: what may be done with them, as far as it is known.
    """

    kind: str
    name: str
    sha256: str = ""
    licence: str = ""


class Rebuilding(Protocol):
    """What an encoder was built from, see `building.Recipe`."""

    def rebuild(self, frozen_sha256: str) -> Encoder: ...


class Encoder(nn.Module):
    """Pixels 0..255 `[N, 3, H, W]` in (uint8 or float), float32 features `[N, D]` out, in two parts.

    `encoder.frozen` is what stands before the cut, `encoder.learned` what stands after it.

    Args:
        backbone: the network and its stages.
        name: what it is called in cards and run folders.
        tap: last stage that runs; what lies behind it is not even kept.
        pooling: see `encoder_spec.POOLINGS`.
        resolution: side in pixels that images are resized to; None takes them as they come.
        unfreeze: the cut: None freezes everything, a stage's name trains from that stage on, "all" trains everything.
        pinned, shielded, adaptation: see `Learned`.
        precision: of the frozen part; the learned part computes in float32.
        provenance: of the weights.

    Raises:
        EncoderError: no such stage or pooling, or nothing that could learn in the way of `adaptation`.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        name: str = "encoder",
        tap: str | None = None,
        pooling: str | None = None,
        resolution: int | None = None,
        unfreeze: str | None = None,
        pinned: bool = True,
        shielded: bool = True,
        adaptation: Adaptation | None = None,
        precision: devices.Precision = "auto",
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.tap = tap or backbone.tap
        self.pooling = pooling or backbone.pooling
        self.resolution = resolution
        self.unfreeze = unfreeze
        self.preprocessing = backbone.preprocessing
        self.provenance = provenance or Provenance(kind="random", name="unknown")
        self.counter = ImageCounter()
        self.recipe: Rebuilding | None = None
        self.in_policy = False  # whether some policy holds a copy of the learned part
        stages = up_to(backbone, self.tap, name)
        steps: dict[str, nn.Module] = {"pixels": Preprocess(self.preprocessing, resolution, self.counter)}
        steps |= {**stages, "pooling": Pooling(self.pooling, backbone.class_tokens)}
        cut = self._cut(list(steps))
        before, after = dict(list(steps.items())[:cut]), dict(list(steps.items())[cut:])
        self.frozen = Frozen(before, _official(before, backbone.model), self.counter, precision)
        names = _official(after, backbone.model)
        self.learned = Learned(after, names, pinned=pinned, shielded=shielded, adaptation=adaptation)

    def extra_repr(self) -> str:
        """What `print(encoder)` shows before its two parts."""
        return f"{self.name}, tap={self.tap}, {self.provenance.kind} weights {self.provenance.name}"

    def _cut(self, steps: list[str]) -> int:
        """Index of the first step that learns."""
        if self.unfreeze is None:
            return len(steps)
        if self.unfreeze == "all":
            return 0
        stages = steps[1:-1]
        if self.unfreeze not in stages:
            allowed = f"Up to the tap {self.tap}, {self.name} can be unfrozen from"
            raise EncoderError(unknown("stage", self.unfreeze, [*stages, "all"], allowed, "--unfreeze"))
        return steps.index(self.unfreeze)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.learned(self.frozen(pixels))
        return features

    @property
    def device(self) -> torch.device:
        """Where the encoder lives."""
        return next((tensor.device for tensor in self.learned.buffers()), self.frozen.device)

    @property
    def places(self) -> int:
        """How many places features keep apart, channels first: k * k on a grid, 1 for a vector, 0 where they are not
        channels at places (flatten)."""
        if self.pooling == "flatten":
            return 0
        return int(self.pooling.removeprefix("grid")) ** 2 if self.pooling.startswith("grid") else 1

    def state(self) -> dict[str, Tensor]:
        """Every parameter and buffer up to the tap, under its official name."""
        return self.frozen.state() | self.learned.state()

    def sha256(self) -> str:
        """One hash over parameters and buffers: equal if and only if no bit of them has changed."""
        return fingerprint(self.state())

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoder:
        # Not through __reduce__, which would build the copy anew, without what the learned part has learned since.
        twin = Encoder.__new__(Encoder)
        memo[id(self)] = twin
        twin.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return twin

    def __reduce__(self) -> Any:
        # SB3's own `model.save` pickles the policy's keyword arguments. An encoder goes in as its recipe and its hash,
        # not as its weights: a kilobyte instead of the whole network once more.
        if self.recipe is None:
            return super().__reduce__()
        return self.recipe.rebuild, (fingerprint(self.frozen.state()),)


def up_to(backbone: Backbone, tap: str, name: str = "encoder") -> dict[str, nn.Module]:
    """The stages that run when `tap` is the last one.

    Raises:
        EncoderError: there is no such stage.
    """
    stages = list(backbone.stages)
    if tap not in stages:
        raise EncoderError(unknown("stage", tap, stages, f"{name} can be tapped at", "--tap"))
    return {stage: backbone.stages[stage] for stage in stages[: stages.index(tap) + 1]}


def _official(steps: Mapping[str, nn.Module], model: nn.Module) -> dict[str, str]:
    """Map the state_dict keys of a list of `steps` to those of `model`, by the identity of the tensors.

    Raises:
        EncoderError: a stage holds a tensor that the model does not.
    """
    names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    listed = nn.ModuleList(steps.values()).state_dict(keep_vars=True)
    for key, tensor in listed.items():
        if id(tensor) not in names:
            stage, _, own = key.partition(".")
            raise EncoderError(
                f"Stage {list(steps)[int(stage)]} holds {own}, which is no tensor of the network that its Backbone "
                "names as model: it would be neither loaded nor saved. Make it a part of the model, or share the "
                "model's own modules instead of copying them."
            )
    return {key: names[id(tensor)] for key, tensor in listed.items()}


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes, dtypes and bytes of `state`, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
