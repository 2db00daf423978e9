"""Several taps: the network runs once, and features, cut, engines and hash are those of its stages one by one."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stillsight.encoders import Backbone, Encoder, EncoderError, Preprocessing
from stillsight.encoders.building import build
from stillsight.encoders.config import EncoderConfig
from stillsight.encoders.encoder import Block
from stillsight.encoders.engines import engine as engines
from stillsight.encoders.mode import Mode
from stillsight.encoders.supervised.features.frozen_features import key
from stillsight.encoders.taps.learned_pooling import LearnedPooling
from stillsight.encoders.taps.tap import Tap, learns, taps
from stillsight.encoders.zoo.registry import make_backbone

THREE = "layer1,layer2,layer3"
CUTS = [None, "all", "stem", "layer1", "layer2", "layer3"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(1)
    return make_backbone("retina")


def pixels(count: int = 2, height: int = 32, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(height + width)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def alone(backbone: Backbone, tap: str, pooling: str, images: Tensor) -> Tensor:
    with torch.no_grad():
        features: Tensor = Encoder(copy.deepcopy(backbone), tap=tap, pooling=pooling, precision="float32")(images)
    return features


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach(), expected.detach(), atol=1e-5, rtol=1e-4)


# Names ----------------------------------------------------------------------------------------------------------------


def test_one_pooling_serves_every_tap_and_a_list_gives_each_its_own() -> None:
    assert taps("layer2,layer4", "grid4") == (Tap("layer2", "grid4"), Tap("layer4", "grid4"))
    assert taps("layer2, layer4", "grid4,cls+global") == (Tap("layer2", "grid4"), Tap("layer4", "cls+global"))
    places = {name: Tap("x", name).places for name in ("grid3", "attention2", "conv8", "flatten", "global", "cls")}
    assert places == {"grid3": 9, "attention2": 2, "conv8": 0, "flatten": 0, "global": 1, "cls": 1}
    lists = ("global,attention4", "global, attention4", "conv3 ,grid2", "global, grid4")
    assert [learns(several) for several in lists] == [True, True, True, False]
    assert [Tap("x", name).learns for name in ("grid3", "attention2", "conv8", "cls+global")] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("tap", "pooling", "said"),
    [
        ("layer2,layer3", "grid4,global,cls", "names 3 poolings, and --tap layer2,layer3 2 stages. Type one pooling"),
        (
            "layer2",
            "grid4,global",
            r"names 2 poolings, and --tap layer2 1 stage\. Type one pooling for all, say --pool",
        ),
        ("layer2,layer2", "grid4", r"names layer2 twice, and a stage is read once\. Type: --tap layer2\."),
        ("layer3,layer1", "grid4", r"in another order than that in which they run.* Type: --tap layer1,layer3\."),
        ("layer1,layr3", "grid4", r"no stage named 'layr3'.* Type: --tap layer3"),
        ("layer1,layer3", "grid4,atention2", r"no pooling named 'atention2'.* --pooling attention4"),
        ("layer1,", "grid4", "no stage named ''"),
        ("layer1", "attention65", "no pooling named 'attention65'"),
        ("layer1", "conv0", "no pooling named 'conv0'"),
    ],
)
def test_slips_are_one_sentence_by_flag_and_by_library(backbone: Backbone, tap: str, pooling: str, said: str) -> None:
    with pytest.raises(EncoderError, match=said):
        EncoderConfig(tap=tap, pooling=pooling).check_encoder(32)
    with pytest.raises(EncoderError, match=said):
        Encoder(backbone, name="retina", tap=tap, pooling=pooling)


def test_the_last_tap_decides_what_can_be_unfrozen_and_how_large_images_must_be() -> None:
    EncoderConfig(encoder="resnet18", mode=Mode.FINETUNE, tap="layer1,layer3", unfreeze="layer2").check_encoder(16)
    with pytest.raises(EncoderError, match="Up to the tap layer3, resnet18 can be unfrozen from: stem, layer1, layer2"):
        EncoderConfig(encoder="resnet18", mode=Mode.FINETUNE, tap="layer1,layer3", unfreeze="layer4").check_encoder()
    with pytest.raises(EncoderError, match="at least 16 px to reach layer3"):
        EncoderConfig(encoder="resnet18", tap="layer1,layer3").check_encoder(15)


# Features -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
def test_features_are_those_of_each_tap_one_after_the_other(backbone: Backbone, cut: str | None) -> None:
    images, poolings = pixels(), ("grid3", "softmax", "global")
    expected = [alone(backbone, tap, pooling, images) for tap, pooling in zip(THREE.split(","), poolings, strict=True)]
    encoder = Encoder(copy.deepcopy(backbone), tap=THREE, pooling=",".join(poolings), unfreeze=cut, precision="float32")
    close(encoder(images), torch.cat(expected, 1))
    assert encoder.counter.images == len(images), "the network runs once"
    widths = [one.shape[1] for one in expected]
    assert encoder.blocks(sum(widths)) == tuple(map(Block, widths, (9, 1, 1)))
    assert encoder.sha256() == Encoder(copy.deepcopy(backbone), tap="layer3").sha256()


def test_a_stage_behind_the_last_tap_is_not_kept(backbone: Backbone) -> None:
    encoder = Encoder(backbone, tap="stem,layer1", pooling="grid2", precision="float32")
    assert {name.split(".")[0] for name in encoder.state()} == {"stem", "layer1"}


@pytest.mark.parametrize(("height", "width"), [(32, 48), (48, 16)])
def test_images_need_not_be_square(backbone: Backbone, height: int, width: int) -> None:
    images = pixels(2, height, width)
    for cut in (None, "layer2"):
        encoder = Encoder(
            copy.deepcopy(backbone), tap="layer1,layer2", pooling="grid2,flatten", unfreeze=cut, precision="float32"
        )
        close(
            encoder(images),
            torch.cat([alone(backbone, "layer1", "grid2", images), alone(backbone, "layer2", "flatten", images)], 1),
        )


@pytest.mark.parametrize("pooling", ["attention2", "conv2"])
def test_a_stage_that_would_work_in_place_leaves_the_tap_before_it_as_it_was(pooling: str) -> None:
    """Layer by layer, torchvision's stages are ReLU(inplace=True) too: what was kept would be what comes behind it."""
    squeezenet = make_backbone("squeezenet1_1")
    taps, poolings = "features.0,features.3", f"{pooling},global"
    before = alone(squeezenet, "features.0", pooling, pixels())
    encoder = Encoder(squeezenet, tap=taps, pooling=poolings, precision="float32")
    with torch.no_grad():
        features = encoder(pixels())
    close(features[:, : before.shape[1]], before)
    encoder.frozen.prepare((3, 32, 32), wanted="folded")
    with torch.no_grad():
        close(encoder(pixels()), features)
    learning = Encoder(make_backbone("squeezenet1_1"), tap=taps, pooling=poolings, unfreeze="all", precision="float32")
    learning(pixels()).square().sum().backward()  # of what was changed in between, torch has no gradient


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("poolings", ["attention2,grid2,conv3", "global,attention1,global", "conv2,conv2,conv2"])
def test_poolings_that_learn_stand_behind_every_cut_and_get_the_gradient(
    backbone: Backbone, cut: str | None, poolings: str
) -> None:
    encoders = [
        Encoder(copy.deepcopy(backbone), tap=THREE, pooling=poolings, unfreeze=each, precision="float32", seed=3)
        for each in ("all", cut)
    ]
    images = pixels(3)
    close(*(encoder(images) for encoder in encoders))
    encoder = encoders[1]
    assert not any(isinstance(module, LearnedPooling) for module in encoder.frozen.steps.modules())
    learning = encoder.learned.pooling_state()
    assert {name.split(".")[0] for name in learning} == {tap.stage for tap in taps(THREE, poolings) if tap.learns}
    encoder(images).square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().max() > 0 for tensor in learning.values())
    assert not any(parameter.grad is not None for parameter in encoder.frozen.steps.parameters())
    if cut in (None, "stem"):
        assert (len(list(encoder.learned.parameters())) == len(learning)) == (cut is None)


def test_a_pooling_before_the_cut_takes_what_the_next_stage_takes(backbone: Backbone) -> None:
    """Where both need one map, it is handed over, and kept in buffers, once."""
    encoder = Encoder(backbone, tap="layer1,layer2", pooling="attention2", unfreeze="layer2", precision="float32")
    assert encoder.frozen.frame_shape((3, 32, 32)) == (64, 16, 16)
    assert encoder.learned.names == ("tap.layer1", "layer2", "pooling")


def test_one_seed_gives_one_pooling_and_leaves_the_stream_of_random_numbers_alone(backbone: Backbone) -> None:
    def drawn(seed: int) -> tuple[Tensor, float]:
        torch.manual_seed(5)
        encoder = Encoder(copy.deepcopy(backbone), pooling="attention3", seed=seed)
        return encoder.learned.pooling_state()["layer3.queries"].detach(), torch.rand(1).item()

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert first[1] == again[1] == other[1]


# Hash, names, pickle --------------------------------------------------------------------------------------------------


def test_what_the_pooling_learns_is_no_part_of_the_hash(backbone: Backbone) -> None:
    encoder = Encoder(copy.deepcopy(backbone), pooling="conv4")
    before = encoder.sha256()
    assert before == Encoder(copy.deepcopy(backbone), pooling="global").sha256()
    with torch.no_grad():
        for tensor in encoder.learned.pooling_state().values():
            tensor.add_(1)
    assert encoder.sha256() == before


def test_features_in_the_cache_are_named_by_taps_and_poolings() -> None:
    names = {
        key(build("retina", "random", tap=tap, pooling=pooling, device="cpu"), (32, 32))
        for tap, pooling in (("layer1,layer2", "grid2"), ("layer2", "grid2"), ("layer1,layer2", "grid2,global"))
    }
    assert len(names) == 3


def test_a_pickled_encoder_knows_how_an_image_is_laid_out() -> None:
    for mode, unfreeze in (("frozen", None), ("finetune", "layer2")):
        encoder = build("retina", mode, tap="layer1,layer2", pooling="grid2,global", unfreeze=unfreeze, device="cpu")
        with pytest.raises(EncoderError, match=r"is tapped at layer1,layer2, and how many features each gives is not"):
            encoder.blocks(384)
        frozen = encoder.frozen(pixels(2, 32, 48))
        expected = encoder.learned(frozen)
        again = pickle.loads(pickle.dumps(encoder))
        close(again.learned(frozen), expected)
        assert again.blocks(384) == (Block(256, 4), Block(128, 1))
        assert again.counter.images == 0, "the look at a black image is not counted"


# Engines --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["folded", "onnx", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("poolings", "cut"), [("grid2,softmax", None), ("grid2,global", "layer2"), ("attention2,conv2", None)]
)
def test_every_engine_computes_what_the_network_computes(
    backbone: Backbone, name: engines.Name, poolings: str, cut: str | None
) -> None:
    if name == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    encoder = Encoder(copy.deepcopy(backbone), tap="layer1,layer2", pooling=poolings, unfreeze=cut, precision="float32")
    expected = {count: encoder(pixels(count)) for count in (1, 4, 7)}
    assert encoder.frozen.prepare((3, 32, 32), wanted=name, batch=4).name == name
    for count, features in expected.items():
        torch.testing.assert_close(encoder(pixels(count)), features, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("poolings", ["conv2", "attention1,conv2,global", "global,conv2,conv2", "grid2"])
def test_three_taps_are_folded_too(backbone: Backbone, poolings: str) -> None:
    encoder = Encoder(copy.deepcopy(backbone), tap=THREE, pooling=poolings, precision="float32")
    expected = encoder(pixels())
    encoder.frozen.prepare((3, 32, 32))
    assert (encoder.frozen.engine.name, encoder.frozen.engine.dropped) == ("folded", {})
    torch.testing.assert_close(encoder(pixels()), expected, atol=1e-4, rtol=1e-4)


def test_folding_reaches_stages_behind_a_tap(backbone: Backbone) -> None:
    encoder = Encoder(copy.deepcopy(backbone), tap="stem,layer2", pooling="grid2", precision="float32")
    encoder.frozen.prepare((3, 32, 32), wanted="folded")
    inference = encoder.frozen.engine.run
    assert isinstance(inference, engines.Inference)
    kinds = [type(module) for module in inference.modules()]
    assert kinds.count(nn.Conv2d) > 5
    assert nn.BatchNorm2d not in kinds


# Tokens ---------------------------------------------------------------------------------------------------------------


class Patches(nn.Module):
    """Image -> a class token, two registers and a token for each patch of 8 px: its mean colours."""

    def __init__(self) -> None:
        super().__init__()
        self.leading = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0], [100.0, 100.0, 100.0], [200.0, 200.0, 200.0]]))

    def forward(self, images: Tensor) -> Tensor:
        tokens = nn.functional.avg_pool2d(images, 8).flatten(2).transpose(1, 2)
        return torch.cat([self.leading.expand(len(images), -1, -1), tokens], 1)


class Doubled(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return 2 * tokens


def with_registers() -> Backbone:
    model = nn.Sequential(Patches(), Doubled())
    return Backbone(
        model=model,
        stages={"embed": model[0], "block0": model[1]},
        preprocessing=Preprocessing(),
        tap="block0",
        pooling="cls+global",
        class_tokens=3,
        multiple=8,
    )


def test_registers_are_in_no_pooling() -> None:
    images = torch.randint(0, 256, (2, 3, 16, 32), dtype=torch.uint8)
    patches = nn.functional.avg_pool2d(images.float() / 255, 8)
    first = torch.tensor([[1.0, 2.0, 3.0]]).expand(2, -1)
    mean = patches.mean((2, 3))
    expected = {
        "cls": 2 * first,
        "global": 2 * mean,
        "cls+global": 2 * torch.cat([first, mean], 1),
        "grid2": 2 * nn.functional.adaptive_avg_pool2d(patches, 2).flatten(1),
        "flatten": 2 * patches.flatten(1),
    }
    for pooling, features in expected.items():
        close(Encoder(with_registers(), pooling=pooling, precision="float32")(images), features)
    both = Encoder(with_registers(), tap="embed,block0", pooling="grid2,cls+global", precision="float32")(images)
    close(both, torch.cat([expected["grid2"] / 2, expected["cls+global"]], 1))


@pytest.mark.parametrize("pooling", ["attention2", "conv3"])
def test_poolings_that_learn_see_no_registers(pooling: str) -> None:
    images = torch.randint(0, 256, (2, 3, 16, 32), dtype=torch.uint8)
    backbone = with_registers()
    encoder = Encoder(backbone, pooling=pooling, precision="float32")
    before = encoder(images)
    with torch.no_grad():
        backbone.model[0].leading.mul_(7)
    assert torch.equal(encoder(images), before)


def test_channels_that_no_image_tells_are_a_sentence() -> None:
    class Never(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise ValueError(f"images of 7 px alone, not {images.shape[2]}")

    model = nn.Sequential(Never())
    backbone = Backbone(model=model, stages={"only": model[0]}, preprocessing=Preprocessing(), tap="only")
    with pytest.raises(
        EncoderError, match=r"passes through the stages only \(images of 7 px alone, not 448\).* --pooling global"
    ):
        Encoder(backbone, pooling="attention1")
