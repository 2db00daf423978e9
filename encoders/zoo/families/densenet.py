"""DenseNet (Huang et al. 2017)."""

from __future__ import annotations

from stillsight.encoders.zoo.templates import torchvision

ORDER = 45
STAGES = {
    "stem": 4,
    "denseblock1": 4,
    "transition1": 8,
    "denseblock2": 8,
    "transition2": 16,
    "denseblock3": 16,
    "transition3": 32,
    "denseblock4": 32,
    "norm5": 32,
}

ROWS = (
    torchvision(
        "densenet121",
        "DenseNet",
        STAGES,
        "denseblock2",
        "DenseNet121_Weights.IMAGENET1K_V1",
        "DenseNet-121 (Huang et al. 2017), ImageNet-1k",
    ),
)
