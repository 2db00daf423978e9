"""Reference weights: matched with what a network holds, and the mark that orthogonal initialisation leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stillsight.agents.diagnosis.reference_weights import distance, match


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.sampled_from([0.01, 1.0, 2**0.5]), st.integers(0, 99))
def test_the_mark_of_orthogonal_initialisation(rows: int, columns: int, gain: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(rows, columns, 1, 1)
    nn.init.orthogonal_(weight, gain, generator=generator)
    marked = distance(weight)
    assert marked is not None
    assert marked < 1e-6
    plain = distance(torch.randn(rows, columns, generator=generator))
    assert plain is not None
    assert plain > 0.1
    assert distance(weight[:3]) is None
    assert distance(torch.zeros(rows, columns)) is None


@pytest.mark.real_data
def test_real_pretrained_weights_bear_no_such_mark(shared: Path) -> None:
    from safetensors.torch import load_file

    for path in sorted((shared / "weights").glob("*.safetensors")):
        distances = [distance(tensor) for tensor in load_file(path).values() if tensor.dim() == 4]
        assert len(distances) > 15
        assert min(d for d in distances if d is not None) > 0.25, path.name


def test_references_are_matched_by_name_and_where_names_are_lost_by_order() -> None:
    whole = torchvision.models.resnet18(weights=None)
    cut = nn.Sequential(*list(whole.children())[:-2])
    found = match(whole.state_dict(), cut.state_dict(), "net")
    assert len(found) == len([name for name in cut.state_dict() if not name.endswith("num_batches_tracked")])
    assert all(torch.equal(found[name], tensor) for name, tensor in cut.state_dict().items() if name in found)
    # bn1.weight of the stem is the end of layer1.0.bn1.weight, and of the same shape: the longest end wins.
    wrapped = match(whole.state_dict(), {f"net.{k}": v for k, v in whole.state_dict().items()}, "net")
    assert wrapped["net.layer1.0.bn1.weight"] is not wrapped["net.bn1.weight"]
    assert all(torch.equal(value, whole.state_dict()[name.removeprefix("net.")]) for name, value in wrapped.items())
