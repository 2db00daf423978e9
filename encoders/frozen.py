"""Frozen: the part before the cut, which nothing changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from stillsight.encoders import device as devices
from stillsight.encoders.engines.engine import Computed, Engine, choose, computes_in
from stillsight.encoders.engines.engine import Name as EngineName
from stillsight.encoders.part import Part
from stillsight.encoders.preprocess import ImageCounter, Preprocess


class Frozen(Part):
    """The part before the cut: it does not change, whatever is done to the policy that looks through it.

    Its stages are no registered sub-modules: no optimizer, polyak update, state_dict or initialiser that walks over a
    policy meets them. They stay in eval mode, build no graph, and a copy of this part is itself; it follows `.to()` to
    another device and keeps its dtype.

    Pixels `[N, 3, H, W]` in; out come float32 features `[N, D]` (cut at the end), maps `[N, C, h, w]` or tokens (cut in
    between, or before a pooling that learns), these and what earlier taps gave as one vector (cut behind a tap), or the
    pixels untouched (cut at the start, where nothing is frozen).

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
            self.counter.add(len(pixels))
            self.note(pixels)
            return self.engine(pixels)

    def note(self, pixels: Tensor) -> None:
        """Note the size of these images where a program of fixed shape, which does not, is about to take them."""
        first = self.steps[0]
        if isinstance(first, Preprocess):
            first.note(pixels)

    @property
    def prepared(self) -> bool:
        """Whether `prepare` was called since the weights last moved."""
        return bool(self._engine)

    @property
    def engine(self) -> Engine:
        """How this part is run; the stages one after the other until `prepare` has found something faster."""
        return self._engine[0] if self._engine else Engine("eager", self.sequence)

    @property
    def computed_in(self) -> Computed:
        """What its convolutions and matrix products run in, by the engine that was prepared."""
        wanted: Computed = "bf16" if devices.wants_bf16(self.device, self.precision) else "float32"
        return computes_in(self.engine.name, wanted)

    def prepare(
        self,
        pixels: tuple[int, int, int],
        *,
        wanted: EngineName = "auto",
        batch: int | None = None,
        forwards: int = 0,
        kept: bool = False,
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
                        kept=kept,
                    ),
                )
        return self.engine

    def encode(self, pixels: np.ndarray, batch: int = 256) -> np.ndarray:
        """Numpy pixels `[N, 3, H, W]` uint8 -> numpy features `[N, ...]`, in batches of at most `batch` images."""
        if not len(self.steps):
            return pixels
        if not len(pixels):  # of which many a network makes an error
            return np.zeros((0, *self.frame_shape(pixels.shape[1:])), np.float32)
        with devices.threads(self.threads):
            return devices.encode_in_batches(self, torch.from_numpy(pixels), self.device, batch).numpy()

    def frame_shape(self, pixels: tuple[int, int, int]) -> tuple[int, ...]:
        """Shape of what one frame of shape `pixels` (3, H, W) becomes."""
        if not len(self.steps):
            return pixels
        with self.counter.paused():
            return tuple(self(torch.zeros((1, *pixels), dtype=torch.uint8, device=self.device)).shape[1:])
