"""How the frozen part is run: the same function, prepared once for speed, and chosen by measurement."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn

from stillsight.encoders import device as devices
from stillsight.encoders.engines import engine_cache
from stillsight.encoders.engines.folded import fold
from stillsight.encoders.engines.onnx import session
from stillsight.encoders.errors import EncoderError, in_brackets
from stillsight.encoders.preprocess import Preprocess
from stillsight.encoders.taps.handover import Join, Onward, Pack, Read

Name = Literal["auto", "eager", "folded", "compiled", "onnx", "graph"]
Computed = Literal["bf16", "float32"]
Run = Callable[[Tensor], Tensor]

WORTH = {"compiled": 60.0, "onnx": 20.0, "graph": 5.0}
"""Seconds of encoding that must lie ahead before an engine is tried that takes long to prepare."""

AGREE = 0.05
"""Largest difference from the reference, as a share of its largest value, at which two engines count as the same
function."""

ROUNDING, AT_MOST = 3.0, 0.2
"""In bfloat16, which keeps 8 bits, a deep network adds up its rounding, and one way to run it differs from another by
more: there an engine may also be this many times as far from the features in float32 as the reference is, but never by
more than this share of the largest value. Measured: the folded copy of EfficientNet-Lite0 2.3 times as far, by 0.09."""

ROUNDS = 7
"""Interleaved timings of each engine; the median decides."""


class Inference(nn.Module):
    """A private copy of frozen stages for inference: BatchNorm folded, weights rounded once and not at each call.

    Args:
        steps: stage name -> module, the first of them a `Preprocess`.
        dtype: of weights and activations; what comes out is float32.
    """

    def __init__(self, steps: Mapping[str, nn.Module], dtype: torch.dtype) -> None:
        super().__init__()
        stages = dict(steps)
        pixels = stages.pop("pixels")
        assert isinstance(pixels, Preprocess)
        self.pixels = pixels.uncounted()
        pooling = stages.pop("pooling", None)
        self.stages = nn.Sequential(*map(_folded, stages.values())).to(dtype)
        self.pooling = copy.deepcopy(pooling) or nn.Identity()
        self.dtype = dtype
        self.requires_grad_(False).eval()

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.pooling(self.stages(self.pixels(pixels).to(self.dtype)))
        return features.float()


def _folded(step: nn.Module) -> nn.Module:
    """A copy of a step, folded: behind a tap, of the stage that is in it. What passes beside it is left as it is: what
    looks at whether it is given one tensor or several cannot be traced."""
    if isinstance(step, Read | Join | Pack):
        return copy.deepcopy(step)
    return Onward(fold(step.stage)) if isinstance(step, Onward) else fold(step)


@dataclass
class Engine:
    """A way to run the frozen part.

    Attributes:
        name: see `Name`.
        run: pixels `[N, 3, H, W]` -> float32 features; N is `batch` where that is set.
        batch: the only number of images that `run` takes, None for any.
        rest: takes what does not fill a batch.
        seconds: measured for one batch, by engine, where several came into question.
        dropped: why an engine that was tried was not taken, by engine.
    """

    name: str
    run: Run
    batch: int | None = None
    rest: Run | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    def __call__(self, pixels: Tensor) -> Tensor:
        if self.batch is None:
            return self.run(pixels)
        assert self.rest is not None
        parts = []
        for part in pixels.split(self.batch):
            missing = self.batch - len(part)
            if not missing:
                parts.append(self.run(part))
            elif missing > len(part):  # padding would cost more than half of a batch
                parts.append(self.rest(part))
            else:
                parts.append(self.run(torch.cat([part, part[:1].expand(missing, -1, -1, -1)]))[: len(part)])
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def __str__(self) -> str:
        tried = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in self.seconds.items())
        return f"{self.name} ({tried} a batch)" if tried else self.name


def choose(
    steps: Mapping[str, nn.Module],
    reference: Run,
    precision: devices.Precision,
    device: torch.device,
    pixels: tuple[int, int, int],
    *,
    wanted: Name = "auto",
    batch: int | None = None,
    forwards: int = 0,
    kept: bool = False,
) -> Engine:
    """Prepare the engine that is `wanted`; for "auto" the fastest whose preparation the work ahead repays.

    What was timed is kept for this machine, network and shape (in `engine_cache.memory()`), so that the same run
    started twice is the same run: engines round differently.

    Args:
        steps: the frozen stages, a `Preprocess` first.
        reference: runs them as they are, by which every other engine is checked.
        precision: of the frozen part.
        device: where it lives.
        pixels: shape (3, H, W) of an image.
        wanted: see `Name`.
        batch: images that mostly come at once; None if that varies.
        forwards: how often a batch will be encoded, as far as it is known.
        kept: what comes out is kept beside that of other engines: "auto" takes none that computes in something else
            than `precision`, as onnx does in float32.

    Raises:
        EncoderError: the engine that was asked for is not to be had, or computes something else.
    """
    if wanted == "eager":
        return Engine("eager", reference)
    dtype = torch.bfloat16 if devices.wants_bf16(device, precision) else torch.float32
    # A generator of its own: which engine is taken hangs on no seed, and no number of a run on which is tried.
    generator = torch.Generator().manual_seed(0)
    sample = torch.randint(0, 256, (batch or 4, *pixels), dtype=torch.uint8, generator=generator).to(device)
    made = _Workshop(steps, dtype, device, sample, reference)
    if wanted != "auto":
        engine = made.engine(wanted)
        if engine is None:
            raise EncoderError(f"--engine {wanted} cannot be used here: {made.dropped[wanted]} Type --engine auto.")
        return engine
    engine = made.engine("folded") or Engine("eager", reference)
    if made.folded is not None and batch is not None and forwards:
        engine = _fastest(made, engine, forwards, kept=kept)
    engine.dropped = made.dropped
    return engine


def _fastest(made: _Workshop, usual: Engine, forwards: int, *, kept: bool) -> Engine:
    """The fastest of the usual engine and those whose preparation `forwards` batches repay, by what was measured before
    or else now."""
    key = engine_cache.key(made.steps, made.folded_copy, made.device, made.sample)
    known = engine_cache.recall(key)
    tried = {usual.name: usual}
    if usual.name not in known:
        known |= _seconds(tried, made.sample)
        engine_cache.remember(key, known)  # also where trying another ends the process
    ahead = known[usual.name] * forwards
    others = ("graph",) if made.device.type == "cuda" else ("onnx", "compiled")
    wanted: Computed = "bf16" if made.dtype is torch.bfloat16 else "float32"
    alike = [name for name in others if not kept or computes_in(name, wanted) == wanted]
    worth = [name for name in alike if ahead > WORTH[name]]
    if not known.keys() >= set(worth):
        tried |= {name: other for name in worth if (other := made.engine(name)) is not None}
        known |= dict.fromkeys(worth, math.inf) | _seconds(tried, made.sample)
        engine_cache.remember(key, known)
    seconds = {name: known[name] for name in (usual.name, *worth) if known[name] < math.inf}
    name = min(seconds, key=seconds.__getitem__)
    engine = tried.get(name) or made.engine(name) or usual
    engine.seconds = seconds if len(seconds) > 1 else {}
    return engine


class _Workshop:
    """Makes engines for one shape and checks that each computes what the reference computes."""

    def __init__(
        self,
        steps: Mapping[str, nn.Module],
        dtype: torch.dtype,
        device: torch.device,
        sample: Tensor,
        reference: Run,
    ) -> None:
        self.steps, self.device, self.sample, self.dtype, self.reference = steps, device, sample, dtype, reference
        self.dropped: dict[str, str] = {}
        self._onnx_copy: Run = reference
        with torch.no_grad():
            self.expected = reference(sample)
        self.folded: Inference | None = None
        try:
            self.folded = Inference(steps, dtype).to(device)
            if device.type != "mps":
                self.folded.to(memory_format=torch.channels_last)
        except Exception as error:  # whatever a third party's layers say to being copied and rewritten
            self.unfolded = f"{in_brackets(error)}."

    def engine(self, name: str) -> Engine | None:
        """The engine called `name`, or None with the reason in `dropped`."""
        if self.folded is None:
            self.dropped[name] = self.unfolded
            return None
        fixed = None if name == "folded" else len(self.sample)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # compilers and exporters talk much
                run = self._made(name)
                with torch.inference_mode():
                    found = run(self.sample)
        except Exception as error:
            self.dropped[name] = f"{in_brackets(error)}."
            return None
        if not self._agrees(found):
            difference = _difference(found, self.expected)
            self.dropped[name] = f"its features differ from the network's own by {difference:.1%}."
            return None
        return Engine(name, run, fixed, None if fixed is None else self._rest(name))

    def _agrees(self, found: Tensor) -> bool:
        """Whether these features are the reference's, but for rounding."""
        if _difference(found, self.expected) <= AGREE:
            return True
        if self.dtype is torch.float32:
            return False
        off = min(ROUNDING * _difference(self.expected, self.exact), AT_MOST)
        return _difference(found, self.exact) <= off

    @cached_property
    def exact(self) -> Tensor:
        """The features of the sample in float32, whatever the precision."""
        features = self.sample
        with torch.no_grad():
            for step in self.steps.values():
                features = step(features)
        return features.float()

    def _rest(self, name: str) -> Run:
        """What takes less than a batch: the copy that the engine was made of, where that computes what the network
        does, and else the network itself."""
        copied = self._onnx_copy if name == "onnx" else self.folded_copy
        try:
            with torch.inference_mode():
                agrees = self._agrees(copied(self.sample))
        except Exception:  # as above
            agrees = False
        return copied if agrees else self.reference

    def _made(self, name: str) -> Run:
        if name == "folded":
            return self.folded_copy
        return {"compiled": self._compiled, "onnx": self._onnx, "graph": self._graph}[name]()

    @property
    def folded_copy(self) -> Inference:
        """The folded copy, where the layers could be copied."""
        assert self.folded is not None
        return self.folded

    def _compiled(self) -> Run:
        # It warns of a CUDA compiler without a GPU, which nobody here asked for.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        # Freezing lets the compiler lay weights out for the kernels once and for all.
        options: dict[str, str | int | bool | Callable[..., object]] = {"freezing": self.device.type == "cpu"}
        compiled: Run = torch.compile(self.folded_copy, dynamic=False, options=options)
        return compiled

    def _onnx(self) -> Run:
        if find_spec("onnxruntime") is None or find_spec("onnxscript") is None:
            raise ImportError('run: pip install "stillsight[onnx]"')
        module = Inference(self.steps, torch.float32).cpu()
        self._onnx_copy = lambda pixels: module(pixels.cpu()).to(pixels.device)
        return session(module, self.sample)

    def _graph(self) -> Run:
        if self.device.type != "cuda":
            raise RuntimeError(f"CUDA graphs need a CUDA device, and this is {self.device.type}")
        return captured(self.folded_copy, self.sample)


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest value; NaN where one of them is."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))


def computes_in(name: str, wanted: Computed) -> Computed:
    """In what the engine called `name` computes where `wanted` is: ONNX Runtime's CPU kernels know float32."""
    return "float32" if name == "onnx" else wanted


def captured(module: nn.Module, sample: Tensor) -> Run:
    """`module` as one CUDA graph for inputs of the shape of `sample`: a launch a batch in place of one a kernel."""
    still = sample.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(3):
            module(still)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        features = module(still)

    def run(pixels: Tensor) -> Tensor:
        still.copy_(pixels)
        graph.replay()
        copied: Tensor = features.clone()
        return copied

    return run


def _seconds(engines: Mapping[str, Engine], sample: Tensor) -> dict[str, float]:
    """Median seconds of one batch for each engine, timed in turns so that a busy machine is unfair to none."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    with torch.inference_mode():
        for engine in engines.values():
            engine(sample)
        for _ in range(ROUNDS):
            for name, engine in engines.items():
                with devices.stopwatch(sample.device) as seconds:
                    engine(sample)
                    times[name].append(seconds())
    return {name: sorted(values)[len(values) // 2] for name, values in times.items()}
