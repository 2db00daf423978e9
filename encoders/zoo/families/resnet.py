"""ResNet (He et al. 2016) and RegNet (Radosavovic et al. 2020)."""

from __future__ import annotations

from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.templates import torchvision

ORDER = 10
STAGES = {"stem": 4, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}


def _row(name: str, weights: str, summary: str) -> EncoderSpec:
    return torchvision(name, "ResNet", STAGES, "layer2", weights, summary)


REGNET = {"stem": 2, "block1": 4, "block2": 8, "block3": 16, "block4": 32}


def _regnet(name: str, weights: str, summary: str) -> EncoderSpec:
    return torchvision(name, "RegNet", REGNET, "block2", weights, summary)


ROWS = (
    _row("resnet18", "ResNet18_Weights.IMAGENET1K_V1", "ResNet-18 (He et al. 2016), ImageNet-1k"),
    _row("resnet34", "ResNet34_Weights.IMAGENET1K_V1", "ResNet-34 (He et al. 2016), ImageNet-1k"),
    _row("resnet50", "ResNet50_Weights.IMAGENET1K_V2", "ResNet-50 (He et al. 2016), ImageNet-1k"),
    _regnet(
        "regnet_y_400mf",
        "RegNet_Y_400MF_Weights.IMAGENET1K_V2",
        "RegNetY-400MF (Radosavovic et al. 2020), ImageNet-1k",
    ),
    _regnet(
        "regnet_y_1_6gf",
        "RegNet_Y_1_6GF_Weights.IMAGENET1K_V2",
        "RegNetY-1.6GF (Radosavovic et al. 2020), ImageNet-1k",
    ),
)
