"""Names that layers of torchvision's networks had before: the files that it publishes still have them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor


class Rule(NamedTuple):
    """How some names of today were written before.

    Attributes:
        today: what the whole of a name matches today.
        former: how it was written then, a template of `re`.
        source: the function of torchvision by which it does the same, from the former name to today's.
    """

    today: re.Pattern[str]
    former: str
    source: str


RULES = (
    Rule(
        re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))([12]\.(?:weight|bias|running_mean|running_var))"),
        r"\1.\2",
        "models.densenet._load_state_dict",
    ),
    Rule(
        re.compile(r"(.*encoder_layer_\d+\.mlp\.)0\.(weight|bias)"),
        r"\1linear_1.\2",
        "models.vision_transformer.MLPBlock._load_from_state_dict",
    ),
    Rule(
        re.compile(r"(.*encoder_layer_\d+\.mlp\.)3\.(weight|bias)"),
        r"\1linear_2.\2",
        "models.vision_transformer.MLPBlock._load_from_state_dict",
    ),
)
"""Those of torchvision's classification models. What else it does to a file of theirs, or seems to, needs no rule:

- MNASNet._load_from_state_dict renames nothing: of a file of version 1, where the width is not 1.0, it makes another
  network, with other features. No file that it publishes today is one; an older one is refused by its shapes.
- _DenseBlock and models._utils.IntermediateLayerGetter have a _version that nothing asks for.
- GoogLeNet and Inception3 drop their auxiliary heads after loading; heads may be in a file that is read here.
- FrozenBatchNorm2d drops num_batches_tracked, and torch's own BatchNorm makes one; here it may be there or not. The
  former is, like FeaturePyramidNetwork, which renames as well, of detection and segmentation alone.
- quantization.mobilenetv3 adds scales to networks that are prepared for int8, which are no encoders.
- All others (Swin and its relative_position_bias_table and logit_scale, EfficientNet, MobileNetV3, ConvNeXt, MaxViT,
  RegNet ...) go through a strict load_state_dict as they are: their files have today's names and shapes.
"""


def names_today(known: Collection[str]) -> dict[str, str]:
    """What a file may call the parameters and buffers of a network -> what the network calls them; empty where that is
    the same for all.

    Args:
        known: all names that the network has. Such a one is nobody's former name: other people's networks may call a
            layer as torchvision once did.
    """
    former = {
        match.expand(rule.former): name
        for name in known
        for rule in RULES
        if (match := rule.today.fullmatch(name)) is not None
    }
    return {**former, **{name: name for name in known}} if former else {}


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of a file in their order, by today's names in the place of former ones, after whatever prefix.

    A former name stays where the file has today's as well: nobody knows which of the two is meant.

    Args:
        state: by the names that the file gives them.
        names: see `names_today`.
    """
    lengths = sorted({name.count(".") + 1 for name in names}, reverse=True)
    return {_today(name, names, lengths, state): tensor for name, tensor in state.items()}


def _today(name: str, names: Mapping[str, str], lengths: Sequence[int], state: Collection[str]) -> str:
    """A name of the file as it is today, by the longest end that the network knows.

    Args:
        name: with a prefix, or without.
        names: see `names_today`.
        lengths: of how many parts between dots these are, the largest first. A name of the file may have any number.
        state: all names of the file.
    """
    for length in lengths:
        end = ".".join(name.rsplit(".", length)[-length:])
        if end in names:
            today = name.removesuffix(end) + names[end]
            return name if today in state else today
    return name
