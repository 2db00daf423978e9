"""ConvNeXt (Liu et al. 2022) and ConvNeXt V2 (Woo et al. 2023)."""

from __future__ import annotations

from stillsight.encoders.zoo.templates import features

ORDER = 50

ROWS = (
    features(
        "convnext_tiny",
        "ConvNeXt",
        "ConvNeXt_Tiny_Weights.IMAGENET1K_V1",
        [4, 4, 8, 8, 16, 16, 32, 32],
        3,
        "ConvNeXt-T (Liu et al. 2022), ImageNet-1k",
    ),
)
