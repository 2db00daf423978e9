"""A family is one file that the registry finds by itself, and what stands in it is told without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillsight.encoders import ENCODERS
from stillsight.encoders.zoo import families, function, registry
from stillsight.encoders.zoo.encoder_spec import EncoderSpec

FAMILY = """
from stillsight.encoders.zoo.encoder_spec import EncoderSpec

ROWS = (
    EncoderSpec(
        name="pinhole", family="Pinhole", builder=f"{__name__}:pinhole", stages={"hole": 4}, tap="hole",
        control=("hole", "grid2"), summary="a family in one file",
    ),
)

def pinhole():
    from torch import nn
    from stillsight.encoders import Backbone, Preprocessing
    model = nn.Sequential(nn.Conv2d(3, 2, 4, 4))
    return Backbone(model=model, stages={"hole": model[0]}, preprocessing=Preprocessing(), tap="hole")
"""


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, EncoderSpec]]:
    """The rows when one file more lies in the room of families."""
    (tmp_path / "pinhole_family.py").write_text(FAMILY)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    yield registry.discover()
    sys.modules.pop(f"{families.__name__}.pinhole_family", None)


def test_one_file_adds_a_family(family: dict[str, EncoderSpec]) -> None:
    assert set(family) - set(ENCODERS) == {"pinhole"}
    assert list(family)[: len(ENCODERS)] == list(ENCODERS), "the order of the others is as it was"
    row = family["pinhole"]
    assert function.call(row.builder, row.arguments).tap == "hole"


def test_two_rows_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "double.py").write_text(FAMILY.replace('"pinhole"', '"resnet18"'))
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match="second row named resnet18"):
        registry.discover()
    sys.modules.pop(f"{families.__name__}.double", None)


def test_rows_are_told_without_torch() -> None:
    code = "import sys; from stillsight.encoders.zoo import registry; len(registry.ENCODERS); "
    code += "print(sorted({'torch', 'torchvision', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_every_row_says_its_family_and_how_its_weights_may_be_used() -> None:
    for row in ENCODERS.values():
        assert row.family, row.name
        assert row.licence or row.weights is None or "_Weights." in row.weights or row.weights == "shipped", row.name
        assert row.accept == any(word in row.licence for word in ("NC", "DINOv3", "AMLR")), row.name


def test_the_first_fourteen_rows_mean_what_they_meant() -> None:
    """Names, taps and poolings that old run folders hold."""
    defaults = {
        "retina": "layer3 global layer2 grid6",
        "resnet18": "layer4 global layer2 grid6",
        "resnet50": "layer4 global layer2 grid6",
        "mobilenet_v2": "features.18 global features.6 grid6",
        "mobilenet_v3_small": "features.12 global features.3 grid6",
        "mobilenet_v3_large": "features.16 global features.6 grid6",
        "squeezenet1_1": "features.12 global features.7 grid6",
        "efficientnet_b0": "features.8 global features.3 grid6",
        "convnext_tiny": "features.7 global features.3 grid6",
        "vit_b_16": "norm cls block5 grid4",
        "nature": "conv3 flatten conv3 flatten",
        "impala": "block3 flatten block3 flatten",
        "airbench": "block3 global block2 grid6",
    }
    rows = {name: ENCODERS[name] for name in defaults}
    assert {name: f"{row.tap} {row.pooling} {' '.join(row.control)}" for name, row in rows.items()} == defaults
