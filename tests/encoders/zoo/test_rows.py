"""Every row keeps what an encoder promises, with random weights; and so does a network that breaks a promise not."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stillsight.agents.runs.machine import machine
from stillsight.encoders import ENCODERS, Backbone, Preprocessing
from stillsight.encoders.atomic import to_json
from stillsight.encoders.engines import engine
from stillsight.encoders.zoo import registry
from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.examination import Examination, _places, examine

TIMM = (
    *("resnet18", "efficientnet_b0", "tf_efficientnet_lite0", "mobilenetv3_small_050", "mobilenetv4_conv_small"),
    *("mobilenetv4_hybrid_medium", "regnety_002", "densenet121", "convnext_atto", "convnextv2_atto", "resnext50_32x4d"),
    *("swin_tiny_patch4_window7_224", "swinv2_cr_tiny_ns_224", "swinv2_tiny_window8_256", "vit_tiny_patch16_224"),
    *(
        "vit_small_patch14_dinov2",
        "vit_small_patch14_reg4_dinov2",
        "vit_small_patch16_dinov3",
        "eva02_tiny_patch14_224",
    ),
    *("deit_tiny_distilled_patch16_224", "beit_base_patch16_224", "vit_base_patch16_siglip_224", "fastvit_mci0"),
    *("vit_base_patch32_clip_quickgelu_224", "vit_small_patch16_rope_224", "vit_small_patch16_rope_mixed_224"),
    *("fastvit_t8", "mixer_s32_224", "resmlp_12_224", "gmlp_s16_224", "maxvit_tiny_tf_224", "coatnet_0_rw_224"),
    *(
        "mobilevit_xxs",
        "mobilevitv2_050",
        "edgenext_xx_small",
        "efficientformer_l1",
        "efficientvit_b0",
        "efficientvit_m0",
    ),
    *("ghostnet_100", "rexnet_100", "dpn48b", "dla34", "hrnet_w18_small", "inception_v4", "xception41", "cspresnet50"),
    *("nfnet_f0", "vgg11", "repvgg_a0", "levit_128s", "pit_ti_224", "pvt_v2_b0", "twins_svt_small", "gcvit_xxtiny"),
    *(
        "davit_tiny",
        "focalnet_tiny_srf",
        "poolformer_s12",
        "caformer_s18",
        "hgnet_tiny",
        "hgnetv2_b0",
        "hiera_tiny_224",
    ),
    *(
        "starnet_s1",
        "mambaout_femto",
        "tiny_vit_5m_224",
        "xcit_nano_12_p8_224",
        "volo_d1_224",
        "coat_lite_tiny",
        "cait_xxs24_224",
    ),
    *("convit_tiny", "nest_tiny", "visformer_tiny", "sequencer2d_s", "inception_next_atto", "repvit_m0_9"),
    *("swiftformer_xs", "rdnet_tiny", "ese_vovnet19b_dw", "selecsls42", "hardcorenas_a", "tresnet_m", "skresnet18"),
    *("resnest14d", "res2net50_26w_4s", "mobileone_s0", "convmixer_1024_20_ks9_p14", "samvit_base_patch16"),
)
"""Models of most of timm's families."""


KEPT = "STILLSIGHT_EXAMINED"
"""Environment variable that names a file in which outcomes are kept, see `make examine`."""


def kept(name: str) -> Examination:
    """An examination, of which the file of `KEPT` gets a line with what ran it; it then tries onnx too."""
    place = os.environ.get(KEPT)
    examined = examine(name, ("folded", "onnx") if place else ("folded",))
    if place:
        facts = machine()
        ran = {"date": facts["date"], "commit": facts["commit"], "cpu": facts["cpu"]}
        versions = {package: version(package) for package in ("torch", "torchvision", "timm", "onnxruntime")}
        with Path(place).open("a") as file:
            file.write(to_json(asdict(examined) | ran | {"versions": versions}) + "\n")
    return examined


@pytest.mark.parametrize("name", ENCODERS)
def test_a_row_keeps_its_promises(name: str) -> None:
    examined = kept(name)
    assert examined.outcome == "ok"
    assert examined.engines["folded"] == "ok"
    assert examined.taps == tuple(ENCODERS[name].stages)
    assert len(examined.dims) == len(examined.taps)


@pytest.mark.slow
@pytest.mark.parametrize("model", TIMM)
def test_a_model_of_timm_keeps_them(model: str) -> None:
    assert kept(f"timm/{model}").outcome == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("model", registry.torchvision_models())
def test_a_model_of_torchvision_keeps_them(model: str) -> None:
    assert kept(model).outcome == "ok"


# Networks that break one ----------------------------------------------------------------------------------------------


class Drifting(nn.Conv2d):
    """Changes its weights as images pass."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.mul_(1.01)
        return super().forward(images)


class Mixing(nn.Conv2d):
    """Lets the images of a batch see each other."""

    def forward(self, images: Tensor) -> Tensor:
        maps = super().forward(images)
        return maps + maps.mean(0, keepdim=True)


class Narrow(nn.Conv2d):
    """Needs more than its row says."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[2] >= 9, "too small"
        return super().forward(images)


class Forward(nn.Conv2d):
    """Hands on what no gradient passes through."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


class Behind(nn.Module):
    """Holds, behind the first convolution, another name of that one's bias."""

    def __init__(self, first: nn.Conv2d) -> None:
        super().__init__()
        self.scale = nn.Parameter(first.bias.detach())  # type: ignore[union-attr]

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.scale[:, None, None]


def broken(kind: str) -> Backbone:
    """Its first stage is of that kind, or its second holds the first one's memory."""
    layers = {"drifting": Drifting, "mixing": Mixing, "narrow": Narrow, "forward": Forward, "sharing": nn.Conv2d}
    first = layers[kind](3, 4, 3, padding=1)
    model = nn.Sequential(first, Behind(first) if kind == "sharing" else nn.Conv2d(4, 5, 1))
    stages = {"one": model[0], "two": model[1]}
    return Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="two")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, EncoderSpec]]:
    """The registry with rows of networks that break a promise."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    row = replace(
        ENCODERS["retina"], builder="test_rows:broken", stages={"one": 8, "two": 8}, tap="two", control=("two", "grid2")
    )
    for kind in ("drifting", "mixing", "narrow", "forward", "sharing"):
        monkeypatch.setitem(registry.ENCODERS, kind, replace(row, name=kind, arguments={"kind": kind}))
    monkeypatch.setitem(
        registry.ENCODERS, "renamed", replace(row, name="renamed", stages={"a": 8}, arguments={"kind": "mixing"})
    )
    yield registry.ENCODERS
    sys.modules.pop("test_rows", None)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("drifting", "drifting changes 0.weight whenever images pass, in eval mode too"),
        ("mixing", "What stage one of mixing hands on of an image depends on its batch"),
        ("narrow", "images of 8 px do not reach two: too small"),
        ("forward", "cut before one, no gradient reaches it"),
        ("sharing", "Stages of sharing before two and from there on share 1.scale"),
        ("renamed", "its stages are one, two, and its record says a"),
    ],
)
def test_a_promise_that_is_broken_is_named(kind: str, outcome: str) -> None:
    assert examine(kind).outcome.startswith(outcome)


@pytest.mark.usefixtures("rows")
def test_what_is_frozen_is_hashed_after_a_step_of_what_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure it prevents: a cut that an optimizer reaches through is told by nothing."""
    monkeypatch.setattr("stillsight.encoders.encoder._check_apart", lambda *_: None)
    assert examine("sharing").outcome == "cut before two, what is frozen changes"


def test_a_name_that_there_is_not_is_an_outcome_too() -> None:
    assert examine("resnet81").outcome.startswith("There is no encoder named 'resnet81'")


def test_every_engine_that_is_asked_for_is_compared() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    examined = examine("drq", ("folded", "onnx", "graph"))
    assert examined.outcome == "ok"
    assert (examined.engines["folded"], examined.engines["onnx"]) == ("ok", "ok")
    if not torch.cuda.is_available():
        assert "CUDA graphs need a CUDA device" in examined.engines["graph"]


@pytest.mark.parametrize(("wrong", "taken"), [(0.04, True), (0.5, False)])
def test_an_engine_that_computes_something_else_is_found(
    monkeypatch: pytest.MonkeyPatch, wrong: float, taken: bool
) -> None:
    """What an encoder refuses itself is told; what passes its own check of single features and is another one breaks
    the promise."""
    whole = engine.Inference.forward

    def forward(self: engine.Inference, pixels: Tensor) -> Tensor:
        features = whole(self, pixels)
        signs = torch.arange(features.shape[1]) % 2 * 2 - 1
        return features + wrong * features.abs().max() * signs

    monkeypatch.setattr(engine.Inference, "forward", forward)
    examined = examine("drq", ("folded",))
    if taken:
        assert examined.outcome.startswith("at conv4 the engine folded gives other features (cosine 0.9")
        assert examined.outcome.endswith(examined.engines["folded"])
    else:
        assert examined.engines["folded"].startswith("--engine folded cannot be used here: its features differ from")
        assert examined.outcome == "ok"


# Where things are --------------------------------------------------------------------------------------------------


class Shuffled(nn.Module):
    """Patch tokens of 4 px that lie column by column."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 8, 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.cut(images).transpose(2, 3).flatten(2).transpose(1, 2)
        return tokens


def shuffled() -> Backbone:
    network = Shuffled()
    return Backbone(
        model=network, stages={"cut": network}, preprocessing=Preprocessing(), tap="cut", least={"cut": 4}, multiple=4
    )


def test_places_in_another_order_than_rows_are_found() -> None:
    outcome = examine(f"{__name__}:shuffled").outcome
    assert outcome == "of cut 75% of the places say most of a part of the image that they do not lie on"


def looking(corner: int) -> Backbone:
    """Three convolutions of stride 2, each of which sees one corner of its window alone."""
    layers = [nn.Conv2d(3, 3, 3, 2, 1, groups=3, bias=False) for _ in range(3)]
    for layer in layers:
        layer.weight.data.zero_()[..., corner, corner] = 1.0
    network = nn.Sequential(*layers)
    return Backbone(model=network, stages={"cut": network}, preprocessing=Preprocessing(), tap="cut", least={"cut": 32})


@torch.no_grad()
@pytest.mark.parametrize("corner", [0, 1, 2])
def test_places_look_out_from_their_upper_left_edge(corner: int) -> None:
    backbone = looking(corner)
    assert list(_places(registry.spec("resnet18"), backbone, 32)) == []
    pixel = 8 + (-7, 0, 7)[corner]  # which the second place sees, and no other
    images = torch.zeros(1, 3, 32, 32)
    images[..., pixel, pixel] = 1.0
    assert backbone.stages["cut"](images)[0, 0].nonzero().tolist() == [[1, 1]]


def test_hiera_is_one_stage_because_its_tokens_lie_in_no_rows_before_its_end() -> None:
    assert list(registry.spec("timm/hiera_tiny_224").stages) == ["features"]
    assert registry.spec("timm/hiera_tiny_224").tap == "features"


def test_places_of_hieras_blocks_would_be_found() -> None:
    cut = pytest.importorskip("stillsight.encoders.zoo.timm.cut")
    network = registry.make_backbone("timm/hiera_tiny_224").model
    row = registry.spec("timm/hiera_tiny_224")
    blocks = Backbone(
        model=network, stages=cut.stages_of(network, "blocks"), preprocessing=Preprocessing(), tap="embed"
    )
    [*broken] = _places(row, blocks, 224)
    share = re.match(r"of embed (\d+)% of the places", broken[0])
    assert share is not None
    assert int(share[1]) > 70  # of random weights: 80 or 81
    assert list(_places(row, registry.make_backbone("timm/hiera_tiny_224"), 224)) == []
