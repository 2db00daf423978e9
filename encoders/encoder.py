"""The encoder: pixels in, features out, with a cut. What stands before it is frozen, what stands after it learns."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stillsight.encoders import device as devices
from stillsight.encoders.adapt import Adaptation
from stillsight.encoders.backbone import READ, Backbone, Sides
from stillsight.encoders.errors import EncoderError, unknown
from stillsight.encoders.frozen import Frozen
from stillsight.encoders.learned import Learned
from stillsight.encoders.part import kept_modes
from stillsight.encoders.preprocess import ImageCounter, Preprocess
from stillsight.encoders.taps.handover import Join, Layout, Onward, Pack, Read, Unpack
from stillsight.encoders.taps.learned_pooling import LearnedPooling, make_pooling, pooling_parameters
from stillsight.encoders.taps.pooling import Pooling
from stillsight.encoders.taps.tap import Tap, check_order, stages_of, taps
from stillsight.encoders.weights.provenance import Provenance


class Rebuilding(Protocol):
    """What an encoder was built from, see `building.Recipe`."""

    @property
    def learned_sha256(self) -> str: ...

    def rebuild(
        self,
        frozen_sha256: str,
        pixels: tuple[int, int] | None = None,
        learned: Mapping[str, Tensor] | None = None,
        training: bool = True,
    ) -> Encoder: ...


@dataclass(frozen=True)
class Block:
    """Features of a frame that lie side by side.

    Attributes:
        width: how many.
        places: how many places they keep apart, channels first; 0 where they are not channels at places.
    """

    width: int
    places: int


class Encoder(nn.Module):
    """Pixels 0..255 `[N, 3, H, W]` in (uint8 or float), float32 features `[N, D]` out, in two parts.

    `encoder.frozen` is what stands before the cut, `encoder.learned` what stands after it.

    Args:
        backbone: the network and its stages.
        name: what it is called in cards and run folders.
        tap: the stage that is read, or several with commas between them, in the order in which they run, whose
            features are put one after the other. What lies behind the last one is not even kept.
        pooling: see `tap.poolings`; one for every tap, or as many with commas between them.
        resolution: side in pixels that images are resized to; None takes them as they come.
        unfreeze: the cut: None freezes everything, a stage's name trains from that stage on, "all" trains everything.
        pinned, shielded, adaptation: see `Learned`.
        precision: of the frozen part; the learned part computes in float32.
        provenance: of the weights.
        seed: of the poolings that learn.
        first_sight: called with height and width of images of each size that the network is to see.

    Raises:
        EncoderError: no such stage or pooling, nothing that could learn in the way of `adaptation`, or what would learn
            is in the frozen part, too.
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
        seed: int = 0,
        first_sight: Callable[[tuple[int, int]], None] | None = None,
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
        self.layout = Layout()
        stages = up_to(backbone, self.tap, name)
        check_order(self.tap, tuple(stages))
        self.taps = taps(self.tap, self.pooling)
        poolings = _poolings(backbone, stages, self.taps, self.layout, seed)
        sides = Sides(name, backbone.multiple, backbone.fixed)
        pixels = Preprocess(self.preprocessing, resolution, self.counter, self.layout, sides, first_sight)
        cut = self._cut(stages)
        if cut in stages:
            _check_apart(name, backbone, stages, cut, adaptation or Adaptation(), pinned)
        before, after = _parts(pixels, stages, cut, poolings, self.layout)
        self.frozen = Frozen(before, _official(before, backbone.model), self.counter, precision)
        names = _official(after, backbone.model)
        self.learned = Learned(after, names, pinned=pinned, shielded=shielded, adaptation=adaptation)

    def extra_repr(self) -> str:
        """What `print(encoder)` shows before its two parts."""
        return f"{self.name}, tap={self.tap}, {self.provenance.kind} weights {self.provenance.name}"

    def _cut(self, stages: Mapping[str, nn.Module]) -> str | None:
        """The first stage that learns, "pixels" where everything does, None where no stage does."""
        if self.unfreeze is None:
            return None
        names = list(stages)
        if self.unfreeze not in (*names, "all"):
            allowed = f"Up to the tap {names[-1]}, {self.name} can be unfrozen from"
            raise EncoderError(unknown("stage", self.unfreeze, [*names, "all"], allowed, "--unfreeze"))
        learnable = with_parameters(stages)
        begun = 0 if self.unfreeze == "all" else names.index(self.unfreeze)
        if not learnable or names.index(learnable[-1]) < begun:
            last = f"Type --unfreeze {learnable[-1]}, or a later --tap" if learnable else "Type --mode frozen"
            raise EncoderError(
                f"Nothing of {self.name} would learn from {self.unfreeze} to the tap {names[-1]}, which have no "
                f"parameters. {last}."
            )
        return "pixels" if self.unfreeze == "all" else self.unfreeze

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.learned(self.frozen(pixels))
        return features

    @property
    def device(self) -> torch.device:
        """Where the encoder lives."""
        return next((tensor.device for tensor in self.learned.buffers()), self.frozen.device)

    def computed_in(self, learns_on: torch.device) -> str:
        """What it runs in, "bf16" or "float32": by the engine where it is frozen, which may know one alone, and else
        what its precision comes to where it learns.

        Args:
            learns_on: the device, where some of it learns.
        """
        frozen = self.frozen
        return frozen.computed_in if self.unfreeze is None else devices.computed_in(learns_on, frozen.precision)

    @property
    def places(self) -> int:
        """How many places features keep apart, channels first, see `tap.Tap.places`; 0 where taps differ in that."""
        return self.taps[0].places if len({tap.places for tap in self.taps}) == 1 else 0

    def smaller_than_made(self, height: int, width: int) -> str:
        """That published weights see smaller images than they were made for, and what to type; "" where they do not, or
        where nobody knows what they were made for.

        Args:
            height, width: of the images as they come, in pixels.
        """
        made, resolution = self.preprocessing.size, self.resolution
        side = resolution or min(height, width)
        if made is None or side >= made or self.provenance.kind in ("random", "file", "run"):
            return ""
        if resolution is not None:
            return f"encoded at {resolution} px, as --resolution says; the weights were made for {made} px"
        seen = f"{height} px" if height == width else f"{height} x {width} px"
        return (
            f"encoded at {seen}, as they come; the weights were made for {made} px. Type --resolution {made}, or less "
            "for less work"
        )

    def blocks(self, width: int) -> tuple[Block, ...]:
        """How the features of a frame lie: a block for each tap, or one for all where there is one.

        Args:
            width: of all of them together.

        Raises:
            EncoderError: there are several taps, and no image has come through yet, which tells how many each gives.
        """
        if len(self.taps) == 1:
            return (Block(width, self.places),)
        if sum(self.layout.widths) != width:
            raise EncoderError(
                f"{self.name} is tapped at {self.tap}, and how many features each gives is not known before an image "
                "of the right size has come through. Encode one first: encoder.frozen.frame_shape((3, H, W))."
            )
        return tuple(Block(each, tap.places) for each, tap in zip(self.layout.widths, self.taps, strict=True))

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
        # not as its weights: a kilobyte instead of the whole network once more. Policies train copies of the learned
        # part; where somebody trains this one, the recipe does not give it, and what it holds goes in as well.
        if self.recipe is None:
            return super().__reduce__()
        state = self.learned.state_dict()
        learned = None
        if fingerprint(state) != self.recipe.learned_sha256:
            learned = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        facts = fingerprint(self.frozen.state()), self.layout.pixels, learned, self.training
        return self.recipe.rebuild, facts


def up_to(backbone: Backbone, tap: str, name: str = "encoder") -> dict[str, nn.Module]:
    """The stages that run for `tap`, which names one or several: up to the last of them.

    Raises:
        EncoderError: there is no such stage.
    """
    stages = list(backbone.stages)
    for stage in stages_of(tap):
        if stage not in stages:
            raise EncoderError(unknown("stage", stage, stages, f"{name} can be tapped at", "--tap"))
    last = max(map(stages.index, stages_of(tap)))
    return {stage: backbone.stages[stage] for stage in stages[: last + 1]}


SIDES = (32, 64, 96, 128, 224, 256, 448)
"""Sides in pixels of the images by which the channels of a stage are counted, beside that of the weights' recipe; the
first that passes."""


def with_parameters(stages: Mapping[str, nn.Module]) -> list[str]:
    """The names of the stages that have something to learn, in order."""
    return [name for name, stage in stages.items() if next(stage.parameters(), None) is not None]


def _check_apart(
    name: str, backbone: Backbone, stages: Mapping[str, nn.Module], cut: str, adaptation: Adaptation, pinned: bool
) -> None:
    """Refuse a cut that goes through shared weights: what is frozen would be trained with what learns."""
    names = list(stages)

    def shared(first: str) -> list[Tensor]:
        """What would learn from this stage on and is in an earlier one."""
        at = names.index(first)
        before, after = (nn.ModuleList([stages[each] for each in part]) for part in (names[:at], names[at:]))
        frozen = {place for tensor in (*before.parameters(), *before.buffers()) for place in _places(tensor)}
        return [tensor for tensor in adaptation.moving(after, pinned) if not frozen.isdisjoint(_places(tensor))]

    if not (both := shared(cut)):
        return
    official = {id(tensor): key for key, tensor in backbone.model.state_dict(keep_vars=True).items()}
    found = dict.fromkeys(official.get(id(tensor), "a tensor") for tensor in both)
    earlier = next((stage for stage in reversed(names[: names.index(cut)]) if not shared(stage)), "all")
    raise EncoderError(
        f"Stages of {name} before {cut} and from there on share {', '.join(list(found)[:3])}"
        f"{' and more' if len(found) > 3 else ''}, so what is frozen would be trained with what learns. Type "
        f"--unfreeze {earlier}, before which nothing of that lies, or give each stage weights of its own."
    )


def _places(tensor: Tensor) -> set[int]:
    """Which tensor it is, and where its numbers lie, by which two that are one are told."""
    return {id(tensor)} | ({tensor.data_ptr()} if not is_lazy(tensor) and tensor.data_ptr() else set())


def _poolings(
    backbone: Backbone, stages: Mapping[str, nn.Module], read: tuple[Tap, ...], layout: Layout, seed: int
) -> dict[str, Pooling | LearnedPooling]:
    """The pooling of each tapped stage, those that learn with weights that depend on `seed` alone."""
    channels = _channels(backbone, stages) if any(tap.learns for tap in read) else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokens, first = backbone.class_tokens, backbone.class_first
        return {
            tap.stage: make_pooling(tap, channels.get(tap.stage, 0), tokens, layout, class_first=first) for tap in read
        }


@torch.no_grad()
def _channels(backbone: Backbone, stages: Mapping[str, nn.Module]) -> dict[str, int]:
    """Channels of what each stage hands on, by a look at a black image."""
    sides = sorted({*SIDES, backbone.preprocessing.size or SIDES[0], *(backbone.multiple * count for count in (4, 14))})
    sides = [side for side in sides if side % backbone.multiple == 0]
    reason: Exception | None = None
    with kept_modes(stages.values()):
        for side in sides:
            images, found = torch.zeros(1, 3, side, side), {}
            try:
                for name, stage in stages.items():
                    images = stage.eval()(images)
                    found[name] = images.shape[2 if images.dim() == 3 else 1]
            except Exception as error:  # too small for some stage; a larger one may pass
                reason = error
                continue
            return found
    raise EncoderError(
        f"No image of {', '.join(map(str, sides))} px passes through the stages {', '.join(stages)} ({reason}), so it "
        "is not known how many channels a pooling that learns has to take. Type --pooling global, or grid4."
    )


def _parts(
    pixels: Preprocess,
    stages: Mapping[str, nn.Module],
    cut: str | None,
    poolings: Mapping[str, Pooling | LearnedPooling],
    layout: Layout,
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """What runs before the cut and behind it, by name.

    A tap on the way is pooled where it is read, and a pooling that learns always behind the cut: what it pools is
    handed over as it is. With one tap, both parts are the stages themselves.

    Args:
        pixels: the first step.
        stages: up to the last tap.
        cut: see `Encoder._cut`.
        poolings: stage -> its pooling, in order of execution.
        layout: that both parts share.
    """
    before: dict[str, nn.Module] = {}
    after: dict[str, nn.Module] = {}
    side = after if cut == "pixels" else before
    waiting: list[nn.Module | None] = []  # of each tap on the way, its pooling if that is still to come

    def cross() -> None:
        nonlocal side
        if side is before:
            side = after
            if waiting:
                before["handover"], after["handover"] = Pack(layout), Unpack(layout)

    side["pixels"] = pixels
    names = list(stages)
    for name, following in zip(names, [*names[1:], None], strict=True):
        if name == cut:
            cross()
        side[name] = Onward(stages[name]) if waiting else stages[name]
        if name not in poolings or following is None:
            continue
        pooling = poolings[name]
        learns = isinstance(pooling, LearnedPooling)
        if learns and following == cut:  # what the next stage needs is all that it needs, too
            cross()
        late = learns and side is before
        side[f"{READ}{name}"] = Read(None if late else pooling)
        waiting.append(pooling if late else None)
    last = poolings[names[-1]]
    if any(isinstance(pooling, LearnedPooling) for pooling in (*waiting, last)):
        cross()
    side["pooling"] = Join([*waiting, last], layout) if waiting else last
    return before, after


def _official(steps: Mapping[str, nn.Module], model: nn.Module) -> dict[str, str]:
    """Map the state_dict keys of a list of `steps` to those of `model`, by the identity of the tensors.

    Raises:
        EncoderError: a stage holds a tensor that the model does not.
    """
    names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    modules = nn.ModuleList(steps.values())
    pooling = pooling_parameters(modules)
    listed = {key: t for key, t in modules.state_dict(keep_vars=True).items() if id(t) not in pooling}
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
