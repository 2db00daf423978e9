"""How a network of timm's falls into stages that hand on one tensor.

What a model does before its blocks (patches, positions, class tokens) is that model itself without its blocks, so that
each author's own code does it. Where that is all, its blocks follow; rotary ones compute their positions from the
tokens that come. A class of networks that is not listed in `CUTS` is cut in the first way by which its stages, one
after the other, compute what its own `forward_features` computes; a network that cannot be cut is one stage.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stillsight.encoders.backbone import Backbone, Preprocessing
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.zoo.layouts import ChannelsFirst
from stillsight.encoders.zoo.smallest import USUAL, handed_on, without_content
from stillsight.encoders.zoo.timm.network import PREFIX, network_of
from stillsight.encoders.zoo.timm.rotary import Grid, RotaryBlock

Cut = Literal["sequence", "blocks", "rotary", "whole"]
"""sequence: the children of a network, one after the other. blocks: the network without its blocks, then its blocks.
rotary: the same, with blocks that need to know where each token lies. whole: one stage."""

WAYS: tuple[Cut, ...] = ("sequence", "blocks", "rotary", "whole")
"""In the order in which they are tried."""

CUTS: Mapping[str, Cut] = {
    **dict.fromkeys(("ResNet", "EfficientNet", "MobileNetV3", "RegNet", "ConvNeXt", "FastVit", "ByobNet"), "sequence"),
    **dict.fromkeys(("VisionTransformer", "VisionTransformerDistilled"), "blocks"),
    "Hiera": "whole",  # up to its last pooling its tokens lie by mask units, and not in rows
}
"""Class of timm -> the way of cutting it, where that needs no trial."""

HEAD = frozenset(
    {
        *("global_pool", "head", "head_drop", "head_dist", "fc", "fc_norm", "classifier", "attn_pool", "flatten"),
        *("last_linear", "pre_logits", "dropout", "head_proj"),
    }
)
"""Children with which a network's features end."""

BODIES = ("blocks", "stages", "layers", "features", "levels", "network", "transformers", "dense_stages", "body")
"""Children that hold what runs one after the other."""

STEMS = ("stem", "conv", "bn", "act", "maxpool", "patch_embed", "pos", "norm_pre", "patch_drop", "base_layer")
"""What the names of children begin with that are no stage of their own."""

CLOSE = 1e-3
"""How far two ways to compute features may be apart, relative to the largest of them."""

LARGEST_TRIAL = 500_000_000
"""Parameters of a network that is tried with numbers; of larger ones the shapes alone are looked at."""


def is_plain(network: nn.Module) -> bool:
    """Whether tokens go through all blocks as they were cut from the image."""
    return type(network).__name__ in ("VisionTransformer", "VisionTransformerDistilled", "Eva", "Beit")


@functools.cache
def way_of(name: str) -> Cut:
    """The way of cutting the model called `name`; where its class is not listed, it is tried on a network of its own,
    whose weights are such that nothing in it is without effect."""
    base = name.partition(".")[0]
    bare = without_content(lambda: _bare(base)).model
    if (known := CUTS.get(type(bare).__name__)) is not None:
        return known
    if getattr(bare, "rope", None) is not None:
        # Depth by depth another rotation, which learns: no block's alone.
        return "whole" if getattr(bare, "rope_mixed", False) or not _runs(bare, "rotary") else "rotary"
    if sum(parameter.numel() for parameter in bare.parameters()) > LARGEST_TRIAL:
        shaped: list[Cut] = [cut for cut in WAYS if cut == "whole" or (cut != "rotary" and _runs(bare, cut))]
        return shaped[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = network_of(base).eval()
        _stir(network)
    for cut in WAYS:
        if cut != "rotary" and _agrees(network, cut):
            return cut
    raise EncoderError(
        f"{PREFIX}{base} hands on no features that an encoder could: neither one tensor nor one after the other. Take "
        "another --encoder."
    )


def _bare(name: str) -> Backbone:
    """A network of which nothing is known yet."""
    network = network_of(name)
    return Backbone(model=network, stages={"whole": network}, preprocessing=Preprocessing(), tap="whole")


@torch.no_grad()
def _stir(network: nn.Module) -> None:
    """Give every parameter an effect: many begin at nothing, and what stands behind them would not be seen."""
    for parameter in network.parameters():
        if parameter.dim() < 2:
            parameter.uniform_(0.3, 0.7)
        elif parameter.std() < 1e-2:
            parameter.normal_(0, 0.1)


@torch.no_grad()
def _agrees(network: nn.Module, cut: Cut) -> bool:
    """Whether the stages compute what the network's own `forward_features` does, with every parameter before the head
    in one of them."""
    try:
        stages = stages_of(network, cut)
        side = int(_config(network)["input_size"][-1])
        images = torch.linspace(-2, 2, 2 * 3 * side * side).view(2, 3, side, side).sin()
        expected = Whole(network)(images)
        features = images
        for stage in stages.values():
            features = stage(features)
            if not isinstance(features, Tensor) or _channels_last(features):
                return False
    except Exception:  # not the way this network runs, whatever it says
        return False
    if features.shape != expected.shape or not _owned(network, stages):
        return False
    return bool((features - expected).abs().max() <= CLOSE * expected.abs().max())


def _config(network: nn.Module) -> Mapping[str, Any]:
    return dict(getattr(network, "pretrained_cfg", None) or {}) or {"input_size": (3, USUAL, USUAL)}


def _runs(network: nn.Module, cut: Cut) -> bool:
    """Whether images get through the stages, and every parameter before the head is in one of them."""
    try:
        stages = stages_of(network, cut)
    except Exception:
        return False
    device = next(network.parameters()).device
    return len(handed_on(stages, int(_config(network)["input_size"][-1]), device)) == len(stages)


def _channels_last(features: Tensor) -> bool:
    return features.dim() == 4 and features.shape[1] == features.shape[2] != features.shape[3]


def _owned(network: nn.Module, stages: Mapping[str, nn.Module]) -> bool:
    held = {id(parameter) for stage in stages.values() for parameter in stage.parameters()}
    before = [child for name, child in network.named_children() if name not in HEAD]
    needed = [*(parameter for child in before for parameter in child.parameters())]
    return sum(id(parameter) not in held for parameter in needed) == 0 or isinstance(next(iter(stages.values())), Whole)


def stages_of(network: nn.Module, cut: Cut) -> dict[str, nn.Module]:
    if cut == "whole":
        return {"features": Whole(network)}
    stages = dict(_sequence(network) if cut == "sequence" else _blocks(network, rotary=cut == "rotary"))
    if getattr(network, "output_fmt", None) == "NHWC":
        first = next(iter(stages))
        return {name: ChannelsFirst(stage, first=name == first) for name, stage in stages.items()}
    return stages


def _children(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a network before its head that do something."""
    children = []
    for name, child in network.named_children():
        if name in HEAD:
            break
        if not isinstance(child, nn.Identity):
            children.append((name, child))
    return children


def _is_body(name: str, child: nn.Module) -> bool:
    return isinstance(child, nn.Sequential | nn.ModuleList) and not name.startswith(STEMS)


def _sequence(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children one after the other: what stands before the first stage as `stem`, each stage with what has no
    parameters behind it."""
    children = _children(network)
    bodies = [name for name, child in children if _is_body(name, child)]
    listed: list[tuple[str, nn.Module]] = []
    for name, child in children:
        if [name] == bodies:
            listed += [(f"{name}.{number}", item) for number, item in child.named_children()]
        else:
            listed.append((name, child))
    groups: list[tuple[str, list[nn.Module]]] = []
    in_stem = True
    behind = False
    for name, child in listed:
        in_stem = in_stem and name.startswith(STEMS)
        behind = behind or (len(bodies) == 1 and "." not in name and not in_stem and name not in bodies)
        alone = any(True for _ in child.parameters())
        if groups and (not alone or (in_stem and groups[-1][0] == "stem") or (behind and groups[-1][0] == "head")):
            groups[-1][1].append(child)
        else:
            groups.append(("stem" if in_stem else "head" if behind and name not in ("norm",) else name, [child]))
    for name, modules in groups:
        yield name, modules[0] if len(modules) == 1 else nn.Sequential(*modules)


class _Before(nn.Module):
    """What a network computes before its blocks: the network itself without them.

    Args:
        network: stays as it is.
        body: name of the child that holds its blocks.
        tail: names of the children behind it.
    """

    def __init__(self, network: Any, body: str, tail: list[str]) -> None:
        super().__init__()
        bare: Any = copy.copy(network)
        gone = {body, *tail, *HEAD}
        bare._modules = {
            name: (nn.Identity() if name in gone and child is not None else child)
            for name, child in network._modules.items()
        }
        bare._modules[body] = type(getattr(network, body))()  # an empty list of blocks
        bare._parameters = dict(network._parameters)
        bare._buffers = dict(network._buffers)
        self.network = bare

    def forward(self, images: Tensor) -> Tensor:
        embedded: Tensor = self.network.forward_features(images)
        return embedded


def _blocks(network: nn.Module, *, rotary: bool) -> Iterator[tuple[str, nn.Module]]:
    children = _children(network)
    names = [name for name, _ in children]
    body = next(name for name in BODIES if name in names)
    tail = names[names.index(body) + 1 :]
    plain = is_plain(network)
    if not rotary:
        yield "embed", _Before(network, body, tail)
        for number, block in getattr(network, body).named_children():
            yield f"block{number}" if plain else f"{body}.{number}", block
    else:
        grid = Grid()
        yield "embed", _RotaryBefore(network, body, tail, grid)
        for number, block in getattr(network, body).named_children():
            yield f"block{number}", RotaryBlock(block, network, grid)
    for name in tail:
        yield name, getattr(network, name)


class _RotaryBefore(_Before):
    """The same of a network whose blocks rotate: it notes how the patches lie."""

    def __init__(self, network: Any, body: str, tail: list[str], grid: Grid) -> None:
        super().__init__(network, body, tail)
        self.grid = grid
        rows, columns = network.patch_embed.patch_size
        self.patch = int(rows), int(columns)

    def forward(self, images: Tensor) -> Tensor:
        self.grid.note(images.shape[2] // self.patch[0], images.shape[3] // self.patch[1])
        return super().forward(images)


class Whole(nn.Module):
    """A network as one stage, its features computed by its own code."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.last = getattr(network, "output_fmt", None) == "NHWC"

    def forward(self, images: Tensor) -> Tensor:
        features = self.network.forward_features(images)
        if not isinstance(features, Tensor):
            raise EncoderError(
                f"{type(self.network).__name__} of timm computes {type(features).__name__}, and an encoder must hand "
                "on one tensor. Take another --encoder."
            )
        return features.permute(0, 3, 1, 2) if self.last and features.dim() == 4 else features
