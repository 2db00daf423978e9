"""A third party's function is an encoder like any other: early tap, weights of its own, and random where it must be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stillsight.encoders import (
    Backbone,
    EncoderConfig,
    EncoderError,
    Mode,
    Preprocessing,
    build,
    fingerprint,
    spec,
)
from stillsight.encoders.errors import say_once
from stillsight.encoders.zoo.function import describe

THEIRS = """
import torch
from torch import nn
from stillsight.encoders import Backbone, Preprocessing

def network():
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)]
    return nn.Sequential(*layers)

def stages(model):
    return {f"stage{index}": layer for index, layer in enumerate(model)}

def good(**more):
    model = network()
    return Backbone(model=model, stages=stages(model), preprocessing=Preprocessing(), tap="stage3", **more)

def told():
    return good(control=("stage1", "grid3"))

def vectors():
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    model(torch.zeros(1, 3, 8, 8))
    both = {"flat": model[0], "dense": model[1]}
    return Backbone(model=model, stages=both, preprocessing=Preprocessing(), tap="dense")

def fill(model):
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) + number)
    return model

def filed():
    return good(weights=str(FILE), licence="theirs alone")

CHANGED = None

def honest(pretrained=True):
    backbone = good(pretrained=pretrained, licence="CC BY 4.0")
    if pretrained:
        fill(backbone.model)
    if CHANGED is not None:
        backbone.model[CHANGED].bias.data += 1
    return backbone

def silent():
    backbone = good(pretrained=True, licence="CC BY 4.0")
    fill(backbone.model)
    return backbone

def undeclared():
    backbone = good()
    fill(backbone.model)
    return backbone

class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 8, 1, 1))

    def forward(self, maps):
        return maps + self.table

def stubborn():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Positions())
    fill(model)
    return Backbone(model=model, stages=stages(model), preprocessing=Preprocessing(), tap="stage1", pretrained=True)

def headed():
    trunk, head = network(), nn.Linear(2000, 200)
    fill(trunk)
    model = nn.ModuleDict({"trunk": trunk, "head": head})
    return Backbone(model=model, stages=stages(trunk), preprocessing=Preprocessing(), tap="stage3", pretrained=True)

def partly():
    backbone = good(pretrained=True)
    fill(backbone.model[0])
    return backbone

def measured():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8, affine=False))
    model[1].running_mean.copy_(torch.linspace(-1, 1, 8))
    return Backbone(model=model, stages=stages(model), preprocessing=Preprocessing(), tap="stage1", pretrained=True)

def computed():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Positions())
    model[1].table = nn.Parameter(torch.linspace(-1, 1, 8).view(1, 8, 1, 1))
    return Backbone(model=model, stages=stages(model), preprocessing=Preprocessing(), tap="stage1")

def told_computed(pretrained=True):
    return computed()

def forgetful(pretrained=True):
    return good()

def declared():
    return good(least={"stage0": 20})

def valid():
    layers = [nn.Conv2d(3, 8, 5, 2), nn.Conv2d(8, 8, 5, 2), nn.MaxPool2d(4)]
    model = nn.Sequential(*layers)
    return Backbone(model=model, stages=stages(model), preprocessing=Preprocessing(), tap="stage2")

class Numeric(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 7, 2)
        self.scale = torch.ones(1)

    def forward(self, images):
        return self.layer(images) * (self.scale if images.sum().item() < 1e9 else 2)

def numeric():
    model = nn.Sequential(Numeric(), nn.BatchNorm2d(8))
    return Backbone(model=model, stages=stages(model), preprocessing=Preprocessing(), tap="stage1")

def windows():
    model = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.PixelUnshuffle(4))
    return Backbone(model=model, stages=stages(model), preprocessing=Preprocessing(), tap="stage1")

def one_size():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 32 * 32, 4))
    recipe = Preprocessing(size=64)
    return Backbone(model=model, stages=stages(model), preprocessing=recipe, tap="stage2")

def astray():
    model = network()
    return Backbone(model=model, stages=stages(model), preprocessing=Preprocessing(), tap="stage9")
"""
LINES = [torch.linspace(-1, 1, 3 * 8 * 9).view(8, 3, 3, 3), torch.linspace(-1, 1, 8) + 1]


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Their module, importable as `strangers`, with a weights file beside it."""
    file = tmp_path / "theirs.safetensors"
    (tmp_path / "strangers.py").write_text(THEIRS.replace("FILE", repr(str(file))))
    torch.manual_seed(5)
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)]
    save_file(nn.Sequential(*layers).state_dict(), file)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file
    sys.modules.pop("strangers", None)


@pytest.mark.usefixtures("theirs")
def test_agents_look_where_places_are_still_apart() -> None:
    assert spec("strangers:good").control == ("stage2", "grid6"), "an eighth of the image's side: 6 places of 48 px"
    assert spec("strangers:told").control == ("stage1", "grid3"), "what its author says goes first"
    assert spec("strangers:vectors").control == ("dense", "global"), "no maps, no places"
    chosen = EncoderConfig(encoder="strangers:good").for_control()
    assert (chosen.tap, chosen.pooling) == ("stage2", "grid6")


@pytest.mark.usefixtures("theirs")
def test_where_nothing_can_be_measured_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    say_once.cache_clear()
    assert spec("strangers:vectors").control == ("dense", "global")
    assert capsys.readouterr().err == (
        "stillsight: no image of 48 or 96 or 224 px passes through all stages of strangers:vectors, so where agents "
        "should look is not measured: they take its author's --tap dense --pooling global, or what you type. "
        "Backbone(control=(TAP, POOLING)) says it for good.\n"
    )
    for name in ("good", "told"):
        spec(f"strangers:{name}")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("name", "least", "multiple", "fixed"),
    [
        ("good", [2, 4, 8, 16], 1, None),  # a pixel of what a stage hands on stands for as many
        ("declared", [20, 4, 8, 16], 1, None),  # what its author says holds
        ("valid", [5, 13, 25], 1, None),
        ("numeric", [7, 7], 1, None),
        ("windows", [8, 8], 8, None),
        ("one_size", [64, 64, 64], 1, 64),
        ("vectors", [1, 1], 1, None),  # made for 8 px, which nobody says
    ],
)
def test_the_smallest_images_are_measured(name: str, least: list[int], multiple: int, fixed: int | None) -> None:
    before = torch.get_rng_state()
    record = spec(f"strangers:{name}")
    assert (list(record.stages.values()), record.multiple, record.fixed) == (least, multiple, fixed)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("theirs")
def test_images_that_are_too_small_are_refused_before_anything_is_built() -> None:
    with pytest.raises(EncoderError, match=r"needs images of at least 25 px to reach stage2, and these have 24 px"):
        EncoderConfig(encoder="strangers:valid", mode=Mode.SCRATCH).check_encoder(24)


@pytest.mark.usefixtures("theirs")
def test_a_default_tap_that_is_no_stage_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"no stage named 'stage9'.* Did you mean 'stage3'"):
        spec("strangers:astray")


def test_weights_of_its_own_are_found_like_anybody_elses(theirs: Path) -> None:
    encoder = build("strangers:filed", device="cpu", precision="float32")
    assert (encoder.provenance.kind, encoder.provenance.name) == ("file", theirs.name)
    assert encoder.provenance.licence == "theirs alone"
    again = build("strangers:filed", weights=theirs, device="cpu", precision="float32")
    assert again.sha256() == encoder.sha256()
    theirs.unlink()
    with pytest.raises(EncoderError, match=r"There is no file .*theirs\.safetensors"):
        build("strangers:filed", device="cpu")


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("name", ["honest", "silent"])
def test_what_a_function_loads_itself_is_frozen_and_told_with_its_licence(name: str) -> None:
    encoder = build(f"strangers:{name}", device="cpu", precision="float32")
    first = encoder.state()
    assert torch.equal(first["0.weight"], LINES[0])
    assert torch.equal(first["0.bias"], LINES[1])
    provenance = encoder.provenance
    assert (provenance.kind, provenance.name, provenance.licence) == ("function", f"strangers:{name}", "CC BY 4.0")
    assert len(provenance.sha256) == 64


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("changed", [None, 0, 1, 2, 3])
def test_the_hash_of_what_a_function_loads_is_of_all_its_stages(
    changed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which hold parameters of the same names, `weight` and `bias`."""
    before = build("strangers:honest", device="cpu").provenance.sha256
    monkeypatch.setattr(sys.modules["strangers"], "CHANGED", changed)
    assert (build("strangers:honest", device="cpu").provenance.sha256 == before) == (changed is None)


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("name", ["good", "honest", "silent", "undeclared", "filed"])
@pytest.mark.parametrize("mode", ["random", "scratch"])
def test_random_weights_are_the_seed_s_and_nobody_else_s(name: str, mode: str) -> None:
    made = [build(f"strangers:{name}", mode, seed=seed, device="cpu", precision="float32") for seed in (0, 1, 0)]
    hashes = [fingerprint(encoder.state()) for encoder in made]
    assert hashes[0] == hashes[2] != hashes[1]
    assert not torch.equal(made[0].state()["0.weight"], LINES[0])
    assert made[0].provenance.kind == "random"
    assert ("layer by layer" in made[0].provenance.name) == (name in ("silent", "undeclared"))


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(("name", "learned"), [("headed", "trunk.0.weight"), ("partly", "0.weight")])
def test_a_pretrained_trunk_is_not_kept_because_much_beside_it_is_random(name: str, learned: str) -> None:
    made = [build(f"strangers:{name}", "random", seed=seed, device="cpu", precision="float32") for seed in (0, 1)]
    for encoder in made:
        assert not torch.equal(encoder.state()[learned], LINES[0])
        assert encoder.provenance.name.endswith("initialised layer by layer")
    first, second = (encoder.state() for encoder in made)
    assert [name for name in first if torch.equal(first[name], second[name])] == []
    assert torch.equal(build(f"strangers:{name}", device="cpu").state()[learned], LINES[0])


@pytest.mark.usefixtures("theirs")
def test_learned_statistics_are_not_kept_either() -> None:
    assert build("strangers:measured", device="cpu").state()["1.running_mean"].abs().sum() > 1
    assert build("strangers:measured", "random", device="cpu").state()["1.running_mean"].tolist() == [0.0] * 8


@pytest.mark.usefixtures("theirs")
def test_parameters_that_are_computed_stay_where_the_function_is_told_that_nothing_shall_be_loaded() -> None:
    encoder = build("strangers:told_computed", "random", device="cpu", precision="float32")
    assert torch.equal(encoder.state()["1.table"].flatten(), torch.linspace(-1, 1, 8))
    with pytest.raises(EncoderError, match=r"same ones under every seed.* 1 has no reset_parameters.* argument pre"):
        build("strangers:computed", "random", device="cpu")


@pytest.mark.usefixtures("theirs")
def test_weights_that_cannot_be_made_random_are_refused() -> None:
    assert build("strangers:stubborn", device="cpu").provenance.kind == "function"
    with pytest.raises(EncoderError, match=r"same ones under every seed.* 1 has no reset_parameters.* argument pre"):
        build("strangers:stubborn", "random", device="cpu")


@pytest.mark.usefixtures("theirs")
def test_a_function_that_forgets_to_load_what_it_was_asked_for_is_no_silent_random_network() -> None:
    with pytest.raises(EncoderError, match=r"called with pretrained=True, and its Backbone does not say pretrained"):
        build("strangers:forgetful", device="cpu")
    with pytest.raises(EncoderError, match=r"strangers:good says of no pretrained weights"):
        EncoderConfig(encoder="strangers:good").check_encoder()


class Derived(nn.Module):
    """Computes with twice its weights, which its author derives whenever weights were loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4)
        self.derive()
        self.register_load_state_dict_post_hook(lambda module, _: module.derive())

    def derive(self) -> None:
        self.doubled = self.conv.weight.detach() * 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(images, self.doubled, self.conv.bias, stride=4)


def derived() -> Backbone:
    """See `Derived`."""
    model = Derived()
    return Backbone(model=model, stages={"only": model}, preprocessing=Preprocessing(), tap="only")


def deaf() -> Backbone:
    """Takes no weights."""
    backbone = derived()

    def refuse(*_: object) -> None:
        raise RuntimeError("nothing goes in here")

    backbone.model.register_load_state_dict_pre_hook(refuse)
    return backbone


def test_weights_go_through_the_authors_own_load_state_dict(tmp_path: Path) -> None:
    torch.manual_seed(7)
    theirs = Derived()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    theirs.load_state_dict(theirs.state_dict())
    built = build(f"{__name__}:derived", weights=tmp_path / "w.safetensors", device="cpu", precision="float32")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(built(pixels), theirs(pixels / 255).mean((2, 3)))
    with pytest.raises(
        EncoderError, match=r"load_state_dict of .*:deaf does not take .* \(RuntimeError: nothing goes in"
    ):
        build(f"{__name__}:deaf", weights=tmp_path / "w.safetensors", device="cpu")


def _patches(class_tokens: int) -> Backbone:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.first = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.ones(1, 1, 8))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.cut(images).flatten(2).transpose(1, 2)
            return torch.cat([self.first.expand(len(tokens), -1, -1), tokens], 1)

    model = Patches()
    return Backbone(
        model=model,
        stages={"cut": model},
        preprocessing=Preprocessing(),
        tap="cut",
        class_tokens=class_tokens,
        multiple=8,
    )


def one_token() -> Backbone:
    return _patches(1)


def token_untold() -> Backbone:
    return _patches(0)


def test_a_class_token_that_is_not_told_is_refused() -> None:
    """The failure it prevents: it is averaged in with the patches."""
    assert describe(f"{__name__}:one_token").tap == "cut"
    with pytest.raises(EncoderError, match=r"says class_tokens=0\. Let it say class_tokens=1"):
        describe(f"{__name__}:token_untold")


def damaged(pretrained: bool = False) -> Backbone:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1))
    if pretrained:
        model[0].weight.data[0] = float("nan")
    return Backbone(
        model=model, stages={"one": model[0]}, preprocessing=Preprocessing(), tap="one", pretrained=pretrained
    )


def raising() -> Backbone:
    raise FileNotFoundError("hawk.pth")


def test_weights_of_theirs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(EncoderError, match="not finite"):
        build(f"{__name__}:damaged", device="cpu")


def test_what_a_function_raises_is_a_sentence_with_its_line() -> None:
    with pytest.raises(EncoderError, match=r":raising raised .*hawk\.pth.*, in .*test_function\.py, line \d+\. Mend"):
        describe(f"{__name__}:raising")
