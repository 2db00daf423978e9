"""Encoders for robots, beside their authors' forward pass, preprocessing and files, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, v2

from stillsight.encoders import build
from stillsight.encoders.zoo.registry import make_backbone
from stillsight.encoders.zoo.robots import Theia

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""By which all of them normalise pixels from 0 to 1."""


def stirred(model: nn.Module) -> nn.Module:
    """The network with weights and statistics under which nothing in it is without effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        for parameter in model.parameters():
            if parameter.dim() < 2 or parameter.std() < 1e-2:
                parameter.normal_(0.3, 0.2, generator=generator)
    return model.eval()


def images_of(pixels: Tensor, side: int, interpolation: InterpolationMode) -> Tensor:
    """Pixels `[N, 3, H, W]` as torchvision's transforms make images of them."""
    resized = v2.Resize((side, side), interpolation=interpolation, antialias=True)(pixels.float()).clamp(0, 255)
    normalised: Tensor = v2.Normalize(MEAN, STD)(resized / 255)
    return normalised


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
@torch.no_grad()
def test_r3m_is_its_authors_network_and_preprocessing(depth: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """R3M.forward: pixels from 0 to 255 are divided by 255, normalised, and pooled by a ResNet without its last layer;
    its file holds `r3m`, a state_dict of DataParallel around a module that calls the network convnet."""
    torch.manual_seed(0)
    reference = torchvision.models.get_model(f"resnet{depth}", weights=None)
    reference.fc = nn.Identity()
    stirred(reference)
    state = {f"module.convnet.{name}": tensor for name, tensor in reference.state_dict().items()}
    file = tmp_path_factory.mktemp("r3m") / f"r3m_{depth}.pt"
    torch.save({"r3m": {**state, "module.lang_rew.pred.0.weight": torch.zeros(3, 3)}, "global_step": 1}, file)
    encoder = build(f"r3m_{depth}", weights=file, device="cpu", precision="float32")
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    normalise = torchvision.transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    expected = reference(normalise(pixels.float() / 255))
    assert F.cosine_similarity(encoder(pixels), expected).min() >= 0.9999


@pytest.mark.parametrize(
    ("name", "heads", "accept"),
    [
        ("mvp_s", 12, False),
        pytest.param("mvp_b", 12, False, marks=pytest.mark.slow),
        pytest.param("vc1_b", 12, True, marks=pytest.mark.slow),
        pytest.param("vc1_l", 16, True, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_vc1_and_mvp_are_their_authors_network_and_preprocessing(
    name: str, heads: int, accept: bool, tmp_path: Path
) -> None:
    """Both repositories build timm's vision transformer, and read the class token behind its last norm; a file holds
    `model`, VC-1's with the decoder of its pretraining. Pixels are resized bicubically."""
    timm: Any = pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone = make_backbone(name)
    width, depth = backbone.model.embed_dim, len(backbone.model.blocks)
    reference = timm.models.vision_transformer.VisionTransformer(
        img_size=224, patch_size=16, embed_dim=width, depth=depth, num_heads=heads, num_classes=0, class_token=True
    )
    stirred(reference)
    decoder = {"decoder_embed.weight": torch.zeros(8, width), "mask_token": torch.zeros(1, 1, 8)} if accept else {}
    torch.save({"model": {**reference.state_dict(), **decoder}}, file := tmp_path / "weights.pth")
    encoder = build(name, weights=file, resolution=224, device="cpu", precision="float32")
    assert encoder.pooling == "cls"
    pixels = torch.randint(0, 256, (1, 3, 250, 190), dtype=torch.uint8)
    images = images_of(pixels, 224, InterpolationMode.BICUBIC)
    patches = reference.patch_embed(images) + reference.pos_embed[:, 1:]
    tokens = torch.cat([reference.cls_token + reference.pos_embed[:, :1], patches], dim=1)
    expected = reference.norm(reference.blocks(tokens))[:, 0]
    found = encoder(pixels)
    assert F.cosine_similarity(found, expected).min() >= 0.9999
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_attention_with_another_number_of_heads_is_told_apart() -> None:
    """By the test above: weights of one fit the other, and what comes out is not the same."""
    blocks = {heads: make_backbone(name).model.blocks[0] for name, heads in (("mvp_s", 12), ("dino_s16", 6))}
    assert {heads: block.attn.num_heads for heads, block in blocks.items()} == {12: 12, 6: 6}
    blocks[6].load_state_dict(blocks[12].state_dict())
    tokens = torch.randn(2, 9, 384)
    with torch.no_grad():
        one, other = (blocks[heads].eval()(tokens) - tokens for heads in (12, 6))
    assert F.cosine_similarity(one.flatten(1), other.flatten(1)).max() < 0.9999


@torch.no_grad()
def test_vip_is_its_authors_network_and_preprocessing(tmp_path: Path) -> None:
    """VIP.forward: pixels from 0 to 255 are divided by 255, normalised, and go through a ResNet-50 whose last layer has
    1,024 units; its file holds `vip`, of a module that calls the network convnet, within DataParallel."""
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(weights=None)
    reference.fc = nn.Linear(2_048, 1_024)
    stirred(reference)
    state = {f"module.convnet.{name}": tensor for name, tensor in reference.state_dict().items()}
    torch.save({"vip": state, "global_step": 1}, file := tmp_path / "model.pt")
    encoder = build("vip", weights=file, device="cpu", precision="float32")
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    expected = reference(images_of(pixels, 64, InterpolationMode.BILINEAR))
    assert expected.shape == (2, 1_024)
    assert F.cosine_similarity(encoder(pixels), expected).min() >= 0.9999


@torch.no_grad()
def test_theia_is_timms_deit_under_other_names(tmp_path: Path) -> None:
    """Its file holds a Hugging Face ViT as `backbone.model` beside its translators to its teachers."""
    timm: Any = pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone = make_backbone("theia_tiny")
    model = backbone.model
    assert isinstance(model, Theia)
    for parameter in model.parameters():
        parameter.normal_(0, 0.1)
    reference = timm.create_model("deit_tiny_patch16_224", num_classes=0).eval()
    theirs, ours = {}, model.state_dict()
    renamed = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    for key in reference.state_dict():
        part = key.rpartition(".")[2]
        if key.startswith("blocks."):
            _, number, rest = key.split(".", 2)
            layer = f"encoder.layer.{number}"
            name = rest.rpartition(".")[0]
            if name == "attn.qkv":
                each = [ours[f"{layer}.attention.attention.{one}.{part}"] for one in ("query", "key", "value")]
                theirs[key] = torch.cat(each)
            else:
                theirs[key] = ours[f"{layer}.{renamed[name]}.{part}"]
        elif key.startswith("patch_embed"):
            theirs[key] = ours[f"embeddings.patch_embeddings.projection.{part}"]
        elif key.startswith("norm"):
            theirs[key] = ours[f"layernorm.{part}"]
        else:
            theirs[key] = ours[f"embeddings.{'cls_token' if key == 'cls_token' else 'position_embeddings'}"]
    reference.load_state_dict(theirs)
    state = {f"backbone.model.{key}": tensor for key, tensor in ours.items()}
    save_file({**state, "translator.linear.weight": torch.zeros(3, 3)}, file := tmp_path / "model.safetensors")
    encoder = build("theia_tiny", weights=file, resolution=224, device="cpu", precision="float32")
    pixels = torch.randint(0, 256, (1, 3, 250, 190), dtype=torch.uint8)
    expected = reference.forward_features(images_of(pixels, 224, InterpolationMode.BICUBIC))[:, 1:].mean(1)
    assert F.cosine_similarity(encoder(pixels), expected).min() >= 0.9999, "the mean of the patches"
