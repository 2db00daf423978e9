"""Encoders that were pretrained for robots: R3M, VIP, VC-1, MVP and Theia."""

from __future__ import annotations

from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.templates import vit

ORDER = 80
BUILDERS = "stillsight.encoders.zoo.robots"
RESNET = {"stem": 4, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
S3 = "url:https://pytorch.s3.amazonaws.com/models/rl"


def _r3m(depth: int) -> EncoderSpec:
    return EncoderSpec(
        name=f"r3m_{depth}",
        family="R3M",
        builder=f"{BUILDERS}:resnet",
        arguments={"name": f"resnet{depth}"},
        stages=RESNET,
        tap="layer4",
        control=("layer2", "grid6"),
        weights=f"{S3}/r3m/r3m_{depth}.pt",
        licence="MIT",
        summary=f"R3M (Nair et al. 2022), {depth} layers, Ego4D",
    )


def _vc1(size: str, name: str, depth: int) -> EncoderSpec:
    return vit(
        f"vc1_{size}",
        name,
        "VC-1",
        f"VC-1 {size.upper()} (Majumdar et al. 2023): a masked autoencoder of egocentric video and ImageNet",
        depth=depth,
        builder=f"{BUILDERS}:masked",
        weights=f"url:https://dl.fbaipublicfiles.com/eai-vc/vc1_vit{size}.pth",
        licence="CC-BY-NC-4.0",
        accept=True,
    )


def _mvp(size: str, name: str, heads: int) -> EncoderSpec:
    return vit(
        f"mvp_{size}",
        name,
        "MVP",
        f"MVP ViT-{size.upper()} (Radosavovic et al. 2022), pretrained by masking on egocentric video",
        builder=f"{BUILDERS}:masked",
        arguments={"name": name, "heads": heads},
        weights=None,
        withdrawn="the addresses of its published weights are gone",
        licence="not stated",
    )


def _theia(size: str) -> EncoderSpec:
    return vit(
        f"theia_{size}",
        "",
        "Theia",
        f"Theia-{size} (Shang et al. 2024), distilled from CLIP, Depth-Anything, DINOv2, SAM and ViT",
        pooling="global",
        builder=f"{BUILDERS}:theia",
        arguments={"size": size},
        weights=f"hf:theaiinstitute/theia-{size}-patch16-224-cdiv",
        licence="Theia-NC",
        accept=True,
    )


ROWS = (
    _r3m(18),
    _r3m(34),
    _r3m(50),
    EncoderSpec(
        name="vip",
        family="VIP",
        builder=f"{BUILDERS}:vip",
        stages=RESNET | {"fc": 32},
        tap="fc",
        control=("layer2", "grid6"),
        weights=f"{S3}/vip/model.pt",
        licence="CC-BY-NC-4.0",
        accept=True,
        summary="VIP (Ma et al. 2023), 50 layers and a projection to 1,024 features, Ego4D",
    ),
    _vc1("b", "vit_base_patch16_224", 12),
    _vc1("l", "vit_large_patch16_224", 24),
    _theia("tiny"),
    _theia("small"),
    _theia("base"),
    _mvp("s", "vit_small_patch16_224", heads=12),  # its authors' `vit_s16`; timm's has 6
    _mvp("b", "vit_base_patch16_224", heads=12),
)
