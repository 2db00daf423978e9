"""Trained without labels by self-distillation: DINO (Caron et al. 2021), DINOv2 (Oquab et al. 2023; with registers,
Darcet et al. 2024), DINOv3 (Simeoni et al. 2025), and EUPE, distilled from several."""

from __future__ import annotations

from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.templates import timm, vit

ORDER = 70
CONVNEXT = {"stem": 4, "stages.0": 4, "stages.1": 8, "stages.2": 16, "stages.3": 32}


def _dino(name: str, model: str, summary: str, patch: int) -> EncoderSpec:
    own = {"name": model, "positions": "dino"}
    return vit(name, model, "DINO", summary, patch=patch, arguments=own, licence="Apache-2.0")


def _dinov2(name: str, model: str, size: str, more: str = "") -> EncoderSpec:
    own = {"name": f"{model}.lvd142m"} | ({} if more else {"positions": "dino"})  # with registers timm's way is theirs
    summary = f"DINOv2 ViT-{size}/14{more} (Oquab et al. 2023), LVD-142M"
    return vit(name, own["name"], "DINOv2", summary, patch=14, arguments=own, licence="Apache-2.0")


def _rotary(name: str, model: str, family: str, summary: str, licence: str) -> EncoderSpec:
    return vit(name, model, family, summary, arguments={"name": model, "pooling": "cls"}, licence=licence, accept=True)


ROWS = (
    _dino("dino_s16", "vit_small_patch16_224.dino", "DINO ViT-S/16 (Caron et al. 2021)", 16),
    _dino("dino_s8", "vit_small_patch8_224.dino", "DINO ViT-S/8 (Caron et al. 2021), with small patches", 8),
    _dinov2("dinov2_s14", "vit_small_patch14_dinov2", "S"),
    _dinov2("dinov2_b14", "vit_base_patch14_dinov2", "B"),
    _dinov2("dinov2_s14_reg", "vit_small_patch14_reg4_dinov2", "S", ", 4 registers"),
    _dinov2("dinov2_b14_reg", "vit_base_patch14_reg4_dinov2", "B", ", 4 registers"),
    _rotary(
        "dinov3_s16",
        "vit_small_patch16_dinov3.lvd1689m",
        "DINOv3",
        "DINOv3 ViT-S/16 (Simeoni et al. 2025), rotary positions, 4 registers",
        "DINOv3",
    ),
    _rotary(
        "dinov3_b16",
        "vit_base_patch16_dinov3.lvd1689m",
        "DINOv3",
        "DINOv3 ViT-B/16 (Simeoni et al. 2025), rotary positions, 4 registers",
        "DINOv3",
    ),
    timm(
        "dinov3_convnext",
        "convnext_tiny.dinov3_lvd1689m",
        "DINOv3",
        CONVNEXT,
        "stages.1",
        "DINOv3 ConvNeXt-T (Simeoni et al. 2025)",
        licence="DINOv3",
        accept=True,
        patch=4,
    ),
    _rotary(
        "eupe_ti16",
        "vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m",
        "EUPE",
        "EUPE ViT-Ti/16, distilled from several teachers; DINOv3's layout",
        "FAIR-NC",
    ),
    _rotary(
        "eupe_s16",
        "vit_small_patch16_dinov3_qkvb.eupe_lvd1689m",
        "EUPE",
        "EUPE ViT-S/16, distilled from several teachers; DINOv3's layout",
        "FAIR-NC",
    ),
)
