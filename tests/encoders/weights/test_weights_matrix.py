"""What people's own weights files do: every kind of file in every format, and what is said of it."""

from __future__ import annotations

import functools
import json
import operator
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as networks
from torchvision.models import densenet

from stillsight.encoders import ENCODERS, Backbone, Encoder, EncoderError, Preprocessing, build, fingerprint
from stillsight.encoders.preprocess import Preprocess
from stillsight.encoders.weights import published
from stillsight.encoders.weights.file_hash import file_hash
from stillsight.encoders.weights.fitting import load_into
from stillsight.encoders.weights.former_names import RULES
from stillsight.encoders.weights.sources import find
from stillsight.encoders.weights.weights_file import read
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


# Layouts that authors publish, by what their own loading code takes off ----------------------------------------------


def r3m() -> dict[str, Any]:
    """facebookresearch/r3m: `torch.load(model.pt)["r3m"]` of a DataParallel around ResNet and language heads."""
    heads = {
        "module.lang_enc.model.embeddings.weight": torch.ones(4, 2),
        "module.lang_rew.pred.0.weight": torch.ones(3),
    }
    return {"r3m": prefixed("module.convnet.") | heads, "global_step": 1_000_000}


def vip() -> dict[str, Any]:
    """facebookresearch/vip: the same with "vip", and an fc of 1,024 features in the place of the classifier."""
    fc = {"module.convnet.fc.weight": torch.ones(8, 512), "module.convnet.fc.bias": torch.ones(8)}
    return {"vip": prefixed("module.convnet.") | fc, "global_step": 5}


def two_deep() -> dict[str, Any]:
    return {"model": prefixed("backbone.visual.trunk."), "args": {"lr": 0.1}, "optimizer": {"state": {}}}


LAYOUTS: dict[str, tuple[Callable[[], Any], str]] = {
    "r3m": (r3m, "under r3m, without the prefix module.convnet."),
    "vip": (vip, "under vip, without the prefix module.convnet."),
    "two deep": (two_deep, "under model, without the prefix backbone.visual.trunk."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("legacy", [False, True])
def test_published_layouts_are_loaded(tmp_path: Path, layout: str, legacy: bool) -> None:
    make, where = LAYOUTS[layout]
    torch.save(make(), tmp_path / "model.pt", _use_new_zipfile_serialization=not legacy)
    encoder = build("resnet18", tap=TAP, weights=tmp_path / "model.pt", device="cpu")
    assert encoder.sha256() == fingerprint({name: t for name, t in right().items() if not name.startswith("fc")})
    assert encoder.provenance.name == f"model.pt ({where})"


def test_a_transformer_with_its_decoder_is_loaded(tmp_path: Path) -> None:
    """VC-1 and MAE: `torch.load(vc1_vitb.pth)["model"]`, the decoder and mask token of the pretraining beside it."""
    timm = pytest.importorskip("timm")
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(2)
    state = timm.models.VisionTransformer(**options).state_dict()
    model = timm.models.VisionTransformer(**options)
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_blocks.0.norm1.weight": torch.ones(8)}
    torch.save({"model": {**state, **decoder}, "epoch": 399, "scaler": {"scale": 65536.0}}, tmp_path / "vc1.pth")
    stages = {"embed": model.patch_embed, "block0": model.blocks[0], "block1": model.blocks[1], "norm": model.norm}
    backbone = Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="norm", class_tokens=1)
    assert load_into(backbone, read(tmp_path / "vc1.pth"), "vc1.pth", "norm", "vc1") == "under model"
    assert torch.equal(model.blocks[1].mlp.fc2.weight, state["blocks.1.mlp.fc2.weight"])
    assert torch.equal(model.norm.bias, state["norm.bias"])


@pytest.mark.parametrize("prefix", ["vision_model.", "model.vision_tower.vision_model.", "timm_model.trunk."])
def test_safetensors_of_a_hub_with_nested_prefixes(tmp_path: Path, prefix: str) -> None:
    others = {"text_model.embeddings.weight": torch.ones(2, 3), "logit_scale": torch.ones(1)}
    save_file(
        {name: tensor.clone() for name, tensor in prefixed(prefix).items()} | others, tmp_path / "hub.safetensors"
    )
    encoder = build("resnet18", tap=TAP, weights=tmp_path / "hub.safetensors", device="cpu")
    assert encoder.provenance.name == f"hub.safetensors (without the prefix {prefix})"


# Names that torchvision's layers had before ---------------------------------------------------------------------------

FORMER = "its layers under their former names"


def thin_densenet() -> networks.DenseNet:
    """A DenseNet with the stages of densenet121, and few layers and channels."""
    return networks.DenseNet(growth_rate=4, block_config=(2, 3, 1, 1), num_init_features=8, num_classes=3)


def thin_vit(layers: int = 12) -> networks.VisionTransformer:
    """A ViT with the stages of vit_b_16, and few channels."""
    return networks.VisionTransformer(
        image_size=64, patch_size=16, num_layers=layers, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
    )


def drawn(model: nn.Module) -> State:
    """Its state_dict, with numbers in the place of ones and zeros, by which layers are told from each other."""
    generator = torch.Generator().manual_seed(4)
    state: State = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.3, generator=generator)
    return state


def densenet_before() -> State:
    """pytorch/vision, densenet121-a639ec97.pth and its kin: from when a layer's name might hold a dot; no counters."""
    state = drawn(thin_densenet())
    layer = re.compile(r"(\.denselayer\d+\.(?:norm|conv))([12]\.)")
    return {layer.sub(r"\1.\2", name): t for name, t in state.items() if not name.endswith("num_batches_tracked")}


def vit_before() -> State:
    """pytorch/vision, vit_b_16-c867db91.pth and its kin: from when an MLPBlock named its two layers itself."""
    state = drawn(thin_vit())
    return {name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): t for name, t in state.items()}


class _Published:
    """In the place of an entry of torchvision's weights: gives what its file would hold."""

    def __init__(self, state: State) -> None:
        self.state = state

    def get_state_dict(self, **_: object) -> State:
        return dict(self.state)


def by_torchvision_densenet(state: State, images: Tensor) -> Tensor:
    """Features `[N, C h w]` of torchvision's network after its own loader."""
    model = thin_densenet().eval()
    densenet._load_state_dict(model, _Published(state), progress=False)
    return F.relu(model.features(images)).flatten(1)


def by_torchvision_vit(state: State, images: Tensor) -> Tensor:
    """The class token and the mean of the patches, `[N, 2 C]`, of torchvision's network after its own loader."""
    model = thin_vit().eval()
    model.load_state_dict(state)
    patches = model._process_input(images)
    tokens = model.encoder(torch.cat([model.class_token.expand(len(patches), -1, -1), patches], dim=1))
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)


class Before(NamedTuple):
    """Weights of former names.

    Attributes:
        encoder: whose row is tried, on a thin network.
        thin: makes that.
        state: what the file holds.
        features: what torchvision makes of it and of images `[N, 3, 64, 64]`.
        pooling: by which an encoder gives the same.
        layer: a layer by its name today, and before.
    """

    encoder: str
    thin: Callable[[], nn.Module]
    state: Callable[[], State]
    features: Callable[[State, Tensor], Tensor]
    pooling: str
    layer: tuple[str, str]


BEFORE = {
    "DenseNet": Before(
        "densenet121",
        thin_densenet,
        densenet_before,
        by_torchvision_densenet,
        "flatten",
        ("features.denseblock2.denselayer3.conv2.weight", "features.denseblock2.denselayer3.conv.2.weight"),
    ),
    "ViT": Before(
        "vit_b_16",
        thin_vit,
        vit_before,
        by_torchvision_vit,
        "cls+global",
        ("encoder.layers.encoder_layer_7.mlp.3.bias", "encoder.layers.encoder_layer_7.mlp.linear_2.bias"),
    ),
}


@pytest.fixture(params=BEFORE)
def before(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Before:
    case = BEFORE[request.param]
    monkeypatch.setattr(networks, "get_model", lambda *_, **__: case.thin())
    return case


def built(before: Before, **given: Any) -> Encoder:
    return build(
        before.encoder,
        tap=ENCODERS[before.encoder].tap,
        pooling=before.pooling,
        precision="float32",
        device="cpu",
        **given,
    )


@torch.no_grad()
def assert_as_torchvision_loads_it(encoder: Encoder, before: Before, state: State) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    images = Preprocess(make_backbone(before.encoder).preprocessing, None, None)(pixels)
    expected = before.features(state, images)
    assert expected.std() > 0.01
    torch.testing.assert_close(encoder(pixels), expected)


PACKED: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda state: state, FORMER),
    "wrapped": (
        lambda state: {"model": {f"module.{name}": t for name, t in state.items()}},
        f"under model, without the prefix module., {FORMER}",
    ),
}


@pytest.mark.parametrize("packed", PACKED)
def test_former_names_are_those_of_today(tmp_path: Path, before: Before, packed: str) -> None:
    pack, where = PACKED[packed]
    state = before.state()
    assert before.layer[1] in state
    torch.save(pack(state), tmp_path / "eyes.pth")
    encoder = built(before, weights=tmp_path / "eyes.pth")
    assert_as_torchvision_loads_it(encoder, before, state)
    assert encoder.provenance.name == f"eyes.pth ({where})"


@pytest.mark.parametrize("kind", ["file", "folder", "cache", "download"])
def test_former_names_are_taken_from_every_source(
    bare: Path, before: Before, kind: str, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = before.state()
    draft = bare / "draft"
    torch.save(state, draft)
    name = f"eyes-{file_hash(draft)[:8]}.pth"
    monkeypatch.setattr(published, "torchvision_address", lambda _: f"{server.address}/{name}")
    if kind == "download":
        server.files[f"/{name}"] = draft.read_bytes()
    else:
        path = {"file": bare, "folder": bare / "mine", "cache": published.torch_cache()}[kind] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(path)
    given = {"file": {"weights": bare / name}, "folder": {"weights_folder": bare / "mine"}}.get(kind, {})
    encoder = built(before, **given)
    assert encoder.provenance.kind == kind
    assert_as_torchvision_loads_it(encoder, before, state)


def test_todays_names_of_the_same_networks_are_loaded(tmp_path: Path, before: Before) -> None:
    state = drawn(before.thin())
    torch.save(state, tmp_path / "eyes.pth")
    encoder = built(before, weights=tmp_path / "eyes.pth")
    assert encoder.provenance.name == "eyes.pth"
    assert_as_torchvision_loads_it(encoder, before, state)


@pytest.mark.parametrize("names", ["today", "before"])
@pytest.mark.parametrize("tap", ["block0", "block5", "norm"])
def test_the_weights_of_a_deeper_vit_of_torchvision_are_refused(
    tmp_path: Path, names: str, tap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first twelve layers have the names and shapes of this one's, which are encoder_layer_0 to 11."""
    monkeypatch.setattr(networks, "get_model", lambda *_, **__: thin_vit())
    deep, right = drawn(thin_vit(24)), drawn(thin_vit())
    if names == "before":
        deep, right = (
            {name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): t for name, t in state.items()}
            for state in (deep, right)
        )
    for pack, _ in PACKED.values():
        torch.save(pack(deep), tmp_path / "deep.pth")
        with pytest.raises(
            EncoderError, match=r"another network than vit_b_16, which has no encoder\.layers\.encoder_layer_12\.ln_1\."
        ):
            build("vit_b_16", tap=tap, pooling="cls", weights=tmp_path / "deep.pth", device="cpu")
        torch.save(pack(right), tmp_path / "right.pth")
        build("vit_b_16", tap=tap, pooling="cls", weights=tmp_path / "right.pth", device="cpu")


def test_the_weights_of_a_flatter_vit_of_torchvision_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "get_model", lambda *_, **__: thin_vit())
    torch.save(drawn(thin_vit(6)), tmp_path / "flat.pth")
    with pytest.raises(
        EncoderError, match=r"lack encoder\.layers\.encoder_layer_6\.ln_1\.weight, .* type --tap block5"
    ):
        build("vit_b_16", tap="norm", pooling="cls", weights=tmp_path / "flat.pth", device="cpu")


def test_words_that_end_in_a_number_are_no_row_of_layers() -> None:
    """A network may end with the third layer of a longer one, and be given its file; and what is called like a row of
    layers, and has no number, is none of it."""
    model = nn.Sequential()
    for name in ("layer1", "layer2", "block_0", "block_1"):
        model.add_module(name, nn.Conv2d(3, 3, 1))
    backbone = Backbone(model=model, stages=dict(model.named_children()), preprocessing=Preprocessing(), tap="block_1")
    state: State = dict(model.state_dict())
    load_into(
        backbone, state | {"layer3.weight": torch.ones(1), "block_norm.weight": torch.ones(1)}, "f", "block_1", "x"
    )
    with pytest.raises(EncoderError, match=r"another network than x, which has no block_2\.weight\. Give"):
        load_into(backbone, state | {"block_2.weight": torch.ones(1)}, "f", "block_1", "x")


def test_former_names_are_as_strict_as_todays(tmp_path: Path, before: Before) -> None:
    """A layer that is missing, or there under both names, or whose like the network has not, is not passed over."""
    today, former = before.layer
    state = before.state()
    one_more = former.replace("denselayer3", "denselayer4").replace("linear_2", "linear_3")
    cases = {
        rf"eyes\.pth, {FORMER}, lack {re.escape(today)}, which": {n: t for n, t in state.items() if n != former},
        rf"another network than \w+, which has no {re.escape(former)}\.": state | {today: state[former].clone()},
        rf"another network than \w+, which has no {re.escape(one_more)}\.": state | {one_more: torch.zeros(3)},
        rf"do not fit \w+: {re.escape(today)} has shape \(7,\), and": state | {former: torch.zeros(7)},
    }
    for sentence, content in cases.items():
        torch.save(content, tmp_path / "eyes.pth")
        with pytest.raises(EncoderError, match=sentence):
            built(before, weights=tmp_path / "eyes.pth")


class Strangers(nn.Module):
    """Somebody's network, which names its layers as torchvision did, and has some of today's names beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_layer_0 = nn.ModuleDict({"mlp": nn.Sequential(nn.Conv2d(3, 3, 1))})
        self.encoder_layer_0["mlp"].linear_1 = nn.Conv2d(3, 3, 1)
        self.teacher = nn.ModuleDict({"encoder_layer_1": nn.ModuleDict({"mlp": nn.Module()})})
        self.teacher["encoder_layer_1"]["mlp"].linear_2 = nn.Conv2d(3, 3, 1)
        self.encoder_layer_1 = nn.ModuleDict({"mlp": nn.ModuleDict({"3": nn.Conv2d(3, 3, 1)})})
        self.denselayer1 = nn.ModuleDict({"norm": nn.ModuleDict({"1": nn.BatchNorm2d(3)}), "norm1": nn.BatchNorm2d(3)})

    def forward(self, images: Tensor) -> Tensor:
        return images


@pytest.mark.parametrize("prefix", ["", "module.", "net.eyes."])
def test_names_of_other_peoples_networks_stay_what_they_are(prefix: str) -> None:
    model = Strangers()
    state = drawn(model)
    names = {"encoder_layer_0.mlp.linear_1.weight", "teacher.encoder_layer_1.mlp.linear_2.bias"}
    assert names <= state.keys(), "as torchvision's were"
    assert "denselayer1.norm.1.weight" in state
    backbone = Backbone(model=model, stages={"all_of_it": model}, preprocessing=Preprocessing(), tap="all_of_it")
    content = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    where = load_into(backbone, content, "eyes.pth", "all_of_it", "eyes")
    assert where == (f"without the prefix {prefix}" if prefix else "")
    assert fingerprint(model.state_dict()) == fingerprint(state)


def test_every_conversion_of_torchvision_is_known() -> None:
    """What a later version of it converts as well would be in none of the rules, nor among what needs none."""
    files = sorted(Path(networks.__file__).parent.glob("*.py"))
    found = {file.stem for file in files if re.search(r"def _load_(from_)?state_dict\(", file.read_text())}
    assert found == {"densenet", "mnasnet", "vision_transformer"}
    assert all(operator.attrgetter(rule.source)(torchvision) for rule in RULES)


@pytest.mark.filterwarnings("ignore:A new version of MNASNet")
def test_a_mnasnet_of_version_1_is_refused(tmp_path: Path) -> None:
    """Of such a file torchvision makes another network, with other features at each tap of its stem."""
    first = networks.mnasnet0_5(weights=None)
    first._load_from_state_dict({}, "", {"version": 1}, False, [], [], [])
    torch.save(first.state_dict(), tmp_path / "mnasnet.pth")
    with pytest.raises(
        EncoderError, match=r"do not fit mnasnet0_5: layers\.0\.weight, .* has shape \(32, 3, 3, 3\), and"
    ):
        build("mnasnet0_5", tap="layers.8", weights=tmp_path / "mnasnet.pth", device="cpu")


# Files that are taken for weights -------------------------------------------------------------------------------------


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, kernel=np.ones(3))


def _npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def _torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name in ("model/data.pkl", "model/code/__torch__.py", "model/constants.pkl"):
            file.writestr(name, b"x")


def _index(path: Path) -> None:
    shards = {"conv1.weight": "model-00001-of-00002.safetensors", "bn1.weight": "model-00002-of-00002.safetensors"}
    path.write_text(json.dumps({"metadata": {"total_size": 9}, "weight_map": shards}))


STRANGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a pointer of Git LFS": (
        "model.safetensors",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 45\n"),
        r"is a pointer of Git LFS, and not the file that it stands for; .* Type: git lfs pull\.",
    ),
    "a page": (
        "resnet18.pth",
        lambda path: path.write_text("\n<!DOCTYPE html><html>Not found"),
        r"is a page of the web, and not the file; .* Download the file itself\.",
    ),
    "npz": ("ViT-B_16.npz", _npz, r"is an archive of NumPy \(npz\); weights are read from safetensors and torch files"),
    "npz by another name": ("eyes.pth", _npz, r"is an archive of NumPy \(npz\)"),
    "npy": ("eyes.npy", _npy, r"is an array of NumPy; "),
    "HDF5": (
        "eyes.h5",
        lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)),
        r"is HDF5, as Keras writes it",
    ),
    "GGUF": ("eyes.gguf", lambda path: path.write_bytes(b"GGUF" + bytes(99)), r"is GGUF, of quantised weights"),
    "gzip": ("eyes.pth.gz", lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(99)), r"is compressed \(gzip\)"),
    "TorchScript": ("eyes.pt", _torchscript, r"is a TorchScript archive, which holds code; .* Save its state_dict"),
    "an index of shards": (
        "model.safetensors.index.json",
        _index,
        r"is an index of weights in 2 files \(model-00001-of-00002\.safetensors, model-00002-of-00002\.safetensors\)",
    ),
    "a broken index": (
        "pytorch_model.bin.index.json",
        lambda path: path.write_text("{"),
        r"is an index of weights in several files, and weights are read from one\. Join them: ",
    ),
}


@pytest.mark.parametrize("case", STRANGE)
def test_what_is_no_file_of_weights_says_what_it_is(tmp_path: Path, case: str) -> None:
    name, make, sentence = STRANGE[case]
    make(tmp_path / name)
    with pytest.raises(EncoderError, match=sentence) as caught:
        read(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


# The packages' files --------------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def damaged_zip(state: State, path: Path, _: Path) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-200])


def damaged_middle(state: State, path: Path, _: Path) -> None:
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def other_network(state: State, path: Path, _: Path) -> None:
    torch.save(dict(list(state.items())[:-1]), path)


def malicious(state: State, path: Path, proof: Path) -> None:
    torch.save({**state, "_fc.bias": Trap(proof)}, path)


def malicious_legacy(state: State, path: Path, proof: Path) -> None:
    torch.save({**state, "_fc.bias": Trap(proof)}, path, _use_new_zipfile_serialization=False)


def malicious_pickle(_: State, path: Path, proof: Path) -> None:
    path.write_bytes(pickle.dumps({"_fc.bias": Trap(proof)}, protocol=2))


def expanding(state: State, path: Path, _: Path) -> None:
    torch.save({"_fc.bias": torch.zeros(2**20), **state}, path)
    with zipfile.ZipFile(path) as plain:
        entries = {entry.filename: plain.read(entry) for entry in plain.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, content in entries.items():
            bomb.writestr(name, content)


PACKAGED: dict[str, tuple[Callable[[State, Path, Path], None], str]] = {
    "cut off": (damaged_zip, r"is damaged or incomplete"),
    "changed": (damaged_middle, r"is damaged or not the official file: its sha256 begins with"),
    "another network": (other_network, r"small\.pth holds 9 tensors, and eyes has 10"),
    "malicious": (malicious, r"holds Python objects and not only tensors, and stillsight runs no code"),
    "malicious, legacy": (malicious_legacy, r"holds Python objects and not only tensors, and stillsight runs no code"),
    "malicious, a pickle": (
        malicious_pickle,
        r"holds Python objects and not only tensors, and stillsight runs no code",
    ),
    "expanding": (expanding, r"would expand to"),
}


@pytest.mark.parametrize("case", PACKAGED)
def test_a_package_is_no_reason_to_trust_its_file(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, sentence = PACKAGED[case]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, bias=False), nn.Linear(4, 2))
    state = {f"_{number}.{name.rpartition('.')[2]}": t for number, (name, t) in enumerate(model.state_dict().items())}
    path, proof = tmp_path / "small.pth", tmp_path / "the code ran"
    make(state, path, proof)
    digits = "0" * 64 if case == "changed" else ""
    monkeypatch.setattr(published.packages, "find", lambda _: (path, digits))
    row = replace(ENCODERS["resnet18"], name="eyes", weights="package:some-eyes")
    stages = {"stem": model[:2], "head": model[2]}
    backbone = Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="head")

    def load() -> None:
        found = find(row)
        load_into(backbone, found.content, found.provenance.name, "head", "eyes", by_order=found.by_order)

    with pytest.raises(EncoderError, match=sentence):
        load()
    assert not proof.exists()
