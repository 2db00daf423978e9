"""What an encoder costs, beside the figures that its authors and torchvision publish."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from stillsight.encoders import EncoderError, build
from stillsight.encoders.engines.cost import measure

PUBLISHED = {
    "resnet18": (11_689_512, 1.814),
    "resnet50": (25_557_032, 4.089),
    "mobilenet_v2": (3_504_872, 0.301),
    "mobilenet_v3_small": (2_542_856, 0.057),
    "efficientnet_b0": (5_288_548, 0.386),
    "convnext_tiny": (28_589_128, 4.456),
    "squeezenet1_1": (1_235_496, 0.349),
    "vit_b_16": (86_567_656, 17.564),
}
"""Encoder -> parameters and 1e9 multiply-adds at 224 px, as torchvision publishes them with its weights."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_counted_is_what_is_published(name: str) -> None:
    parameters, published = PUBLISHED[name]
    cost = measure(name, 224)
    assert cost.parameters == parameters
    last = list(cost.stages.values())[-1]
    # Behind the last stage is the classifier: a linear layer uses each weight once, SqueezeNet's at 13 x 13 places.
    classifier = (cost.parameters - last.parameters) * (13 * 13 if name == "squeezenet1_1" else 1)
    assert (last.multiply_adds + classifier) / 1e9 == pytest.approx(published, rel=0.01)
    assert all(parameter.is_meta for parameter in cost.backbone.model.parameters())


def test_the_published_figures_are_torchvisions() -> None:
    from torchvision.models import get_model_weights

    for name, (parameters, billions) in PUBLISHED.items():
        meta = get_model_weights(name).DEFAULT.meta
        assert (meta["num_params"], meta["_ops"]) == (parameters, billions)


def test_each_stage_says_what_has_been_computed_up_to_it() -> None:
    cost = measure("resnet18")
    assert cost.side == 224
    shapes = {name: stage.shape for name, stage in cost.stages.items()}
    assert shapes == {
        "stem": (64, 56, 56),
        "layer1": (64, 56, 56),
        "layer2": (128, 28, 28),
        "layer3": (256, 14, 14),
        "layer4": (512, 7, 7),
    }
    stem = cost.stages["stem"]
    assert stem.multiply_adds == 64 * 112 * 112 * 3 * 7 * 7
    assert stem.parameters == 64 * 3 * 7 * 7 + 2 * 64
    adds = [stage.multiply_adds for stage in cost.stages.values()]
    assert adds == sorted(adds)
    assert cost.stages["layer4"].parameters == 11_689_512 - 513_000


@pytest.mark.parametrize(
    ("name", "tap", "pooling"),
    [
        ("retina", "layer2", "grid6"),
        ("vit_b_16", "block0", "cls"),
        ("retina", "layer2", "attention4"),
        ("retina", "layer2", "conv64"),
        ("vit_b_16", "block0", "attention2"),
        ("vit_b_16", "block0", "conv3"),
        ("retina", "layer1,layer2", "conv3, grid2"),
    ],
)
def test_the_features_are_as_wide_as_the_encoders_own(name: str, tap: str, pooling: str) -> None:
    cost = measure(name, 64)
    encoder = build(name, "random", tap=tap, pooling=pooling, device="cpu")
    features = encoder(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    state = torch.random.get_rng_state()
    assert cost.features(tap, pooling) == features.shape[1]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert cost.stages[tap.rpartition(",")[2]].dims == (768 if name == "vit_b_16" else 128)


def test_a_size_that_is_too_small_for_a_stage_ends_there() -> None:
    assert list(measure("nature", 20).stages) == ["conv1", "conv2"]
    with pytest.raises(EncoderError, match="nature needs images of at least 8 px to reach conv1"):
        measure("nature", 4)


OWN = """
import torch
from torch import nn
from stillsight.encoders import Backbone, Preprocessing


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4)

    def forward(self, images):
        return self.conv(images) * (1.0 if images.sum() < 1e9 else 2.0)  # which has no value on the device meta


def odd():
    model = nn.Sequential(Odd())
    return Backbone(model=model, stages={"low": model[0]}, preprocessing=Preprocessing(size=32), tap="low")
"""


def test_a_network_that_needs_numbers_is_counted_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_costs.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    state = torch.random.get_rng_state()
    cost = measure("odd_costs:odd")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert cost.stages["low"].multiply_adds == 8 * 8 * 8 * 27
    assert cost.parameters == 8 * 27 + 8
    told = "odd_costs:odd needs images of at least 4 px to reach low, and these have 2 px"
    with pytest.raises(EncoderError, match=told):
        measure("odd_costs:odd", 2)
    del sys.modules["odd_costs"]


def test_there_is_no_such_encoder() -> None:
    with pytest.raises(EncoderError, match="There is no encoder named 'resnet81'"):
        measure("resnet81")
