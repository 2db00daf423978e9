"""Vision transformers: ViT (Dosovitskiy et al. 2021), Swin (Liu et al. 2021), MAE (He et al. 2022)."""

from __future__ import annotations

from stillsight.encoders.zoo.templates import TORCHVISION, torchvision, vit

ORDER = 60
LEAST = (4, 4, 8, 8, 16, 16, 32, 32)
SWIN = {f"features.{index}": side for index, side in enumerate(LEAST)} | {"norm": 32}

ROWS = (
    vit(
        "vit_b_16",
        "vit_b_16",
        "ViT",
        "ViT-B/16 (Dosovitskiy et al. 2021), ImageNet-1k; position embeddings are interpolated to the image",
        builder=TORCHVISION,
        weights="ViT_B_16_Weights.IMAGENET1K_V1",
    ),
    vit(
        "vit_tiny",
        "vit_tiny_patch16_224.augreg_in21k",
        "ViT",
        "ViT-Ti/16 (Steiner et al. 2022), ImageNet-21k",
        licence="Apache-2.0",
    ),
    torchvision(
        "swin_t",
        "Swin",
        SWIN,
        "features.3",
        "Swin_T_Weights.IMAGENET1K_V1",
        "Swin-T (Liu et al. 2021), ImageNet-1k",
        patch=4,
    ),
    vit(
        "mae_b16",
        "vit_base_patch16_224.mae",
        "MAE",
        "MAE ViT-B/16 (He et al. 2022), ImageNet-1k without labels",
        arguments={"name": "vit_base_patch16_224.mae", "positions": "mae"},
        licence="CC-BY-NC-4.0",
        accept=True,
    ),
)
