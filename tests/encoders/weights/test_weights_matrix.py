"""What people's own weights files do: every kind of file in every format, and what is said of it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stillsight.encoders import Backbone, EncoderError, Preprocessing, build, fingerprint
from stillsight.encoders.weights.fitting import load_into
from stillsight.encoders.zoo.registry import make_backbone

TAP = "layer1"
State = dict[str, Tensor]


@functools.cache
def whole(name: str, seed: int = 11) -> State:
    torch.manual_seed(seed)
    return {key: tensor.detach() for key, tensor in make_backbone(name).model.state_dict().items()}


def right() -> State:
    """resnet18 to its first stage, with a head that nobody needs: small enough to be written many times."""
    kept = ("conv1", "bn1", "layer1", "fc")
    return {name: tensor for name, tensor in whole("resnet18").items() if name.split(".")[0] in kept}


def prefixed(prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in right().items()}


def deeper() -> State:
    kept = ("conv1", "bn1", "layer1", "fc")
    return {name: tensor for name, tensor in whole("resnet34").items() if name.split(".")[0] in kept}


def wider() -> State:
    state = right()
    state["layer1.0.conv1.weight"] = torch.randn(128, 64, 3, 3)
    return state


def integer() -> dict[str, Tensor]:
    """As quantised files are: int8 weights with scales beside them, in tensors of the right shapes."""
    state = right()
    state["layer1.0.conv1.weight"] = torch.randint(-128, 127, (64, 64, 3, 3), dtype=torch.int8)
    return state


def eight_bits() -> State:
    return right() | {"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3).to(torch.float8_e4m3fn)}


def nan_in_the_head() -> State:
    return right() | {"fc.bias": torch.full((1000,), float("nan"))}


def nan() -> State:
    state = {name: tensor.clone() for name, tensor in right().items()}
    state["bn1.weight"][3] = float("nan")
    return state


FINE = "fine"
OTHER = r"are of another network than resnet18, which has no layer1\.2\."
CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "right": (right, FINE),
    "deeper": (deeper, OTHER),
    "wider": (wider, r"do not fit resnet18: layer1\.0\.conv1\.weight has shape \(128, 64, 3, 3\), and resnet18 needs"),
    "other family": (
        lambda: whole("retina"),
        r"lack conv1\.weight.*Are they weights of resnet18\? The file holds (layer1|stem), ",
    ),
    "integer": (integer, r"layer1\.0\.conv1\.weight in \S+ is int8, and resnet18 needs floating-point numbers"),
    "float8": (eight_bits, r"layer1\.0\.conv1\.weight in \S+ is float8_e4m3fn, and resnet18 needs floating-point"),
    "NaN in a head that is not used": (nan_in_the_head, FINE),
    "NaN": (nan, r"bn1\.weight holds values that are not finite"),
    "model.": (lambda: prefixed("model."), FINE),
    "_orig_mod.": (lambda: prefixed("_orig_mod."), FINE),
    "module.module.": (lambda: prefixed("module.module."), FINE),
    "backbone.": (lambda: prefixed("backbone."), FINE),
    "module.convnet.": (lambda: prefixed("module.convnet."), FINE),
    "two prefixes, equal": (lambda: {**prefixed("online."), **prefixed("target.")}, FINE),
    "two prefixes, different": (
        lambda: prefixed("online.") | {name: tensor + 1 for name, tensor in prefixed("target.").items()},
        r"holds weights of resnet18 in 2 places \(without the prefix online\.; without the prefix target\.\), and they",
    ),
}


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("case", CASES)
def test_every_file_is_taken_right_or_refused_in_a_sentence(tmp_path: Path, case: str, ending: str) -> None:
    make, outcome = CASES[case]
    path = tmp_path / f"eyes{ending}"
    state = {name: tensor.contiguous().clone() for name, tensor in make().items()}
    if ending == ".pth":
        torch.save(state, path)
    else:  # a safetensors file under another ending is one by its content
        save_file(state, path)
    if outcome == FINE:
        encoder = build("resnet18", tap=TAP, weights=path, device="cpu")
        assert encoder.sha256() == fingerprint({name: t for name, t in right().items() if not name.startswith("fc")})
        prefix = case.partition(",")[0] if case.endswith(".") else "online." if case.startswith("two") else ""
        assert encoder.provenance.name == path.name + (f" (without the prefix {prefix})" if prefix else "")
    else:
        with pytest.raises(EncoderError, match=outcome):
            build("resnet18", tap=TAP, weights=path, device="cpu")


@pytest.mark.parametrize(
    "keys", [("state_dict_ema",), ("model_ema",), ("model_state_dict",), ("checkpoint", "model"), ("state_dict",)]
)
def test_wrappers_are_opened_and_told(tmp_path: Path, keys: tuple[str, ...]) -> None:
    content: Any = prefixed("module.")
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "args": {"lr": 0.1}}
    torch.save(content, tmp_path / "run.pth")
    encoder = build("resnet18", tap=TAP, weights=tmp_path / "run.pth", device="cpu")
    assert encoder.provenance.name == f"run.pth (under {'/'.join(keys)}, without the prefix module.)"


def test_an_average_beside_the_weights_is_not_chosen_for_anybody(tmp_path: Path) -> None:
    average = {name: tensor.float() + 1 for name, tensor in right().items()}
    torch.save({"state_dict": right(), "state_dict_ema": average}, tmp_path / "both.pth")
    with pytest.raises(EncoderError, match=r"in 2 places \(under state_dict; under state_dict_ema\), and they differ"):
        build("resnet18", tap=TAP, weights=tmp_path / "both.pth", device="cpu")


def test_where_nothing_fits_the_top_of_the_file_is_listed(tmp_path: Path) -> None:
    torch.save({"actor": {"w": torch.ones(2)}, "critic": {"w": torch.ones(2)}, "step": 5}, tmp_path / "agent.pth")
    with pytest.raises(EncoderError, match=r"Are they weights of resnet18\? The file holds actor, critic, step\."):
        build("resnet18", tap=TAP, weights=tmp_path / "agent.pth", device="cpu")


@pytest.mark.parametrize("content", [{0: torch.ones(2), 1: torch.ones(3)}, [torch.ones(2)]])
def test_integer_keys_and_lists_are_a_sentence(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(EncoderError, match=r"not a state_dict of tensors\. Save model\.state_dict\(\)"):
        build("resnet18", tap=TAP, weights=tmp_path / "odd.pth", device="cpu")


def test_sparse_tensors_are_a_sentence(tmp_path: Path) -> None:
    torch.save(right() | {"conv1.weight": right()["conv1.weight"].to_sparse()}, tmp_path / "odd.pth")
    with pytest.raises(EncoderError, match=r"conv1\.weight in odd\.pth is sparse, and resnet18 needs floating-point"):
        build("resnet18", tap=TAP, weights=tmp_path / "odd.pth", device="cpu")


def test_a_small_file_cannot_take_all_memory(tmp_path: Path) -> None:
    """A tensor of stride 0 claims as many numbers as it likes: sizes are compared before anything is made of it."""
    bomb = torch.zeros(1).expand(2**40)
    torch.save(right() | {"fc.weight": bomb, "fc.bias": bomb}, tmp_path / "bomb.pth")
    build("resnet18", tap=TAP, weights=tmp_path / "bomb.pth", device="cpu")
    torch.save(right() | {"conv1.weight": bomb}, tmp_path / "bomb.pth")
    with pytest.raises(EncoderError, match=r"conv1\.weight has shape \(1099511627776,\), and resnet18 needs"):
        build("resnet18", tap=TAP, weights=tmp_path / "bomb.pth", device="cpu")


def test_a_run_of_another_encoder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    save_file(whole("retina"), tmp_path / "checkpoints" / "encoder.safetensors", {"encoder": "retina"})
    assert build("retina", weights=tmp_path, device="cpu").provenance.kind == "run"
    with pytest.raises(EncoderError, match=rf"{re.escape(str(tmp_path))} trained retina, and --encoder is resnet18"):
        build("resnet18", weights=tmp_path, device="cpu")


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_truncated_file_is_damaged(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"eyes{ending}"
    torch.save(right(), path) if ending == ".pth" else save_file(right(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(EncoderError, match="is damaged or incomplete"):
        build("resnet18", tap=TAP, weights=path, device="cpu")


def test_two_stages_that_share_a_layer_read_their_weights_under_either_name() -> None:
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    stages = {"first": model[0], "act": model[1], "again": model[2]}
    backbone = Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="again")
    one_name = {"0.weight": torch.ones(3, 3, 1, 1), "0.bias": torch.ones(3)}
    load_into(backbone, one_name, "shared.pth", "again", "shared")
    assert torch.equal(shared.weight, torch.ones(3, 3, 1, 1))
    other_name = {name.replace("0", "2"): tensor + 1 for name, tensor in one_name.items()}
    load_into(backbone, other_name, "shared.pth", "again", "shared")
    assert torch.equal(shared.weight, torch.full((3, 3, 1, 1), 2.0))


def test_the_weights_of_a_larger_convnext_are_refused(tmp_path: Path) -> None:
    """What stands in one file and not in the other lies inside a stage that is kept."""
    state = dict(whole("convnext_tiny"))
    last = {key: tensor for key, tensor in state.items() if "features.5.8." in key}
    state |= {key.replace("features.5.8.", "features.5.9."): tensor.clone() for key, tensor in last.items()}
    save_file(state, tmp_path / "small.safetensors")
    with pytest.raises(EncoderError, match=r"another network than convnext_tiny, which has no features\.5\.9\."):
        build("convnext_tiny", tap="features.5", weights=tmp_path / "small.safetensors", device="cpu")
    build("convnext_tiny", tap="features.3", weights=tmp_path / "small.safetensors", device="cpu")


def test_the_card_and_the_summary_say_where_the_weights_were(tmp_path: Path) -> None:
    torch.save({"model_ema": prefixed("backbone.")}, tmp_path / "run.pth")
    name = build("resnet18", tap=TAP, weights=tmp_path / "run.pth", device="cpu").provenance.name
    assert json.dumps(name) == '"run.pth (under model_ema, without the prefix backbone.)"'
