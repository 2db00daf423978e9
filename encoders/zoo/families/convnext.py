"""ConvNeXt (Liu et al. 2022) and ConvNeXt V2 (Woo et al. 2023)."""

from __future__ import annotations

from stillsight.encoders.zoo.templates import features, timm

ORDER = 50
STAGES = {"stem": 4, "stages.0": 4, "stages.1": 8, "stages.2": 16, "stages.3": 32}

ROWS = (
    features(
        "convnext_tiny",
        "ConvNeXt",
        "ConvNeXt_Tiny_Weights.IMAGENET1K_V1",
        [4, 4, 8, 8, 16, 16, 32, 32],
        3,
        "ConvNeXt-T (Liu et al. 2022), ImageNet-1k",
        patch=4,
    ),
    timm(
        "convnextv2_atto",
        "convnextv2_atto.fcmae_ft_in1k",
        "ConvNeXt V2",
        STAGES,
        "stages.1",
        "ConvNeXt V2-A (Woo et al. 2023), ImageNet-1k",
        licence="CC-BY-NC-4.0",
        accept=True,
        patch=4,
    ),
    timm(
        "convnextv2_tiny",
        "convnextv2_tiny.fcmae_ft_in22k_in1k",
        "ConvNeXt V2",
        STAGES,
        "stages.1",
        "ConvNeXt V2-T (Woo et al. 2023), ImageNet-22k",
        licence="CC-BY-NC-4.0",
        accept=True,
        patch=4,
    ),
)
