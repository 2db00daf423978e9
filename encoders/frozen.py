"""The two sides of the cut: Frozen, which nothing changes, and Learned, which a policy trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillsight.encoders import device as devices
from stillsight.encoders.adapt import Adaptation
from stillsight.encoders.engines.engine import Engine, choose
from stillsight.encoders.engines.engine import Name as EngineName
from stillsight.encoders.preprocess import ImageCounter


class Part(nn.Module):
    """A run of consecutive stages, one side of the cut.

    Args:
        names: of the stages.
        official: keys of the stages' state_dict -> the names that the network's author gave the same tensors.
        precision: of the matrix products, see `device.autocast`.
    """

    steps: nn.ModuleList

    def __init__(self, names: Iterable[str], official: Mapping[str, str], precision: devices.Precision) -> None:
        super().__init__()
        self.names = tuple(names)
        self.official = dict(official)
        self.precision = precision

    def state(self) -> dict[str, Tensor]:
        """Every parameter and buffer under its official name; the tensors are the live ones."""
        return {self.official[key]: tensor for key, tensor in self.steps.state_dict(keep_vars=True).items()}

    def sequence(self, tensor: Tensor) -> Tensor:
        """Run the stages one after the other."""
        with devices.autocast(tensor.device, self.precision):
            for step in self.steps:
                tensor = step(tensor)
        return tensor


class Frozen(Part):
    """The part before the cut: it does not change, whatever is done to the policy that looks through it.

    Its stages are no registered sub-modules: no optimizer, polyak update, state_dict or initialiser that walks over a
    policy meets them. They stay in eval mode, build no graph, and a copy of this part is itself; it follows `.to()` to
    another device and keeps its dtype.

    Pixels `[N, 3, H, W]` in; out come float32 features `[N, D]` (cut at the end), maps `[N, C, h, w]` or tokens (cut in
    between), or the pixels untouched (cut at the start, where nothing is frozen).

    Args:
        steps: stage name -> module; the first is a `Preprocess`.
        official, precision: see `Part`.
        counter: of the images that pass.
    """

    def __init__(
        self,
        steps: Mapping[str, nn.Module],
        official: Mapping[str, str],
        counter: ImageCounter,
        precision: devices.Precision = "auto",
    ) -> None:
        super().__init__(steps, official, precision)
        self.counter = counter
        hidden = nn.ModuleList(steps.values()).requires_grad_(False).eval()
        self._hidden = (hidden,)  # in a tuple, because nn.Module would register it
        self._engine: tuple[Engine, ...] = ()  # likewise
        self.threads: int | None = None  # for `encode`, where everything beside it computes on fewer
        self.train(False)

    @property
    def steps(self) -> nn.ModuleList:  # type: ignore[override]
        """The stages, in order."""
        return self._hidden[0]

    @property
    def device(self) -> torch.device:
        """Where this part lives."""
        return next((tensor.device for tensor in self.steps.buffers()), torch.device("cpu"))

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 - nn.Module's signature
        """Stay in eval mode."""
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # nn.Module's own door for `.to()`, `.cuda()`, `.half()` and the like.
        def move(tensor: Tensor) -> Tensor:
            moved: Tensor = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor

        self.steps._apply(move, recurse)
        self._engine = ()  # it was made for where the weights were
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        if not len(self.steps):
            return pixels
        with torch.no_grad():
            if self.engine.name == "eager":
                return self.sequence(pixels).float()
            self.counter.images += len(pixels)
            return self.engine(pixels)

    @property
    def prepared(self) -> bool:
        """Whether `prepare` was called since the weights last moved."""
        return bool(self._engine)

    @property
    def engine(self) -> Engine:
        """How this part is run; the stages one after the other until `prepare` has found something faster."""
        return self._engine[0] if self._engine else Engine("eager", self.sequence)

    def prepare(
        self, pixels: tuple[int, int, int], *, wanted: EngineName = "auto", batch: int | None = None, forwards: int = 0
    ) -> Engine:
        """Make ready for images of shape `pixels`, see `engine.choose`. The stages themselves stay as they are.

        Raises:
            EncoderError: the engine that was asked for is not to be had here.
        """
        if len(self.steps):
            steps = dict(zip(self.names, self.steps, strict=True))
            with self.counter.paused():
                self._engine = (
                    choose(
                        steps,
                        lambda images: self.sequence(images).float(),
                        self.precision,
                        self.device,
                        pixels,
                        wanted=wanted,
                        batch=batch,
                        forwards=forwards,
                    ),
                )
        return self.engine

    def encode(self, pixels: np.ndarray, batch: int = 256) -> np.ndarray:
        """Numpy pixels `[N, 3, H, W]` uint8 -> numpy features `[N, ...]`, in batches of at most `batch` images."""
        if not len(self.steps):
            return pixels
        with devices.threads(self.threads):
            return devices.encode_in_batches(self, torch.from_numpy(pixels), self.device, batch).numpy()

    def frame_shape(self, pixels: tuple[int, int, int]) -> tuple[int, ...]:
        """Shape of what one frame of shape `pixels` (3, H, W) becomes."""
        if not len(self.steps):
            return pixels
        with self.counter.paused():
            return tuple(self(torch.zeros((1, *pixels), dtype=torch.uint8, device=self.device)).shape[1:])


class Learned(Part):
    """The part after the cut, which a policy trains. Copy it (`copy.deepcopy`) for each network that trains its own.

    What of it does not learn is a buffer and no parameter, see `adapt.settle`.

    Args:
        pinned: keep every layer in eval mode while it learns: BatchNorm statistics fixed, dropout and stochastic depth
            off. What reinforcement learning needs (in PPO the ratio of the first update must be one), and not what
            supervised training from scratch needs.
        shielded: refuse re-initialisation, as pretrained weights must, and all that `adaptation` does not train.
        adaptation: what learns; by default everything.

    Raises:
        EncoderError: nothing here can learn in the way of `adaptation`.
    """

    def __init__(
        self,
        steps: Mapping[str, nn.Module],
        official: Mapping[str, str],
        precision: devices.Precision = "float32",
        *,
        pinned: bool = True,
        shielded: bool = True,
        adaptation: Adaptation | None = None,
    ) -> None:
        super().__init__(steps, official, precision)
        adaptation = adaptation or Adaptation()
        self.steps = nn.ModuleList(steps.values()).requires_grad_(True)
        adaptation.prepare(self.steps, self.names)
        self.pinned, self.shielded = pinned, shielded or adaptation.what != "all"
        self.moves_statistics = adaptation.moves_statistics(pinned)
        self.train(self.training)

    def state(self) -> dict[str, Tensor]:
        """Every parameter and buffer under its official name: the live ones, low-rank additions added to their W."""
        with torch.no_grad():
            return {name: attrgetter(key)(self.steps) for key, name in self.official.items()}

    def train(self, mode: bool = True) -> Self:
        """Switch to train mode unless pinned; BatchNorm goes by `Adaptation.batchnorm`."""
        super().train(mode and not self.pinned)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode and self.moves_statistics)
        return self

    def apply(self, fn: Any) -> Self:
        """Let an initialiser through only to weights that are random anyway."""
        return self if self.shielded else super().apply(fn)

    def forward(self, cut: Tensor) -> Tensor:
        """What stands at the cut, `[N, ...]` -> float32 features `[N, D]`. At the end of the network: as it came."""
        return self.sequence(cut).float() if len(self.steps) else cut.float()
