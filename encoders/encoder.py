"""The encoder: pixels in, features out, with a cut. What stands before the cut is frozen, what stands after it learns."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders import device as devices
from stillsight.encoders.backbone import Backbone, Preprocessing
from stillsight.encoders.pooling import Pooling
from stillsight.encoders.registry import EncoderError, unknown


class ImageCounter:
    """Counts the images that enter a network, over all copies of it: copies of a module share one counter."""

    def __init__(self) -> None:
        self.images = 0

    def __deepcopy__(self, memo: object) -> ImageCounter:
        return self


class Preprocess(nn.Module):
    """Pixels 0..255 `[N, 3, H, W]` (uint8 or float) -> normalised float32 `[N, 3, h, w]`, by the recipe of the weights.

    Args:
        recipe: mean, standard deviation and interpolation.
        resolution: the side to resize to, in pixels; None takes images as they come. The whole image is kept: cropping
            its centre, as the ImageNet recipes do, would cut an agent's world.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Preprocessing, resolution: int | None, counter: ImageCounter) -> None:
        super().__init__()
        self.recipe, self.resolution, self.counter = recipe, resolution, counter
        # Not persistent: the recipe is data of the registry, and a state_dict holds what the weights file holds.
        self.register_buffer("mean", torch.tensor(recipe.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        self.counter.images += len(pixels)
        images = pixels.to(torch.float32, memory_format=torch.channels_last)
        if self.resolution is not None and tuple(pixels.shape[2:]) != (self.resolution, self.resolution):
            images = F.interpolate(
                images, size=(self.resolution, self.resolution), mode=self.recipe.interpolation, antialias=True
            )
        return (images - self.mean) / self.std


class Part(nn.Module):
    """A run of consecutive stages, one side of the cut.

    Args:
        steps: stage name -> module.
        official: this part's own state_dict keys -> the names that the network's author gave the same tensors.
        precision: of the matrix products, see `device.autocast`.
    """

    def __init__(
        self, steps: Mapping[str, nn.Module], official: Mapping[str, str], precision: devices.Precision = "float32"
    ) -> None:
        super().__init__()
        self.names = tuple(steps)
        self.steps = nn.ModuleList(steps.values())
        self.official = dict(official)
        self.precision = precision

    def state(self) -> dict[str, Tensor]:
        """Every parameter and buffer under its official name; the tensors are the live ones."""
        return {self.official[key]: tensor for key, tensor in self.state_dict(keep_vars=True).items()}

    def sequence(self, tensor: Tensor) -> Tensor:
        """Run the stages one after the other."""
        with devices.autocast(tensor.device, self.precision):
            for step in self.steps:
                tensor = step(tensor)
        return tensor


class Frozen(Part):
    """The part before the cut: it does not change, whatever is done to the policy that looks through it.

    It stays in eval mode, builds no graph, refuses re-initialisation, and copies of it are itself. Pixels
    `[N, 3, H, W]` in; out come float32 features `[N, D]` (cut at the end), maps `[N, C, h, w]` or tokens (cut in
    between), or the pixels untouched (cut at the start, where nothing is frozen).
    """

    def __init__(
        self, steps: Mapping[str, nn.Module], official: Mapping[str, str], precision: devices.Precision = "auto"
    ) -> None:
        super().__init__(steps, official, precision)
        self.requires_grad_(False)
        self.train(False)

    @property
    def device(self) -> torch.device:
        """Where this part lives."""
        return next((tensor.device for tensor in self.buffers()), torch.device("cpu"))

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: BatchNorm in train mode would rewrite its running statistics."""
        return super().train(False)

    def apply(self, fn: object) -> Self:
        """Refuse: Stable-Baselines3's orthogonal initialisation arrives through here and would erase the weights."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        if not len(self.steps):
            return pixels
        with torch.no_grad():
            return self.sequence(pixels).float()

    def encode(self, pixels: np.ndarray, batch: int = 256) -> np.ndarray:
        """Numpy pixels `[N, 3, H, W]` uint8 -> numpy features `[N, ...]`, in batches of at most `batch` images."""
        if not len(self.steps):
            return pixels
        return devices.encode_in_batches(self, torch.from_numpy(pixels), self.device, batch).numpy()

    def frame_shape(self, pixels: tuple[int, int, int]) -> tuple[int, ...]:
        """Shape of what one frame of shape `pixels` (3, H, W) becomes."""
        if not len(self.steps):
            return pixels
        with uncounted(self):
            return tuple(self(torch.zeros((1, *pixels), dtype=torch.uint8, device=self.device)).shape[1:])


class Learned(Part):
    """The part after the cut, which a policy trains. Copy it (`copy.deepcopy`) for each network that trains its own.

    Args:
        pinned: keep every layer in eval mode while it learns: BatchNorm statistics fixed, dropout and stochastic depth
            off. What reinforcement learning needs (in PPO the ratio of the first update must be one), and not what
            supervised training from scratch needs.
        shielded: refuse re-initialisation, as pretrained weights must.
    """

    def __init__(
        self,
        steps: Mapping[str, nn.Module],
        official: Mapping[str, str],
        precision: devices.Precision = "float32",
        *,
        pinned: bool = True,
        shielded: bool = True,
    ) -> None:
        super().__init__(steps, official, precision)
        self.pinned, self.shielded = pinned, shielded
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to train mode unless pinned."""
        return super().train(mode and not self.pinned)

    def apply(self, fn: Any) -> Self:
        """Let an initialiser through only to weights that are random anyway."""
        return self if self.shielded else super().apply(fn)

    def forward(self, cut: Tensor) -> Tensor:
        """What stands at the cut, `[N, ...]` -> float32 features `[N, D]`. At the end of the network: as it came."""
        return self.sequence(cut).float() if len(self.steps) else cut.float()


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where an encoder's weights came from.

    Attributes:
        kind: "shipped", "file", "run", "folder", "cache", "download" or "random".
        name: file name, torchvision's weights entry, or the seed of random weights.
        sha256: of the file, or empty for random weights.
        licence: what may be done with them, as far as it is known.
    """

    kind: str
    name: str
    sha256: str = ""
    licence: str = ""


class Encoder(nn.Module):
    """Pixels 0..255 `[N, 3, H, W]` in (uint8 or float), float32 features `[N, D]` out, in two parts.

    `encoder.frozen` is what stands before the cut, `encoder.learned` what stands after it.

    Args:
        backbone: the network and its stages.
        name: what it is called in cards and run folders.
        tap: last stage that runs; what lies behind it is not even kept.
        pooling: see `pooling.ALLOWED`.
        resolution: side in pixels that images are resized to; None takes them as they come.
        unfreeze: the cut: None freezes everything, a stage's name trains from that stage on, "all" trains everything.
        pinned, shielded: see `Learned`.
        precision: of the frozen part; the learned part computes in float32.
        provenance: of the weights.

    Raises:
        EncoderError: no such stage or pooling.
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
        self.recipe: dict[str, Any] | None = None
        stages = up_to(backbone, self.tap, name)
        steps: dict[str, nn.Module] = {"pixels": Preprocess(self.preprocessing, resolution, self.counter)}
        steps |= {**stages, "pooling": Pooling(self.pooling, backbone.class_tokens)}
        cut = self._cut(list(steps))
        before, after = dict(list(steps.items())[:cut]), dict(list(steps.items())[cut:])
        self.frozen = Frozen(before, _official(before, backbone.model), precision)
        self.learned = Learned(after, _official(after, backbone.model), pinned=pinned, shielded=shielded)

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
    def grid(self) -> int:
        """Side of the grid of places that features keep apart (channels first), 1 where they are one vector."""
        return int(self.pooling.removeprefix("grid")) if self.pooling.startswith("grid") else 1

    def state(self) -> dict[str, Tensor]:
        """Every parameter and buffer up to the tap, under its official name."""
        return self.frozen.state() | self.learned.state()

    def sha256(self) -> str:
        """One hash over parameters and buffers: equal if and only if no bit of them has changed."""
        return fingerprint(self.state())

    def __reduce__(self) -> Any:
        # SB3's own `model.save` pickles the policy's keyword arguments. An encoder goes in as its recipe and its hash,
        # not as its weights: a kilobyte instead of the whole network once more.
        if self.recipe is None:
            return super().__reduce__()
        return _rebuild, (self.recipe, fingerprint(self.frozen.state()))


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
    """Map the state_dict keys of a `Part` made of `steps` to those of `model`, by the identity of the tensors."""
    names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    part = nn.Module()
    part.steps = nn.ModuleList(steps.values())
    return {key: names[id(tensor)] for key, tensor in part.state_dict(keep_vars=True).items()}


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes, dtypes and bytes of `state`, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class uncounted:  # noqa: N801 - reads as a keyword: `with uncounted(encoder):`
    """Leave the images that are encoded inside out of the count (evaluation, probing of shapes)."""

    def __init__(self, module: nn.Module) -> None:
        self.counters = {id(m.counter): m.counter for m in module.modules() if isinstance(m, Preprocess)}.values()

    def __enter__(self) -> None:
        self.before = [counter.images for counter in self.counters]

    def __exit__(self, *error: object) -> None:
        for counter, images in zip(self.counters, self.before, strict=True):
            counter.images = images


def _rebuild(recipe: dict[str, Any], sha256: str) -> Encoder:
    """Build a pickled encoder again and refuse one whose frozen weights are not the ones it was pickled with."""
    from stillsight.encoders.recipe import build

    encoder = build(**copy.deepcopy(recipe))
    found = fingerprint(encoder.frozen.state())
    if found != sha256:
        raise EncoderError(
            f"The weights of {encoder.name} have changed: this model was saved with frozen weights {sha256[:12]}, and "
            f"{encoder.provenance.name} now holds {found[:12]}. Give it the weights that it was trained with."
        )
    return encoder
