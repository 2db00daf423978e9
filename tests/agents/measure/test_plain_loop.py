"""The plain loop trains the same network on the same images, so that its time is a fair comparison."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from stillsight.agents.measure import cifar_throughput as throughput
from stillsight.agents.measure import plain_loop as plain
from stillsight.agents.measure.cifar_throughput_config import CifarThroughputConfig
from stillsight.encoders import EncoderError, build
from stillsight.encoders.supervised.classifier import Classifier
from stillsight.encoders.supervised.data.split import Dataset
from stillsight.encoders.supervised.training.recipe import Recipe

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("settings_restored")


def classifier(**options: Any) -> Classifier:
    defaults: dict[str, Any] = {"tap": "layer1", "pinned": False, "device": "cpu", "precision": "float32"}
    return Classifier(build("retina", "scratch", **(defaults | options)), 3, 64)


@pytest.mark.parametrize("unfreeze", ["all", "layer1"])
def test_plain_pixels_through_the_plain_network_are_the_same_function(colours: Dataset, unfreeze: str) -> None:
    model = classifier(unfreeze=unfreeze).eval()
    still = Recipe(crop=0, flip=False)
    pictures = plain.Pictures(colours.train, plain.transform(model, still, 32))
    inputs = torch.stack([pictures[index][0] for index in range(len(pictures))])
    assert [pictures[index][1] for index in range(3)] == [0, 1, 2]
    network = plain.network(model).eval()
    with torch.no_grad():
        assert torch.allclose(network(inputs), model(colours.train.images), atol=1e-5)
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert learning == sum(p.numel() for p in model.parameters() if p.requires_grad), "the same part learns"


def test_each_flag_of_the_recipe_is_a_transform_of_one_image(colours: Dataset) -> None:
    recipe = Recipe(rotation=10.0, randaugment=9, erasing=0.5)
    found = plain.transform(classifier(resolution=16), recipe, 32)
    kinds = [type(step) for step in found.transforms]
    assert kinds == [
        v2.RandomCrop, v2.RandomHorizontalFlip, v2.RandomRotation, v2.RandAugment, v2.Resize, v2.PILToTensor,
        v2.ToDtype, v2.Normalize, v2.RandomErasing,
    ]  # fmt: skip
    image, _ = plain.Pictures(colours.train, found)[0]
    assert (image.shape, image.dtype) == ((3, 16, 16), torch.float32)
    images, targets = plain.mixed([(image, 1), (image, 2)], Recipe(mixup=0.5), 3)
    assert (images.shape, targets.shape) == ((2, 3, 16, 16), (2, 3))


@pytest.mark.parametrize(("mode", "unfreeze", "moves"), [("random", None, {"4"}), ("scratch", "layer1", {"1", "4"})])
def test_what_is_frozen_stays_as_it_is_in_the_plain_loop(
    colours: Dataset, monkeypatch: pytest.MonkeyPatch, mode: Any, unfreeze: str | None, moves: set[str]
) -> None:
    encoder = build("retina", mode, tap="layer1", unfreeze=unfreeze, pinned=False, device="cpu", precision="float32")
    model = Classifier(encoder, 3, 64)
    trained = plain.network(model)
    before = copy.deepcopy(trained.state_dict())
    monkeypatch.setattr(plain, "network", lambda _: trained)
    next(plain.plain_epochs(model, colours.train, Recipe(batch=12, precision="float32").resolved(False), CPU, 0))
    moved = {name.split(".")[0] for name, tensor in trained.state_dict().items() if not tensor.equal(before[name])}
    # stem, layer1, pooling, dropout, head: in train mode BatchNorm's statistics in the stem would move.
    assert moved == moves


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_both_ways_learn_while_they_are_timed(colours: Dataset, optimizer: Any) -> None:
    model = classifier()
    recipe = Recipe(batch=12, optimizer=optimizer, precision="float32").resolved(False)
    before = copy.deepcopy(model.state_dict())
    for arm in (
        plain.plain_epochs(model, colours.train, recipe, CPU, 0),
        throughput.our_epochs(copy.deepcopy(model), colours.train, recipe, 0),
    ):
        assert all(0 < rate < float("inf") for rate in itertools.islice(arm, 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "copies are trained"


def test_a_comparison_is_made_in_turns_and_the_first_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, float]] = []
    rates = {"plain": iter([1.0, 10.0, 20.0, 20.0]), "ours": iter([1000.0, 30.0, 20.0, 80.0])}
    monkeypatch.setattr(throughput, "plain_epochs", lambda *_: rates["plain"])
    monkeypatch.setattr(throughput, "our_epochs", lambda *_: rates["ours"])
    config = CifarThroughputConfig(rounds=3, updates=1, batch=2, threads=1, device="cpu", precisions=("float32",))
    found = throughput.compare(config, lambda name, rate: shown.append((name, rate)))
    assert shown == [
        (f"{name} float32", rate)
        for name, rate in [("plain", 10), ("ours", 30), ("plain", 20), ("ours", 20), ("plain", 20), ("ours", 80)]
    ]
    assert found["unit"] == "images/s"
    assert found["arms"]["plain float32"] == {"median": 20.0, "least": 10.0, "most": 20.0, "rounds": [10, 20, 20]}
    assert found["ratios"] == {"ours float32 / plain float32": {"median": 3.0, "least": 1.0, "most": 4.0}}
    assert (found["encoder"], found["resolution"], found["batch"], found["threads"]) == ("retina", 32, 2, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": Path("data")}, r"--mode scratch is timed on noise, .* Type --mode frozen, or drop --data\.$"),
        ({"updates": 0}, "--updates and --rounds must be 1 or more"),
        ({"workers": -1}, "--workers 0 or more"),
        ({"precisions": ()}, "--precisions name one"),
        ({"crop": 40}, "--crop 40 shifts images of 32 px"),
        ({"encoder": "nature"}, "nature needs images of at least 36 px"),
    ],
)
def test_what_measures_nothing_is_refused(changes: dict[str, Any], words: str) -> None:
    CifarThroughputConfig().check()
    with pytest.raises(EncoderError, match=words):
        CifarThroughputConfig(**changes).check()
