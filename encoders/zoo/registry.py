"""The encoders by name: rows that can be read, listed and checked without importing torch."""

from __future__ import annotations

from stillsight.encoders.backbone import Backbone
from stillsight.encoders.errors import EncoderError, unknown
from stillsight.encoders.zoo import function
from stillsight.encoders.zoo.encoder_spec import EncoderSpec


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


def matching(words: str) -> list[str]:
    """The encoders that `words` may mean: the one of that name, or those that have them in their name, family or
    summary."""
    if words in ENCODERS:
        return [words]
    wanted = words.lower()
    return [name for name, row in ENCODERS.items() if wanted in f"{name} {row.family} {row.summary}".lower()]


def spec(name: str) -> EncoderSpec:
    """The record of the encoder called `name`: its row, or what a third party's `module:function` tells of itself.

    A third party's function is called once for that, which may take as long as importing its packages.

    Raises:
        EncoderError: no such row, with the nearest name; a function that cannot be imported or returns no `Backbone`.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    if ":" in name:
        return function.describe(name)
    allowed = "Your own goes in as --encoder module:function. Known"
    raise EncoderError(unknown("encoder", name, ENCODERS, allowed, "--encoder"))


def make_backbone(name: str, *, pretrained: bool = False) -> Backbone:
    """Build the network called `name`, with random weights unless a third party's function brings its own.

    Args:
        name: of a row, or `module:function`.
        pretrained: handed on to a third party's function that takes it.

    Raises:
        EncoderError: unknown name, failed import, or a third party's function that returns something else.
    """
    if ":" in name and name not in ENCODERS:
        return function.call(name, {}, pretrained=pretrained)
    row = spec(name)
    return function.call(row.builder, row.arguments)
