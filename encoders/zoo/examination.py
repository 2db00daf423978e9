"""What an encoder promises, tried on its network with random weights: `python -m stillsight.encoders.zoo.examination
NAME ... --engines folded onnx` prints a line of JSON for each, for names of the registry and for anybody's."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from stillsight.encoders.atomic import to_json
from stillsight.encoders.backbone import Backbone
from stillsight.encoders.encoder import Encoder, fingerprint, with_parameters
from stillsight.encoders.engines.engine import Name
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.taps.handover import Layout
from stillsight.encoders.taps.pooling import as_map
from stillsight.encoders.zoo.contract.contract import check, check_at
from stillsight.encoders.zoo.contract.stages import SAME, apart
from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.registry import make_backbone, spec

PATCHES = 3
"""Patches in a row of the images that a network of patches is examined with: one alone would not show their order."""
ALIKE = 0.98
"""Cosine that features in bf16 have with those in float32 at least; random weights are harder than trained ones."""
LIT = 4
"""Squares in a row of which one is lit, where a map is as fine as that."""
WIDE = 8
"""Pixels that a lit square has in a row at least: on smaller ones a 3 x 3 convolution sees the next square as well."""
LOCAL = 0.5
"""Part of what all squares together move at a place that one must move, so that the place says where it is; and the
part of the places of which that is asked."""
ENGINE = 0.9999
"""The same of an engine that computes in float32."""


@dataclass
class Examination:
    """What came out.

    Attributes:
        name, family: of the encoder.
        taps: its stages, in order.
        dims: channels of what each hands on.
        side: of the images that it was examined with, in pixels.
        parameters: of the network.
        engines: that were asked for -> "ok", or why an encoder does not take it: it could not be prepared, or was found
            to compute something else. One that is taken and computes something else is a broken promise.
        outcome: "ok", or the promise that it breaks.
        seconds: that this took.
    """

    name: str
    family: str = ""
    taps: tuple[str, ...] = ()
    dims: tuple[int, ...] = ()
    side: int = 0
    parameters: int = 0
    engines: dict[str, str] = field(default_factory=dict)
    outcome: str = "ok"
    seconds: float = 0.0


def examine(name: str, engines: Sequence[Name] = ("folded",)) -> Examination:
    """Try every promise of the encoder called `name`; what fails ends it and is its outcome.

    Args:
        name: of the registry, or anybody's.
        engines: that are prepared and compared; onnx takes seconds for each network, compiled up to minutes.
    """
    started = time.perf_counter()
    examined = Examination(name)
    try:
        row = spec(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            backbone = make_backbone(name)
            examined.family, examined.taps = row.family, tuple(row.stages)
            examined.parameters = sum(parameter.numel() for parameter in backbone.model.parameters())
            for broken in _promises(row, backbone, examined, engines):
                examined.outcome = broken
                break
    except EncoderError as error:
        examined.outcome = str(error)
    except Exception as error:  # whatever a network says
        examined.outcome = f"{type(error).__name__}: {error}"
    examined.seconds = round(time.perf_counter() - started, 2)
    return examined


def _promises(row: EncoderSpec, backbone: Backbone, examined: Examination, engines: Sequence[Name]) -> Iterator[str]:
    """The promises that are broken, in the order in which they are tried."""
    if list(backbone.stages) != list(row.stages):
        yield f"its stages are {', '.join(backbone.stages)}, and its record says {', '.join(row.stages)}"
    passed = check(row.name, backbone)
    outputs = yield from _smallest(row, backbone)
    examined.dims = tuple(output.shape[2 if output.dim() == 3 else 1] for output in outputs)
    examined.side = max(*row.stages.values(), 1, PATCHES * row.multiple if row.multiple > 1 else 0)
    if not passed:
        check_at(row.name, backbone, (examined.side, examined.side))
    pixels = _pixels(3, examined.side)
    yield from _places(row, backbone, examined.side)
    yield from _features(row, backbone, pixels, examined.dims)
    yield from _engines(row, backbone, pixels, examined.engines, engines)
    yield from _cuts(row, backbone, pixels)


def _pixels(count: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def _run(backbone: Backbone, names: Sequence[str], side: int) -> list[Tensor]:
    images = torch.linspace(-2, 2, 3 * side * side).view(1, 3, side, side).sin()
    outputs = []
    for name in names:
        images = backbone.stages[name].eval()(images)
        outputs.append(images)
    return outputs


def _smallest(row: EncoderSpec, backbone: Backbone) -> Generator[str, None, list[Tensor]]:
    outputs: list[Tensor] = []
    for side in sorted(set(row.stages.values())):
        reached = [stage for stage, least in row.stages.items() if least <= side]
        try:
            outputs = _run(backbone, reached, side)
        except Exception as error:
            yield f"images of {side} px do not reach {reached[-1]}: {error}"
            return outputs
        if not all(output.numel() and bool(output.isfinite().all()) for output in outputs):
            yield f"images of {side} px give nothing, or no finite numbers, before {reached[-1]}"
    return outputs


@torch.no_grad()
def _places(row: EncoderSpec, backbone: Backbone, side: int) -> Iterator[str]:
    """Light one square of an image after the other: the places of a map on which it is must be those that it moves
    most. Deep stages, of which each place sees all of the image, say nothing of that."""
    side = row.fixed or -(-max(side, LIT * max(WIDE, row.multiple)) // row.multiple) * row.multiple
    edges = [round(number * side / LIT) for number in range(LIT + 1)]
    generator = torch.Generator().manual_seed(0)
    images = (torch.randn(1, 3, side, side, generator=generator) / 2).repeat(1 + LIT**2, 1, 1, 1)
    for square in range(LIT**2):
        top, left = divmod(square, LIT)
        images[1 + square, :, edges[top] : edges[top + 1], edges[left] : edges[left + 1]] += 2
    for stage, module in backbone.stages.items():
        images = module.eval()(images)
        right = placed(images, backbone.class_tokens, side)
        if right is not None and right < LOCAL:
            yield f"of {stage} {1 - right:.0%} of the places say most of a part of the image that they do not lie on"


def placed(outputs: Tensor, class_tokens: int, side: int) -> float | None:
    """Which part of the places of a stage are moved most by the square that they lie on, or by the one before it in
    their row or column: convolutions with a stride and padding look out from the upper left edge of their place.

    Args:
        outputs: of one image `[1 + LIT * LIT, ...]`: as it is, and with each of the squares lit, row by row.
        class_tokens: see `Backbone`.
        side: of the image, in pixels.

    Returns:
        0..1; None where the stage claims no places, fewer than squares, or most of them are moved by all squares.
    """
    if outputs.dim() == 2:
        return None
    try:
        maps = as_map(outputs, class_tokens, Layout(image=(side, side)), f"grid{LIT}")
    except EncoderError:  # its tokens lie in no rows, and no grid is to be had of them
        return None
    rows, columns = maps.shape[2:]
    if min(rows, columns) < LIT:
        return None
    moved = (maps[1:] - maps[:1]).square().sum(1)
    strongest, square = (moved / moved.sum(0).clamp_min(1e-30)).max(0)
    local = strongest >= LOCAL
    if local.float().mean() < LOCAL:
        return None
    down, right = ((2 * torch.arange(count) + 1) * LIT // (2 * count) for count in (rows, columns))
    above, before = down[:, None] - square // LIT, right - square % LIT
    near = (above >= 0) & (above <= 1) & (before >= 0) & (before <= 1)
    return float(near[local].float().mean())


def _cosine(one: Tensor, other: Tensor) -> float:
    """Of all features of all images together, of which one alone may be nothing but zeros; random networks can make
    them so small that their squares are none."""
    if torch.equal(one, other):
        return 1.0
    first, second = ((each / each.abs().max().clamp_min(1e-30)).flatten().double() for each in (one, other))
    return float(F.cosine_similarity(first, second, dim=0))


def _reads(row: EncoderSpec) -> tuple[tuple[str, str], ...]:
    """Tap and pooling of a classifier, and the tap of an agent with all of its places."""
    return (row.tap, "global"), (row.control[0], "flatten")


@torch.no_grad()
def _features(row: EncoderSpec, backbone: Backbone, pixels: Tensor, dims: Sequence[int]) -> Iterator[str]:
    for tap, pooling in _reads(row):
        encoder = Encoder(backbone, name=row.name, tap=tap, pooling=pooling, precision="float32")
        features = encoder.train()(pixels)
        width = dims[list(row.stages).index(tap)]
        fits = features.shape == (len(pixels), width) if pooling == "global" else features.shape[1] % width == 0
        if not fits or features.dtype != torch.float32:
            yield f"{tap} gives {tuple(features.shape)} in {features.dtype}, and its maps have {width} channels"
        if not torch.equal(encoder(pixels.float()), features):
            yield f"at {tap} pixels as float give other features than as uint8"
        rounded = Encoder(backbone, name=row.name, tap=tap, pooling=pooling, precision="bf16")(pixels)
        if (cosine := _cosine(rounded, features)) < ALIKE:
            yield f"in bf16 {tap} gives other features (cosine {cosine:.4f})"


def _engines(
    row: EncoderSpec, backbone: Backbone, pixels: Tensor, found: dict[str, str], engines: Sequence[Name]
) -> Iterator[str]:
    """Encode by each engine what the network as it is encodes too."""
    for tap, pooling in _reads(row):
        encoder = Encoder(backbone, name=row.name, tap=tap, pooling=pooling, precision="float32")
        with torch.inference_mode():
            features = encoder(pixels)
        for name in engines:
            try:
                encoder.frozen.prepare((3, *pixels.shape[2:]), wanted=name, batch=len(pixels))
            except EncoderError as error:
                found[name] = str(error)
                continue
            with torch.inference_mode():
                cosine = _cosine(encoder(pixels), features)
            found.setdefault(name, "ok")
            if cosine < ENGINE:
                found[name] = f"other features (cosine {cosine:.4f})"
                yield f"at {tap} the engine {name} gives {found[name]}"


def _cuts(row: EncoderSpec, backbone: Backbone, pixels: Tensor) -> Iterator[str]:
    """Cut before the first stage, the middle one and the last one that has parameters: the same features, and gradients
    behind it alone. Every stage up to that one can be cut before."""
    stages = list(row.stages)
    stages = stages[: stages.index(row.tap) + 1]
    if learnable := with_parameters({name: backbone.stages[name] for name in stages}):
        del stages[stages.index(learnable[-1]) + 1 :]  # from there on nothing would learn, and it is refused
    with torch.no_grad():
        whole = Encoder(backbone, name=row.name, tap=row.tap, pooling="global", precision="float32")(pixels)
    for cut in stages:
        Encoder(backbone, name=row.name, tap=row.tap, pooling="global", unfreeze=cut, precision="float32")
    for cut in dict.fromkeys((stages[0], stages[len(stages) // 2], stages[-1])):
        backbone.model.zero_grad(set_to_none=True)
        encoder = Encoder(backbone, name=row.name, tap=row.tap, pooling="global", unfreeze=cut, precision="float32")
        before = encoder.frozen.state()
        copies, hashed = {name: tensor.clone() for name, tensor in before.items()}, fingerprint(before)
        features = encoder.learned(encoder.frozen(pixels))
        if (difference := apart(features.detach(), whole)) > SAME:
            yield f"cut before {cut} it gives other features, by {difference:.1%}"
        features.square().sum().backward()
        if any(tensor.grad is not None for tensor in before.values()):
            yield f"cut before {cut}, gradients flow into what is frozen"
        learns = list(backbone.stages[cut].parameters())
        if learns and all(parameter.grad is None for parameter in learns):
            yield f"cut before {cut}, no gradient reaches it"
        with _stepped(encoder):
            after = encoder.frozen.state()
            if fingerprint(after) != hashed or any(not torch.equal(copies[name], after[name]) for name in after):
                yield f"cut before {cut}, what is frozen changes"


@contextmanager
def _stepped(encoder: Encoder) -> Iterator[None]:
    """Take a step with all that an optimizer is given of an encoder, with weight decay, and take it back afterwards."""
    parameters = list(encoder.parameters())
    copies = [parameter.detach().clone() for parameter in parameters]
    torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=0.1).step()
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, copied in zip(parameters, copies, strict=True):
                parameter.copy_(copied)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m stillsight.encoders.zoo.examination", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="an encoder")
    parser.add_argument("--engines", nargs="+", default=["folded"], choices=get_args(Name), help="to compare with it")
    typed = parser.parse_args()
    for name in typed.names:
        print(to_json(dataclasses.asdict(examine(name, typed.engines))), flush=True)
