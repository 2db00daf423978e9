"""The encoders by name: rows that can be read, listed and checked without importing torch."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillsight.encoders.errors import EncoderError, unknown

if TYPE_CHECKING:
    from stillsight.encoders.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """One row of the registry.

    Attributes:
        name: what `--encoder` takes.
        builder: `module:function`; the function returns a `Backbone` with random weights and is imported when needed.
        stages: tap name -> smallest image side, in pixels, that this stage can take. Order is the order of execution.
        tap: the stage that is read when no `--tap` is given.
        pooling: the pooling when no `--pooling` is given.
        control: tap and pooling for agents when neither is given. Control needs to know where things are, which a
            network's last, globally pooled features have lost; PIE-G (Yuan et al. 2022) taps a ResNet after layer2.
        weights: a torchvision weights entry ("ResNet18_Weights.IMAGENET1K_V1"), "shipped", or None: scratch only.
        arguments: passed to the builder.
        multiple: image sides must be multiples of this many pixels (patch size of a vision transformer).
        summary: one line for `stillsight list encoders`.
    """

    name: str
    builder: str
    stages: Mapping[str, int]
    tap: str
    pooling: str = "global"
    control: tuple[str, str]
    weights: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    multiple: int = 1
    summary: str = ""

    def check_tap(self, tap: str) -> str:
        """Return `tap` if this encoder has such a stage; raise `EncoderError` with the nearest name otherwise."""
        if tap not in self.stages:
            raise EncoderError(unknown("stage", tap, self.stages, f"{self.name} can be tapped at", "--tap"))
        return tap

    def check_size(self, side: int, tap: str, flag: str = "--size or --resolution") -> None:
        """Raise `EncoderError` if images with this smaller side (pixels) cannot pass through `tap`."""
        least = self.stages[tap]
        if side < least:
            raise EncoderError(
                f"{self.name} needs images of at least {least} px to reach {tap}, and these have {side} px. "
                f"Give larger images ({flag}), or an earlier stage (--tap)."
            )
        if side % self.multiple:
            near = max(self.multiple, round(side / self.multiple) * self.multiple)
            raise EncoderError(
                f"{self.name} cuts images into patches of {self.multiple} px, and {side} px is not a multiple of that. "
                f"Add --resolution {near}."
            )


POOLINGS = "global, grid1 .. grid32 (a k x k grid of averages), flatten, softmax (spatial softmax), cls (class token)"


def check_pooling(name: str) -> str:
    """Return `name` if it is a pooling; raise `EncoderError` otherwise."""
    grid = re.fullmatch(r"grid(\d+)", name)
    if name in ("global", "flatten", "softmax", "cls") or (grid and 1 <= int(grid[1]) <= 32):
        return name
    raise EncoderError(f"There is no pooling named {name!r}. Allowed: {POOLINGS}. Type, say: --pooling grid4.")


def _resnet(name: str, weights: str, summary: str) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        builder="stillsight.encoders.zoo.torchvision:resnet",
        arguments={"name": name},
        stages={"stem": 4, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32},
        tap="layer4",
        control=("layer2", "grid6"),
        weights=weights,
        summary=summary,
    )


def _features(name: str, weights: str, least: list[int], control: int, summary: str) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        builder="stillsight.encoders.zoo.torchvision:features",
        arguments={"name": name},
        stages={f"features.{index}": side for index, side in enumerate(least)},
        tap=f"features.{len(least) - 1}",
        control=(f"features.{control}", "grid6"),
        weights=weights,
        summary=summary,
    )


_ROWS = [
    EncoderSpec(
        name="retina",
        builder="stillsight.encoders.zoo.retina:retina",
        stages={"stem": 2, "layer1": 2, "layer2": 4, "layer3": 8},
        tap="layer3",
        control=("layer2", "grid6"),
        weights="shipped",
        summary="the small residual network that ships with stillsight, pretrained on CIFAR-100; no download",
    ),
    _resnet("resnet18", "ResNet18_Weights.IMAGENET1K_V1", "ResNet-18 (He et al. 2016), ImageNet-1k"),
    _resnet("resnet34", "ResNet34_Weights.IMAGENET1K_V1", "ResNet-34 (He et al. 2016), ImageNet-1k"),
    _resnet("resnet50", "ResNet50_Weights.IMAGENET1K_V2", "ResNet-50 (He et al. 2016), ImageNet-1k"),
    _features(
        "mobilenet_v2",
        "MobileNet_V2_Weights.IMAGENET1K_V1",
        [2, 2, 4, 4, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 32, 32, 32, 32, 32],
        6,
        "MobileNetV2 (Sandler et al. 2018), ImageNet-1k",
    ),
    _features(
        "mobilenet_v3_small",
        "MobileNet_V3_Small_Weights.IMAGENET1K_V1",
        [2, 4, 8, 8, 16, 16, 16, 16, 16, 32, 32, 32, 32],
        3,
        "MobileNetV3-Small (Howard et al. 2019), ImageNet-1k",
    ),
    _features(
        "mobilenet_v3_large",
        "MobileNet_V3_Large_Weights.IMAGENET1K_V1",
        [2, 2, 4, 4, 8, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32, 32, 32],
        6,
        "MobileNetV3-Large (Howard et al. 2019), ImageNet-1k",
    ),
    # SqueezeNet does not pad its first convolution, and its pools round up: these are the smallest sides that pass.
    _features(
        "squeezenet1_1",
        "SqueezeNet1_1_Weights.IMAGENET1K_V1",
        [3, 3, 5, 5, 5, 9, 9, 9, 17, 17, 17, 17, 17],
        7,
        "SqueezeNet 1.1 (Iandola et al. 2016), ImageNet-1k",
    ),
    _features(
        "efficientnet_b0",
        "EfficientNet_B0_Weights.IMAGENET1K_V1",
        [2, 2, 4, 8, 16, 16, 32, 32, 32],
        3,
        "EfficientNet-B0 (Tan and Le 2019), ImageNet-1k",
    ),
    _features(
        "convnext_tiny",
        "ConvNeXt_Tiny_Weights.IMAGENET1K_V1",
        [4, 4, 8, 8, 16, 16, 32, 32],
        3,
        "ConvNeXt-T (Liu et al. 2022), ImageNet-1k",
    ),
    EncoderSpec(
        name="vit_b_16",
        builder="stillsight.encoders.zoo.torchvision:vision_transformer",
        arguments={"name": "vit_b_16"},
        stages={"embed": 16} | {f"block{index}": 16 for index in range(12)} | {"norm": 16},
        tap="norm",
        pooling="cls",
        control=("block5", "grid4"),
        weights="ViT_B_16_Weights.IMAGENET1K_V1",
        multiple=16,
        summary="ViT-B/16 (Dosovitskiy et al. 2021), ImageNet-1k; position embeddings are interpolated to the image",
    ),
    EncoderSpec(
        name="nature",
        builder="stillsight.encoders.zoo.scratch:nature",
        stages={"conv1": 8, "conv2": 20, "conv3": 36},
        tap="conv3",
        pooling="flatten",
        control=("conv3", "flatten"),
        summary="the Nature DQN network (Mnih et al. 2015), from scratch only",
    ),
    EncoderSpec(
        name="impala",
        builder="stillsight.encoders.zoo.scratch:impala",
        stages={"block1": 2, "block2": 4, "block3": 8},
        tap="block3",
        pooling="flatten",
        control=("block3", "flatten"),
        summary="the IMPALA residual network (Espeholt et al. 2018), from scratch only",
    ),
    EncoderSpec(
        name="airbench",
        builder="stillsight.encoders.zoo.scratch:airbench",
        stages={"stem": 2, "block1": 3, "block2": 5, "block3": 9},
        tap="block3",
        control=("block2", "grid6"),
        summary="the network of airbench94 (Jordan 2024) for pictures of about 32 px, from scratch only",
    ),
]

ENCODERS: dict[str, EncoderSpec] = {row.name: row for row in _ROWS}


def names() -> list[str]:
    """Every registered encoder, in the order in which `stillsight list encoders` shows them."""
    return list(ENCODERS)


def spec(name: str) -> EncoderSpec | None:
    """The row of `name`, or None for a third party's `module:function`, which is known only once it is built.

    Raises:
        EncoderError: no such row, with the nearest name.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    if ":" in name:
        return None
    allowed = "Your own goes in as --encoder module:function. Known"
    raise EncoderError(unknown("encoder", name, ENCODERS, allowed, "--encoder"))


def builder(path: str) -> Any:
    """Import `module:function`.

    Raises:
        EncoderError: the module cannot be imported, or has no such function.
    """
    module, _, function = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, ValueError, TypeError) as error:  # the last two: an empty or a relative module name
        raise EncoderError(
            f"The encoder {path!r} cannot be imported: {error}. Give --encoder module:function with a module that "
            "Python can import from here."
        ) from error
    except AttributeError as error:
        raise EncoderError(
            f"The module {module!r} has no function {function!r}. Give --encoder module:function."
        ) from error
    if not callable(found):
        raise EncoderError(f"{path} is {type(found).__name__}, not a function. Give --encoder module:function.")
    return found


def make_backbone(name: str) -> Backbone:
    """Build the network called `name` with random weights.

    Raises:
        EncoderError: unknown name, failed import, or a third party's function that returns something else.
    """
    row = spec(name)
    path = row.builder if row else name
    built = builder(path)(**(row.arguments if row else {}))
    from stillsight.encoders.backbone import Backbone

    if not isinstance(built, Backbone):
        raise EncoderError(
            f"{path} returned {type(built).__name__}; it must return stillsight.encoders.Backbone(model, stages, ...)."
        )
    return built
