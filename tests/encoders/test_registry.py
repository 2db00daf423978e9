"""Names become encoders, slips become sentences, and neither costs an import of torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stillsight.encoders import ENCODERS, Backbone, EncoderError, EncoderSpec, build, names, spec
from stillsight.encoders.encoder import up_to
from stillsight.encoders.taps.tap import check_pooling
from stillsight.encoders.zoo import function
from stillsight.encoders.zoo.registry import make_backbone

THIRD_PARTY = """
from torch import nn
from stillsight.encoders import Backbone, Preprocessing

A_NUMBER = 3

def good():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3))
    stages = {"one": model[0], "two": model[1]}
    return Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="one", pooling="grid2")

def bare_network():
    return nn.Conv2d(3, 5, 3)

def wants(size, *more, depth, wide=True):
    return good()
"""


@pytest.fixture(scope="module", params=names())
def built(request: pytest.FixtureRequest) -> tuple[EncoderSpec, Backbone]:
    """Each row with its network, built once for all tests of this file."""
    name: str = request.param
    return ENCODERS[name], make_backbone(name)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A third party's module that Python can import from here."""
    (tmp_path / "their_eyes.py").write_text(THIRD_PARTY)
    (tmp_path / "broken_eyes.py").write_text("import a_package_that_nobody_wrote\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "their_eyes"
    sys.modules.pop("their_eyes", None)


def test_the_row_tells_the_truth_about_the_network(built: tuple[EncoderSpec, Backbone]) -> None:
    row, backbone = built
    assert list(row.stages) == list(backbone.stages)
    assert (row.tap, row.pooling) == (backbone.tap, backbone.pooling)
    assert row.tap == list(row.stages)[-1]
    assert row.summary


def test_the_defaults_for_agents_exist(built: tuple[EncoderSpec, Backbone]) -> None:
    row, _ = built
    tap, pooling = row.control
    assert row.check_tap(tap) == tap
    assert check_pooling(pooling) == pooling


def test_an_image_of_the_smallest_side_passes_each_stage(built: tuple[EncoderSpec, Backbone]) -> None:
    row, backbone = built
    backbone.model.eval()
    for side in sorted(set(row.stages.values())):
        reached = [stage for stage, least in row.stages.items() if least <= side]
        features = torch.rand(1, 3, side, side)
        with torch.no_grad():
            for stage in up_to(backbone, reached[-1]).values():
                features = stage(features)
        assert features.numel() > 0, (side, reached[-1])
        assert features.isfinite().all()


@pytest.mark.parametrize("name", ["nature", "squeezenet1_1"])
def test_one_pixel_less_cannot_pass_where_the_network_itself_refuses(name: str) -> None:
    # These two do not pad their first convolution, so the smallest side is a fact and not a choice.
    row, backbone = ENCODERS[name], make_backbone(name)
    network, side = torch.nn.Sequential(*backbone.stages.values()), row.stages[row.tap]
    with torch.no_grad():
        assert network(torch.rand(1, 3, side, side)).numel() > 0
        with pytest.raises(RuntimeError):
            network(torch.rand(1, 3, side - 1, side - 1))


def test_names_are_the_rows_in_order() -> None:
    assert names() == list(ENCODERS)
    assert all(row.name == name for name, row in ENCODERS.items())
    assert names()[0] == "retina", "the encoder that needs no download comes first"
    assert spec("resnet18") is ENCODERS["resnet18"]


def test_a_third_party_tells_of_itself_what_a_row_tells(module: str) -> None:
    record = spec(f"{module}:good")
    assert (list(record.stages), record.tap, record.pooling) == (["one", "two"], "one", "grid2")
    assert record.control == ("two", "grid6"), "maps as large as the image: agents look at the last of them"
    assert (record.weights, record.own) == (None, True)


@pytest.mark.parametrize(
    ("found", "near"), [("resnet81", "resnet18"), ("mobilnet_v2", "mobilenet_v2"), ("Retina", "retina")]
)
def test_a_slip_in_a_name_is_answered_with_the_nearest_one(found: str, near: str) -> None:
    with pytest.raises(EncoderError) as caught:
        spec(found)
    message = str(caught.value)
    assert f"There is no encoder named {found!r}." in message
    assert f"Did you mean {near!r}? Type: --encoder {near}." in message
    assert "--encoder module:function" in message
    assert all(name in message for name in names())


def test_a_name_that_is_near_nothing_gets_no_guess() -> None:
    with pytest.raises(EncoderError) as caught:
        spec("qqqqqqq")
    assert "Did you mean" not in str(caught.value)
    assert "retina, resnet18" in str(caught.value)


def test_a_slip_in_a_stage_is_answered_with_the_nearest_one() -> None:
    row = ENCODERS["resnet18"]
    assert row.check_tap("layer2") == "layer2"
    with pytest.raises(EncoderError) as caught:
        row.check_tap("layr2")
    message = str(caught.value)
    assert "There is no stage named 'layr2'. Did you mean 'layer2'? Type: --tap layer2." in message
    assert "resnet18 can be tapped at: stem, layer1, layer2, layer3, layer4." in message


def test_images_too_small_for_the_tap_are_refused_and_the_least_size_is_named() -> None:
    row = ENCODERS["resnet18"]
    row.check_size(16, "layer3")
    with pytest.raises(EncoderError) as caught:
        row.check_size(15, "layer3", "--resolution")
    assert str(caught.value) == (
        "resnet18 needs images of at least 16 px to reach layer3, and these have 15 px. "
        "Give larger images (--resolution), or an earlier stage (--tap)."
    )


@pytest.mark.parametrize(("side", "near"), [(84, 80), (100, 96), (17, 16)])
def test_sides_that_patches_do_not_fill_are_refused_with_the_nearest_that_they_do(side: int, near: int) -> None:
    ENCODERS["vit_b_16"].check_size(96, "norm")
    with pytest.raises(EncoderError, match=rf"patches of 16 px, and {side} px is not .* Add --resolution {near}\.$"):
        ENCODERS["vit_b_16"].check_size(side, "norm")


def test_both_sides_of_an_image_are_looked_at() -> None:
    row = ENCODERS["vit_b_16"]
    row.check_size((64, 96), "norm")
    with pytest.raises(
        EncoderError, match=r"90 px of the images of 64 x 90 px is not a multiple .* --resolution 64\.$"
    ):
        row.check_size((64, 90), "norm")
    with pytest.raises(EncoderError, match=r"takes images of 224 px alone, and these have 224 x 240 px\."):
        replace(row, fixed=224).check_size((224, 240), "norm")


@pytest.mark.parametrize(
    ("name", "tap", "patch"),
    [
        ("vit_tiny", "embed", 16),
        ("theia_tiny", "embed", 16),
        ("convnextv2_atto", "stem", 4),
        ("swin_t", "features.0", 4),
    ],
)
def test_what_patches_leave_over_is_not_cut_off_without_a_word(name: str, tap: str, patch: int) -> None:
    for mode in ("random", "scratch"):  # images come in before the cut, and behind it
        encoder = build(name, mode, tap=tap, pooling="global", device="cpu", precision="float32")
        assert len(encoder(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))) == 1
        with pytest.raises(EncoderError, match=rf"^{name} cuts images into patches of {patch} px, and 90 px of the"):
            encoder(torch.zeros(1, 3, 64, 90, dtype=torch.uint8))
    resized = build(name, "random", tap=tap, pooling="global", resolution=32, device="cpu", precision="float32")
    assert len(resized(torch.zeros(1, 3, 64, 90, dtype=torch.uint8))) == 1


@pytest.mark.parametrize(("name", "patch"), [("convnext_small", 4), ("wide_resnet50_2", 1)])
def test_patches_of_a_first_convolution_are_measured(name: str, patch: int) -> None:
    assert spec(name).multiple == patch


def test_a_third_partys_function_is_an_encoder_like_any_other(module: str) -> None:
    encoder = build(f"{module}:good", "random", device="cpu", precision="float32")
    assert (encoder.name, encoder.tap, encoder.pooling) == (f"{module}:good", "one", "grid2")
    assert encoder(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).shape == (2, 5 * 4)
    two = build(f"{module}:good", "random", tap="two", pooling="global", device="cpu", precision="float32")
    assert two(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).shape == (2, 7)


def test_a_third_party_that_returns_something_else_is_told_what_to_return(module: str) -> None:
    with pytest.raises(EncoderError, match=r"their_eyes:bare_network returned Conv2d; it must return .*Backbone\("):
        make_backbone(f"{module}:bare_network")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a_module_that_is_not_there:f", "cannot be imported: No module named 'a_module_that_is_not_there'"),
        ("broken_eyes:f", "cannot be imported: No module named 'a_package_that_nobody_wrote'"),
        ("their_eyes:wants", "their_eyes:wants wants size, depth, and is called without it. Give it a default"),
        ("their_eyes:nothing", "The module 'their_eyes' has no function 'nothing'. Give --encoder module:function."),
        ("their_eyes:", "The module 'their_eyes' has no function ''. Give --encoder module:function."),
        (":good", "--encoder module:function"),
        (".their_eyes:good", "From its folder, type: --encoder their_eyes:good"),
        ("their_eyes:A_NUMBER", "their_eyes:A_NUMBER"),
    ],
)
def test_a_third_party_that_is_not_there_is_one_sentence(module: str, path: str, message: str) -> None:
    assert module == "their_eyes"
    with pytest.raises(EncoderError) as caught:
        make_backbone(path)
    assert message in str(caught.value)


def test_builder_imports_the_function_itself() -> None:
    from stillsight.encoders.zoo.retina import retina

    assert function.load("stillsight.encoders.zoo.retina:retina") is retina


@pytest.mark.parametrize(
    "module",
    ["stillsight.encoders", "stillsight.encoders.zoo.registry", "stillsight.encoders.config",
     "stillsight.encoders.mode",
     "stillsight.encoders.supervised.cifar_config"],
)  # fmt: skip
def test_the_flags_are_checked_without_torch(module: str) -> None:
    code = f"import sys, {module} as m; from stillsight.encoders import spec; spec('resnet18').check_size(64, 'stem')\n"
    code += "print(sorted({'torch', 'torchvision', 'numpy', 'safetensors'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_network_does_import_torch_so_the_check_above_can_fail() -> None:
    code = "import sys, stillsight.encoders as e; e.Encoder; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_every_public_name_is_there_and_others_are_not() -> None:
    import stillsight.encoders as encoders

    for name in encoders.__all__:
        assert getattr(encoders, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        encoders.biuld  # noqa: B018


def test_airbench_is_the_network_of_the_paper() -> None:
    """2.0 million parameters and 31, 15, 7 and 3 px maps for CIFAR's 32 (Jordan 2024, section 3.1 and its listing)."""
    backbone = make_backbone("airbench")
    sizes = []
    maps = torch.zeros(1, 3, 32, 32)
    for stage in backbone.stages.values():
        maps = stage(maps)
        sizes.append((maps.shape[1], maps.shape[3]))
    assert sizes == [(24, 31), (64, 15), (256, 7), (256, 3)]
    assert sum(parameter.numel() for parameter in backbone.model.parameters()) == 1_970_232
