"""Reference weights: matched with what a network holds, and the mark that orthogonal initialisation leaves."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from stillsight.agents.diagnosis.reference_weights import differing, distance, match, read_references


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


def thin_densenet() -> nn.Module:
    return torchvision.models.DenseNet(growth_rate=4, block_config=(2, 3), num_init_features=8, num_classes=3)


def thin_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=12, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
    )


NETWORKS = {"DenseNet": (thin_densenet, "features"), "ViT": (thin_vit, "encoder")}
"""Networks whose files have former names -> how to make one, and a part of it."""


def former(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict as the file that torchvision publishes has it."""
    names = {name: re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", name) for name in state}
    names = {
        name: old.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.") for name, old in names.items()
    }
    return {old: state[name] for name, old in names.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("file_prefix", "prefix"), [("", ""), ("model.", ""), ("", "net.")])
def test_references_of_former_names_are_matched_by_name(
    network: str, file_prefix: str, prefix: str, tmp_path: Path
) -> None:
    """In whatever order they lie: by it, blocks with tensors of equal shapes are taken for each other."""
    make, _ = NETWORKS[network]
    torch.manual_seed(1)
    whole = {name: torch.randn_like(tensor.float()) for name, tensor in make().state_dict().items()}
    given = list(former(whole).items())
    assert [name for name, _ in given if name not in whole], "the file has former names"
    random.Random(3).shuffle(given)
    references = {file_prefix + name: tensor for name, tensor in given}
    held = {prefix + name: tensor.clone() for name, tensor in whole.items()}
    save_file(references, tmp_path / "reference.safetensors")
    for found in (
        match(references, held, "net"),
        match(read_references(tmp_path / "reference.safetensors"), held, "net"),
    ):
        assert set(found) == {name for name in held if not name.endswith("num_batches_tracked")}
        assert not differing(found, held)
    moved = next(name for name in held if re.search(r"mlp\.3\.weight|denselayer2\.conv2\.weight", name))
    held[moved] = held[moved] + 1
    assert differing(match(references, held, "net"), held) == [moved]


@pytest.mark.parametrize("network", NETWORKS)
def test_a_part_of_a_network_finds_its_references_of_former_names(network: str) -> None:
    make, part = NETWORKS[network]
    model = make()
    held = model.get_submodule(part).state_dict()
    given = list(former({name: tensor + 0.5 for name, tensor in model.state_dict().items()}).items())
    random.Random(3).shuffle(given)
    found = match(dict(given), held, "net")
    assert set(found) == {name for name in held if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(found[name], held[name] + 0.5) for name in found)
