"""Image towers of networks trained on pictures with captions: CLIP (Radford et al. 2021), SigLIP (Zhai et al. 2023),
SigLIP 2 (Tschannen et al. 2025), MobileCLIP2 (Faghri et al. 2025)."""

from __future__ import annotations

from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.templates import timm, vit

ORDER = 75
FASTVIT = {"stem": 4, "stages.0": 4, "stages.1": 8, "stages.2": 16, "stages.3": 32, "head": 32}


def _clip(patch: int) -> EncoderSpec:
    # timm's plain variants replace OpenAI's activation (QuickGELU) by another, with the same weights.
    return vit(
        f"clip_b{patch}",
        f"vit_base_patch{patch}_clip_quickgelu_224.openai",
        "CLIP",
        f"CLIP ViT-B/{patch} (Radford et al. 2021), OpenAI's 400 million pairs",
        patch=patch,
        weights=f"timm:vit_base_patch{patch}_clip_224.openai",
        licence="MIT",
    )


def _siglip(name: str, model: str, family: str, summary: str, patch: int = 16) -> EncoderSpec:
    return vit(name, model, family, summary, patch=patch, pooling="global", licence="Apache-2.0")


def _mobileclip(size: int) -> EncoderSpec:
    return timm(
        f"mobileclip2_s{size}",
        f"fastvit_mci{size}.apple_mclip2_dfndr2b",
        "MobileCLIP2",
        FASTVIT,
        "stages.1",
        f"MobileCLIP2-S{size} (Faghri et al. 2025), DFNDR-2B",
        licence="Apple-AMLR",
        accept=True,
    )


ROWS = (
    _clip(32),
    _clip(16),
    _siglip("siglip_b16", "vit_base_patch16_siglip_224.webli", "SigLIP", "SigLIP ViT-B/16 (Zhai et al. 2023), WebLI"),
    _siglip(
        "siglip2_b16",
        "vit_base_patch16_siglip_224.v2_webli",
        "SigLIP 2",
        "SigLIP 2 ViT-B/16 (Tschannen et al. 2025), WebLI",
    ),
    _siglip(
        "siglip2_b32",
        "vit_base_patch32_siglip_256.v2_webli",
        "SigLIP 2",
        "SigLIP 2 ViT-B/32 (Tschannen et al. 2025), WebLI",
        patch=32,
    ),
    _mobileclip(0),
    _mobileclip(2),
)
