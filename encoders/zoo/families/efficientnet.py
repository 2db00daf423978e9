"""EfficientNet (Tan and Le 2019) and EfficientNet-Lite."""

from __future__ import annotations

from stillsight.encoders.zoo.templates import features

ORDER = 40

ROWS = (
    features(
        "efficientnet_b0",
        "EfficientNet",
        "EfficientNet_B0_Weights.IMAGENET1K_V1",
        [2, 2, 4, 8, 16, 16, 32, 32, 32],
        3,
        "EfficientNet-B0 (Tan and Le 2019), ImageNet-1k",
    ),
)
