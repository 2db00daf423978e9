"""timm's models beside timm's own forward pass, with weights under which nothing in them is without effect."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders import Backbone, EncoderError, build, spec
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.preprocess import Preprocess
from stillsight.encoders.weights.published import source_of
from stillsight.encoders.zoo.registry import make_backbone, matching
from stillsight.encoders.zoo.timm import models as door
from stillsight.encoders.zoo.timm.cut import Whole

timm = pytest.importorskip("timm")

SMALL = ("eupe_ti16", "vit_tiny", "mobilenet_v4_small", "timm/eva02_tiny_patch14_224")
LARGER = ("dinov3_s16", "dinov2_s14", "dinov2_s14_reg", "dino_s16", "convnextv2_atto", "siglip_b16", "clip_b32",
          "mobileclip2_s0", "timm/swin_tiny_patch4_window7_224", "timm/deit_tiny_distilled_patch16_224",
          "timm/beit_base_patch16_224", "timm/hiera_tiny_224", "timm/levit_128s")  # fmt: skip
every = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGER)]


def stirred(name: str) -> Backbone:
    """The network with weights far from those with which networks begin, which hide what a block does."""
    torch.manual_seed(0)
    backbone = make_backbone(name)
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            if parameter.dim() < 2:
                parameter.uniform_(0.3, 0.9)
            elif parameter.std() < 1e-2:
                parameter.normal_(0, 0.1)
    backbone.model.eval()
    return backbone


def through(backbone: Backbone, images: Tensor) -> dict[str, Tensor]:
    outputs = {}
    for name, stage in backbone.stages.items():
        images = outputs[name] = stage(images)
    return outputs


@pytest.mark.parametrize("name", every)
@torch.no_grad()
def test_features_are_those_of_its_own_forward_pass_and_transform(name: str) -> None:
    backbone = stirred(name)
    row = spec(name)
    model: Any = backbone.model
    side = row.fixed or max(3 * row.multiple, max(row.stages.values()))
    if "positions" in row.arguments:  # laid out otherwise than timm does, see test_positions.py
        side = model.patch_embed.img_size[0]
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    data = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**{**data, "input_size": (3, side, side), "crop_pct": 1.0})
    normalise = transform.transforms[-1]
    images = Preprocess(backbone.preprocessing, None, None)(pixels)
    torch.testing.assert_close(images, normalise(pixels.float() / 255), rtol=1e-4, atol=1e-4)
    expected = model.forward_features(images)
    if getattr(model, "output_fmt", "") == "NHWC":
        expected = expected.permute(0, 3, 1, 2)
    found = list(through(backbone, images).values())[-1]
    assert found.shape == expected.shape
    assert F.cosine_similarity(found.flatten(1), expected.flatten(1)).min() >= 0.9999


@pytest.mark.parametrize("name", ["eupe_ti16", "vit_tiny", pytest.param("dinov3_s16", marks=pytest.mark.slow)])
@torch.no_grad()
def test_each_block_is_the_one_that_timm_reads_there(name: str) -> None:
    backbone = stirred(name)
    model: Any = backbone.model
    images = torch.randn(2, 3, 48, 80)  # not square: where each token lies is what rotary positions are about
    outputs = through(backbone, images)
    expected = model.forward_intermediates(images, output_fmt="NLC", norm=False, intermediates_only=True)
    for number, one in enumerate(expected):
        found = outputs[f"block{number}"][:, backbone.class_tokens :]
        assert F.cosine_similarity(found.flatten(1), one.flatten(1)).min() >= 0.9999, number


@torch.no_grad()
def test_a_rotary_network_is_the_same_wherever_it_is_cut() -> None:
    backbone = stirred("eupe_ti16")
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    whole = Encoder(backbone, pooling="grid2", precision="float32")(pixels)
    for cut in ("block0", "block5", "block11", "norm"):
        parts = Encoder(backbone, pooling="grid2", unfreeze=cut, precision="float32")
        handed = parts.frozen(pixels)
        assert handed.shape == (2, 5 + 16, 192), "one tensor: a class token, four registers and the patches"
        parts.frozen(torch.zeros(1, 3, 96, 96, dtype=torch.uint8))  # what came between does not matter
        torch.testing.assert_close(parts.learned(handed), whole, rtol=1e-4, atol=1e-4)


def test_registers_are_no_patches() -> None:
    assert [make_backbone(name).class_tokens for name in ("vit_tiny", "eupe_ti16")] == [1, 5]
    encoder = build("eupe_ti16", "random", pooling="grid4", device="cpu", precision="float32")
    assert encoder(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 192 * 16)


def test_a_register_is_no_class_token() -> None:
    name = "timm/vit_betwixt_patch16_reg4_gap_256"
    options: dict[str, Any] = {"tap": "embed", "device": "cpu", "precision": "float32"}
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for pooling in ("cls", "cls+global"):
        encoder = build(name, "random", pooling=pooling, **options)
        with pytest.raises(EncoderError, match=r"This encoder has no class token\. Allowed here: --pooling global"):
            encoder(pixels)
    assert build(name, "random", pooling="grid2", **options)(pixels).shape == (1, 640 * 4)
    assert build("eupe_ti16", "random", pooling="cls", **options)(pixels).shape == (1, 192)


def test_any_size_that_patches_divide_and_no_other() -> None:
    row = spec("timm/vit_tiny_patch16_224")
    row.check_size(48, "norm")
    with pytest.raises(EncoderError, match=r"patches of 16 px, and 50 px is not a multiple .*--resolution 48"):
        row.check_size(50, "norm")
    fixed = spec("timm/mixer_s32_224")
    fixed.check_size(224, "norm")
    with pytest.raises(EncoderError, match=r"takes images of 224 px alone, and these have 64 px\. Add --res.* 224"):
        fixed.check_size(64, "norm")


def test_what_timm_knows_stands_in_the_record() -> None:
    row = spec("timm/convnextv2_atto.fcmae_ft_in1k")
    assert (row.family, row.weights, row.licence) == ("ConvNeXt", "timm:convnextv2_atto.fcmae_ft_in1k", "cc-by-nc-4.0")
    assert row.accept
    assert dict(row.stages) == {"stem": 4, "stages.0": 4, "stages.1": 8, "stages.2": 16, "stages.3": 32}
    assert row.control == ("stages.1", "grid6")
    free = spec("timm/resnet18")
    assert (free.weights, free.accept) == ("timm:resnet18.a1_in1k", False)
    recipe = make_backbone("timm/resnet18").preprocessing
    config = timm.get_pretrained_cfg("resnet18")
    assert (recipe.mean, recipe.std, recipe.size) == (config.mean, config.std, config.input_size[-1])


RECIPES = ("eupe_s16", "vit_tiny", "mobilenet_v4_small", "dinov3_s16", "dinov3_convnext", "dinov2_b14",
           "dinov2_s14_reg", "dino_s8", "convnextv2_atto", "siglip_b16", "siglip2_b16", "clip_b32", "mobileclip2_s0",
           "mae_b16",
           "timm/eva02_tiny_patch14_224", "timm/hiera_tiny_224", "timm/deit_tiny_distilled_patch16_224")  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_is_timm_s(name: str) -> None:
    with torch.device("meta"):
        recipe = make_backbone(name).preprocessing
    config = timm.get_pretrained_cfg(spec(name).arguments["name"])
    expected = (config.mean, config.std, config.input_size[-1], config.interpolation)
    assert (recipe.mean, recipe.std, recipe.size, recipe.interpolation) == expected


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("vit_base_patch32_clip_224.openai", "vit_base_patch32_clip_quickgelu_224.openai"),
        ("vit_huge_patch14_clip_378.dfn5b", "vit_huge_patch14_clip_quickgelu_378.dfn5b"),
    ],
)
def test_weights_that_were_trained_with_another_activation_are_refused(name: str, right: str) -> None:
    with pytest.raises(EncoderError, match=rf"computes GELU, .* trained with QuickGELU: .*--encoder timm/{right}\."):
        spec(f"timm/{name}")
    assert right in timm.list_pretrained(), "and the network that it names is timm's"
    assert spec("timm/vit_base_patch32_clip_224.laion2b").weights == "timm:vit_base_patch32_clip_224.laion2b"


@pytest.mark.parametrize("name", ["timm/volo_d1_224", "timm/coat_lite_tiny"])
@torch.no_grad()
def test_a_class_token_that_timm_does_not_tell_of_is_no_place(name: str) -> None:
    backbone = make_backbone(name)
    assert (backbone.class_tokens, backbone.class_first, backbone.pooling) == (1, True, "cls")
    model: Any = backbone.model.eval()
    images = torch.randn(1, 3, 224, 224)
    tokens = model.forward_features(images)
    assert round((tokens.shape[1] - 1) ** 0.5) ** 2 == tokens.shape[1] - 1
    read = backbone.stages["features"] if "features" in backbone.stages else nn.Sequential(*backbone.stages.values())
    torch.testing.assert_close(read(images)[:, 0], tokens[:, 0])
    assert spec(name).control[1].startswith("grid"), "the patches lie in rows"


@pytest.mark.parametrize(
    ("licence", "accept"),
    [
        *((one, True) for one in ("seer-license", "sapiens2-license", "gemma", "nvidia-open-model-license")),
        *((one, True) for one in ("cc-by-nc-4.0", "dinov3-license", "apple-ascl", "apple-amlr")),
        *((one, True) for one in ("fair-noncommercial-research-license", "mobileone-license", "cvnets-license")),
        *((one, True) for one in ("qwen-community-1.0", "cc-by-nc-sa-4.0")),
        *((one, False) for one in ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "")),
    ],
)
def test_licences_that_ask_for_an_agreement_are_accepted_first(licence: str, accept: bool) -> None:
    assert door.must_accept(licence) is accept


def test_weights_whose_record_names_another_licence_than_their_source_ask_for_it() -> None:
    row = spec("timm/gcvit_xxtiny")
    assert (row.licence, row.accept) == ("cc-by-nc-sa-4.0", True)


def test_weights_are_looked_for_where_timm_says_that_they_are() -> None:
    row = spec("timm/rdnet_tiny.nv_in1k")
    assert row.weights == "hf:naver-ai/rdnet_tiny.nv_in1k"
    source = source_of(row)
    assert source is not None
    assert source.address == "https://huggingface.co/naver-ai/rdnet_tiny.nv_in1k/resolve/main/model.safetensors"
    assert door._address("timm/resnet18.a1_in1k", "") == "timm:resnet18.a1_in1k"
    assert door._address("someone/model", "open_clip.bin") == "hf:someone/model/open_clip.bin"
    assert door._address("", "") is None


def test_a_filter_of_timms_names_lists_them() -> None:
    assert matching("timm/convnextv2_a") == ["timm/convnextv2_atto"]
    assert matching("resnext101") == ["resnext101_32x8d", "resnext101_64x4d"], "torchvision's, where no row matches"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "timm/vit_tny_patch16_224",
            r"no model named 'vit_tny_patch16_224'\. Did you mean 'vit_tiny_patch16_224'\?",
        ),
        ("timm/qqqq", r"has no model named 'qqqq'\. All of them: stillsight list encoders timm/"),
        (
            "timm/resnet18.nobodys",
            r"no weights named 'nobodys' of resnet18\. Allowed: .* --encoder timm/resnet18",
        ),
        ("timm/hf-hub:someone/model", r"has no model named 'hf-hub:someone/model'"),
        ("timm/local-dir:/tmp", r"has no model named 'local-dir:/tmp'"),
    ],
)
def test_slips_are_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(EncoderError, match=sentence):
        spec(name)


@pytest.mark.parametrize("name", ["timm/resnet18", "vit_tiny"])
def test_without_timm_a_sentence_says_what_to_type(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EncoderError, match=r'need timm\. Type: pip install "stillsight\[timm\]"'):
        make_backbone(name)


def test_what_computes_several_tensors_is_refused() -> None:
    class Pair(nn.Module):
        def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, images

    with pytest.raises(EncoderError, match=r"Pair of timm computes tuple, and an encoder must hand on one tensor"):
        Whole(Pair())(torch.zeros(1))
