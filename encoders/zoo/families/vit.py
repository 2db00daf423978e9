"""Vision transformers trained with labels (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from stillsight.encoders.zoo.templates import TORCHVISION, vit

ORDER = 60

ROWS = (
    vit(
        "vit_b_16",
        "vit_b_16",
        "ViT",
        "ViT-B/16 (Dosovitskiy et al. 2021), ImageNet-1k; position embeddings are interpolated to the image",
        builder=TORCHVISION,
        weights="ViT_B_16_Weights.IMAGENET1K_V1",
    ),
)
