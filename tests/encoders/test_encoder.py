"""The contract: pixels in, features out; what stands before the cut never changes, what stands after it learns."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn

from stillsight.encoders import (
    ENCODERS,
    Backbone,
    Encoder,
    EncoderError,
    Frozen,
    Learned,
    Preprocessing,
    build,
    fingerprint,
    names,
)
from stillsight.encoders.adapt import Adaptation, merge
from stillsight.encoders.preprocess import Preprocess
from stillsight.encoders.weights.provenance import Provenance
from stillsight.encoders.zoo.registry import make_backbone


def random_pixels(side: int, count: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random weights that differ from run to run would make a test that differs from run to run."""
    torch.manual_seed(0)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal up to rounding, measured by the largest value: features of random networks may be hundreds."""
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max()) < tolerance


def side_of(name: str) -> int:
    """The smallest image, in pixels, that reaches the default tap and that patches fill: it keeps large networks
    quick."""
    row = ENCODERS[name]
    return -(-max(32, row.stages[row.tap]) // row.multiple) * row.multiple


@pytest.fixture(scope="module", params=names())
def network(request: pytest.FixtureRequest) -> tuple[str, Backbone]:
    """Each registered network with statistics that are not those of a fresh BatchNorm, so that a reset would show."""
    torch.manual_seed(0)
    backbone = make_backbone(request.param)
    randomise(backbone.model)
    return request.param, backbone


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)


def exact(backbone: Backbone, unfreeze: str | None = None, **options: Any) -> Encoder:
    """In float32, so that two ways through one network can be compared closely."""
    return Encoder(backbone, unfreeze=unfreeze, precision="float32", **options)


def small(unfreeze: str | None = None, **options: Any) -> Encoder:
    """A retina of random weights whose frozen part nothing else shares."""
    return exact(make_backbone("retina"), unfreeze, **options)


def network_bits(module: nn.Module) -> str:
    """Hash over parameters and buffers by the module's own names."""
    return fingerprint(module.state_dict(keep_vars=True))


# What is done to networks in the course of training -------------------------------------------------------------------


def switch_to_train_mode(module: nn.Module) -> None:
    module.train()
    module(random_pixels(32).float())


def initialise_orthogonally(module: nn.Module) -> None:
    module.apply(partial(BasePolicy.init_weights, gain=1.0))


def average_with_a_copy(module: nn.Module) -> None:
    """As SB3 keeps its target networks: by copy.deepcopy and polyak_update."""
    target = copy.deepcopy(module)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data.add_(1.0)
    polyak_update(module.parameters(), target.parameters(), 0.5)
    polyak_update(target.parameters(), module.parameters(), 0.5)


def decay_by_an_optimizer(module: nn.Module) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.5)
    head = nn.Linear(1, 1)
    optimizer.add_param_group({"params": list(head.parameters())})
    output = module(random_pixels(32).float()).float().mean()
    head(output.reshape(1, 1)).sum().backward()
    optimizer.step()


OPERATIONS: list[Callable[[nn.Module], None]] = [
    switch_to_train_mode,
    initialise_orthogonally,
    average_with_a_copy,
    decay_by_an_optimizer,
]
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: str(operation.__name__))


class Policy(nn.Module):
    """An encoder inside somebody's network, registered as a module: the case that the guards are for."""

    def __init__(self, eyes: nn.Module, width: int) -> None:
        super().__init__()
        self.eyes, self.head = eyes, nn.Linear(width, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.head(self.eyes(pixels))
        return output


@each_operation
def test_nothing_that_training_does_changes_one_bit_of_the_frozen_part(
    operation: Callable[[nn.Module], None],
) -> None:
    encoder = small()
    randomise(encoder.frozen.steps)
    policy = Policy(encoder, 256)
    before, features = encoder.sha256(), encoder(random_pixels(32))
    operation(policy)
    assert encoder.sha256() == before
    assert torch.equal(encoder(random_pixels(32)), features)


@each_operation
def test_the_same_operation_changes_a_network_without_the_guard(operation: Callable[[nn.Module], None]) -> None:
    network = torchvision.models.resnet18(weights=None, num_classes=3)
    policy = Policy(network, 3)
    before = network_bits(network)
    operation(policy)
    assert network_bits(network) != before


def test_every_network_is_frozen_to_the_last_bit(network: tuple[str, Backbone]) -> None:
    name, backbone = network
    encoder = exact(copy.deepcopy(backbone))
    pixels = random_pixels(side_of(name))
    before, features = encoder.sha256(), encoder(pixels)
    assert features.dtype == torch.float32
    assert features.dim() == 2
    assert features.shape[0] == 2
    assert features.isfinite().all()
    assert encoder.frozen.frame_shape((3, side_of(name), side_of(name))) == features.shape[1:]
    policy = Policy(encoder, features.shape[1])
    policy.train()
    assert not any(module.training for module in [encoder.frozen, *encoder.frozen.steps.modules()])
    policy.apply(partial(BasePolicy.init_weights, gain=1.0))
    output = policy(pixels)
    assert not encoder(pixels).requires_grad, "the frozen part built a graph"
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0, weight_decay=0.5)
    output.sum().backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    policy.to(torch.device("cpu")).to(memory_format=torch.channels_last)
    assert encoder.sha256() == before
    assert close(encoder(pixels), features)


def test_features_are_the_same_twice_and_for_pixels_of_either_type(network: tuple[str, Backbone]) -> None:
    name, backbone = network
    encoder = exact(backbone)
    pixels = random_pixels(side_of(name))
    features = encoder(pixels)
    assert torch.equal(encoder(pixels), features)
    assert torch.equal(encoder(pixels.float()), features)
    assert not torch.equal(features[0], features[1]), "two images, one feature: the network sees nothing"


def test_wherever_the_cut_lies_the_network_is_the_same(network: tuple[str, Backbone]) -> None:
    name, backbone = network
    backbone = copy.deepcopy(backbone)
    backbone.model.requires_grad_(True)  # an encoder of another test may have frozen the original
    pixels = random_pixels(side_of(name))
    stages = list(backbone.stages)
    # From the start to the end: a cut further right freezes more of the modules, which the encoders here share.
    cuts: list[str | None] = ["all", stages[0], stages[len(stages) // 2], stages[-1], None]
    reference: Tensor | None = None
    for cut in cuts:
        encoder = exact(backbone, cut)
        at_cut = encoder.frozen(pixels)
        assert at_cut.dtype == (torch.uint8 if cut == "all" else torch.float32)
        assert not at_cut.requires_grad
        features = encoder.learned(at_cut)
        assert features.dtype == torch.float32
        if reference is None:
            reference, whole = features.detach(), encoder.sha256()
        assert close(features.detach(), reference), cut
        assert encoder.sha256() == whole
        assert encoder.frozen.frame_shape((3, *pixels.shape[2:])) == at_cut.shape[1:]
        assert set(encoder.frozen.state()) | set(encoder.learned.state()) == set(encoder.state())
        assert not set(encoder.frozen.state()) & set(encoder.learned.state())
        learnable = list(encoder.learned.parameters())
        if cut is None:
            assert not learnable
            assert not features.requires_grad
            continue
        features.square().sum().backward()
        assert all(parameter.grad is not None for parameter in learnable), cut
        assert any(float(p.grad.abs().max()) > 0 for p in learnable if p.grad is not None)
        assert all(parameter.grad is None for parameter in encoder.frozen.steps.parameters()), cut
        encoder.zero_grad(set_to_none=True)


def test_the_check_above_would_see_a_difference() -> None:
    encoder = small("layer2")
    pixels = random_pixels(32)
    before = encoder(pixels)
    next(iter(encoder.learned.parameters())).data[0, 0, 0, 0] += 0.1
    assert not close(encoder(pixels), before)


@pytest.mark.parametrize(("cut", "first"), [("layer1", "layer1"), ("layer3", "layer3"), ("all", "pixels")])
def test_the_cut_lies_before_the_named_stage(cut: str, first: str) -> None:
    encoder = small(cut)
    assert encoder.learned.names[0] == first
    assert encoder.frozen.names + encoder.learned.names == ("pixels", "stem", "layer1", "layer2", "layer3", "pooling")


def test_nothing_behind_the_tap_is_kept() -> None:
    encoder = Encoder(make_backbone("resnet18"), tap="layer1", precision="float32")
    assert {name.split(".")[0] for name in encoder.state()} == {"conv1", "bn1", "layer1"}
    assert encoder(random_pixels(16)).shape == (2, 64)


def test_names_that_do_not_exist_are_refused_with_the_nearest() -> None:
    with pytest.raises(EncoderError, match=r"no stage named 'layr2'.* Type: --tap layer2"):
        Encoder(make_backbone("retina"), name="retina", tap="layr2")
    with pytest.raises(EncoderError, match=r"no stage named 'layr2'.* Type: --unfreeze layer2\. Up to the tap layer3"):
        Encoder(make_backbone("retina"), name="retina", unfreeze="layr2")
    with pytest.raises(EncoderError, match="Up to the tap layer1, retina can be unfrozen from: stem, layer1, all"):
        Encoder(make_backbone("retina"), name="retina", tap="layer1", unfreeze="layer3")
    with pytest.raises(EncoderError, match="no pooling named 'gird2'"):
        Encoder(make_backbone("retina"), pooling="gird2")


@pytest.mark.parametrize("name", ["pixels", "pooling", "handover", "all", "tap.low", "low,high", " low", ""])
def test_a_stage_may_not_be_called_what_means_something_else(name: str) -> None:
    """One called pooling would be replaced by the encoder's own, and features would be those of the stage before."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.Conv2d(8, 16, 3, 2))
    with pytest.raises(EncoderError, match=rf"A stage of the Backbone is called '{name}'\. Allowed is .* another name"):
        Backbone(model=model, stages={name: model[0], "high": model[1]}, preprocessing=Preprocessing(), tap="high")
    fine = {"pooled": model[0], "all.1": model[1]}
    assert Encoder(Backbone(model=model, stages=fine, preprocessing=Preprocessing(), tap="all.1")).frozen.names == (
        *("pixels", "pooled", "all.1", "pooling"),
    )


def test_a_cut_behind_which_nothing_would_learn_is_refused() -> None:
    told = r"Nothing of alexnet would learn from features\.11 to the tap features\.12, .* Type --unfreeze features\.10,"
    for cut in ("features.11", "features.12"):
        with pytest.raises(EncoderError, match=told.replace("11", cut.rpartition(".")[2], 1)):
            Encoder(make_backbone("alexnet"), name="alexnet", tap="features.12", unfreeze=cut)
    learned = Encoder(make_backbone("alexnet"), name="alexnet", tap="features.12", unfreeze="features.10").learned
    assert sum(parameter.numel() for parameter in learned.parameters()) == 256 * 256 * 9 + 256
    flat = nn.Flatten()
    blind = Backbone(model=flat, stages={"flat": flat}, preprocessing=Preprocessing(), tap="flat")
    with pytest.raises(EncoderError, match=r"would learn from all to the tap flat, .* Type --mode frozen\."):
        Encoder(blind, unfreeze="all")


class Tied(nn.Module):
    """A layer that is also in another stage."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, maps: Tensor) -> Tensor:
        activated: Tensor = self.layer(maps).relu()
        return activated


def tied(layer: nn.Module, other: nn.Module | None = None) -> Backbone:
    """Four stages, of which the second and the fourth have one layer."""
    behind = nn.Sequential(nn.Conv2d(8, 8, 1), Tied(other or layer))
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), Tied(layer), nn.Conv2d(8, 8, 1), behind)
    stages = dict(zip(("stem", "one", "two", "three"), model, strict=True))
    return Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="three")


def test_a_cut_through_shared_weights_is_refused() -> None:
    """The failure it prevents: what is frozen is trained, and what is saved computes something else."""
    for cut in ("two", "three"):
        for layer in (nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)):
            with pytest.raises(
                EncoderError,
                match=rf"^Stages of encoder before {cut} and from there on share \S*layer\.weight, .* --unfreeze one,",
            ):
                Encoder(tied(layer), unfreeze=cut)
    for cut in ("one", "stem", "all", None):
        Encoder(tied(nn.Conv2d(8, 8, 1)), unfreeze=cut)
    twin = nn.Conv2d(8, 8, 1)
    twin.weight.data = (layer := nn.Conv2d(8, 8, 1)).weight.data  # another parameter with the same numbers
    with pytest.raises(EncoderError, match=r"share 3\.1\.layer\.weight, so"):
        Encoder(tied(layer, twin), unfreeze="two")


def test_what_is_shared_and_stays_as_it_is_may_lie_on_both_sides() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.rand(8, 1, 1))

        def forward(self, maps: Tensor) -> Tensor:
            turned: Tensor = maps + self.table
            return turned

    Encoder(tied(Table()), unfreeze="two", pinned=False)  # positions that rotate are such a table
    fixed = nn.BatchNorm2d(8, affine=False)
    Encoder(tied(fixed), unfreeze="two")
    with pytest.raises(EncoderError, match="running_mean"):
        Encoder(tied(fixed), unfreeze="two", pinned=False)
    with pytest.raises(EncoderError, match="share"):
        Encoder(tied(nn.Conv2d(8, 8, 1)), unfreeze="two", adaptation=Adaptation(what="lora"))


@pytest.mark.parametrize(
    ("pooling", "places", "width"),
    [("global", 1, 256), ("softmax", 1, 512), ("grid3", 9, 256 * 9), ("flatten", 0, 4096)],
)
def test_an_encoder_tells_how_many_places_its_features_keep_apart(pooling: str, places: int, width: int) -> None:
    encoder = Encoder(make_backbone("retina"), pooling=pooling, precision="float32")
    assert encoder.places == places
    assert encoder(random_pixels(32)).shape == (2, width)


# The part that learns -------------------------------------------------------------------------------------------------


def statistics(module: nn.Module) -> str:
    return fingerprint({name: tensor for name, tensor in module.named_buffers() if "running" in name})


def test_pinned_statistics_stay_and_unpinned_ones_move() -> None:
    for pinned in (True, False):
        encoder = small("layer2", pinned=pinned)
        frozen, learned = statistics(encoder.frozen), statistics(encoder.learned)
        encoder.train()
        encoder(random_pixels(32))
        assert any(module.training for module in encoder.learned.modules()) is not pinned
        assert (statistics(encoder.learned) == learned) is pinned
        assert statistics(encoder.frozen) == frozen
        assert not encoder.eval().learned.training


def test_pinned_features_in_train_mode_are_those_of_eval_mode() -> None:
    pixels = random_pixels(32, count=8)
    for pinned in (True, False):
        encoder = small("all", pinned=pinned)
        evaluated = encoder.eval()(pixels)
        assert torch.equal(encoder.train()(pixels), evaluated) is pinned


def test_shielded_weights_refuse_an_initialiser_and_random_ones_take_it() -> None:
    for shielded in (True, False):
        encoder = small("layer2", shielded=shielded)
        frozen, learned = fingerprint(encoder.frozen.state()), fingerprint(encoder.learned.state())
        encoder.apply(partial(BasePolicy.init_weights, gain=2.0))
        assert (fingerprint(encoder.learned.state()) == learned) is shielded
        assert fingerprint(encoder.frozen.state()) == frozen


def test_build_shields_pretrained_weights_and_lets_initialisers_reach_random_ones(tmp_path: Path) -> None:
    save_file({name: t.clone() for name, t in small().state().items()}, tmp_path / "w.safetensors")
    pretrained = build("retina", "finetune", weights=tmp_path / "w.safetensors", device="cpu")
    scratch = build("retina", "scratch", device="cpu")
    before = pretrained.sha256(), scratch.sha256()
    for encoder in (pretrained, scratch):
        encoder.apply(partial(BasePolicy.init_weights, gain=1.0))
    assert pretrained.sha256() == before[0]
    assert scratch.sha256() != before[1]
    rows = scratch.state()["layer1.conv1.weight"].detach().flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(64), atol=1e-5), "orthogonal is what the initialiser promises"


@pytest.mark.parametrize("activation", [nn.SiLU, nn.Hardswish])
def test_what_stands_at_the_cut_is_as_it_was_after_a_look(activation: Callable[..., nn.Module]) -> None:
    """It lies in a rollout or replay buffer, and is looked at again in every epoch."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.Sequential(activation(inplace=True), nn.Conv2d(8, 16, 3, 2)))
    stages = {"low": model[0], "high": model[1]}
    backbone = Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="high")
    encoder = exact(backbone, "high")
    cut = encoder.frozen(random_pixels(32))
    kept = cut.clone()
    with torch.no_grad():
        features = encoder.learned(cut)
        assert torch.equal(cut, kept)
        assert torch.equal(encoder.learned(cut), features)


def test_a_copy_shares_what_is_frozen_and_owns_what_learns() -> None:
    encoder = small("layer2")
    twin = copy.deepcopy(encoder)
    assert twin.frozen is encoder.frozen
    assert twin.learned is not encoder.learned
    assert twin.counter is encoder.counter
    assert fingerprint(twin.learned.state()) == fingerprint(encoder.learned.state())
    for ours, theirs in zip(encoder.learned.parameters(), twin.learned.parameters(), strict=True):
        assert ours.data_ptr() != theirs.data_ptr()


def test_a_copy_of_a_built_encoder_keeps_what_it_has_learned() -> None:
    encoder = build("retina", "scratch", unfreeze="layer2", device="cpu")
    for parameter in encoder.learned.parameters():
        parameter.data.add_(1.0)
    twin = copy.deepcopy(encoder)
    assert fingerprint(twin.learned.state()) == fingerprint(encoder.learned.state())
    assert twin.frozen is encoder.frozen


def test_copies_of_the_learned_part_count_into_one_counter() -> None:
    encoder = small("all")
    actor, critic = copy.deepcopy(encoder.learned), copy.deepcopy(encoder.learned)
    for network in (encoder.learned, actor, critic):
        network(random_pixels(16, count=3))
    assert encoder.counter.images == 9
    assert isinstance(actor, Learned)


def test_averaging_the_learned_part_is_the_average() -> None:
    encoder = small("layer3")
    target = copy.deepcopy(encoder.learned)
    before = [parameter.clone() for parameter in target.parameters()]
    for parameter in encoder.learned.parameters():
        parameter.data.add_(1.0)
    polyak_update(encoder.learned.parameters(), target.parameters(), 0.25)
    for old, new in zip(before, target.parameters(), strict=True):
        assert torch.allclose(new, old + 0.25, atol=1e-6)


# Counting, numpy, shapes ----------------------------------------------------------------------------------------------


def test_images_are_counted_once_and_not_where_they_are_left_out() -> None:
    encoder = small()
    encoder(random_pixels(16, count=5))
    encoder.frozen.encode(random_pixels(16, count=7).numpy(), batch=3)
    assert encoder.counter.images == 12
    with encoder.counter.paused():
        encoder(random_pixels(16, count=100))
    encoder.frozen.frame_shape((3, 16, 16))
    assert encoder.counter.images == 12
    with pytest.raises(RuntimeError, match="size of tensor"), encoder.counter.paused():
        encoder(torch.zeros(100, 1, 16, 16).expand(-1, 4, -1, -1))
    assert encoder.counter.images == 12


@pytest.mark.parametrize("cut", [None, "layer2", "all"])
def test_numpy_in_batches_is_the_same_as_tensors_at_once(cut: str | None, request: pytest.FixtureRequest) -> None:
    small(cut)  # the network's module is imported before
    request.getfixturevalue("double_precision")
    encoder = small(cut)
    pixels = random_pixels(16, count=7)
    found = encoder.frozen.encode(pixels.numpy(), batch=3)
    expected = encoder.frozen(pixels).numpy()
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert found.shape[1:] == encoder.frozen.frame_shape((3, 16, 16))


@pytest.mark.parametrize("cut", [None, "layer2", "all"])
def test_no_images_have_no_features_of_the_right_shape(cut: str | None) -> None:
    encoder = small(cut)
    found = encoder.frozen.encode(np.zeros((0, 3, 16, 16), np.uint8))
    assert found.shape == (0, *encoder.frozen.frame_shape((3, 16, 16)))
    assert found.dtype == (np.uint8 if cut == "all" else np.float32)
    assert encoder.counter.images == 0


def test_images_are_resized_where_a_resolution_is_given() -> None:
    backbone = make_backbone("retina")
    resized = Encoder(backbone, resolution=32, pooling="flatten", precision="float32")
    assert resized(random_pixels(48)).shape == (2, 256 * 16)
    same = Encoder(backbone, pooling="flatten", precision="float32")
    assert torch.equal(resized(random_pixels(32)), same(random_pixels(32)))


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 16)])
@pytest.mark.parametrize("name", ["retina", "mobilenet_v3_small", "nature"])
def test_images_need_not_be_square(name: str, height: int, width: int) -> None:
    if name == "nature":
        height, width = height + 36, width + 36
    backbone = make_backbone(name)
    encoder = Encoder(backbone, pooling="grid1", precision="float32")
    flat = Encoder(backbone, pooling="global", precision="float32")
    pixels = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    assert torch.allclose(encoder(pixels), flat(pixels), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 96), (64, 32)])
def test_the_tokens_of_a_transformer_lie_as_the_image_does(height: int, width: int) -> None:
    """Twelve tokens may lie in three rows or in six: the proportions of the image say how."""
    backbone = tiny_transformer()
    pixels = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    tokens = pixels.float() / 255
    for stage in backbone.stages.values():
        tokens = stage.eval()(tokens)
    maps = tokens[:, 1:].transpose(1, 2).unflatten(2, (height // 16, width // 16))
    for pooling, expected in (
        ("cls", tokens[:, 0]),
        ("global", tokens[:, 1:].mean(1)),
        ("cls+global", torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)),
        ("grid2", nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1)),
        ("flatten", maps.flatten(1)),
    ):
        found = Encoder(backbone, pooling=pooling, precision="float32")(pixels)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_engine_knows_the_proportions_of_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = Encoder(tiny_transformer(), pooling="grid2", precision="float32")
    wide, tall = (torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8) for size in ((32, 96), (96, 32)))
    expected = encoder(wide), encoder(tall)
    encoder.frozen.prepare((3, 32, 96), wanted="folded")
    for pixels, features in zip((wide, tall, wide), (*expected, expected[0]), strict=True):
        torch.testing.assert_close(encoder(pixels), features, atol=1e-5, rtol=1e-5)


def tiny_transformer() -> Backbone:
    """torchvision's vision transformer with one layer of 8 channels, staged as the large one is."""
    from stillsight.encoders.zoo.torchvision import PatchEmbedding

    model = torchvision.models.VisionTransformer(32, 16, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8)
    stages = {"embed": PatchEmbedding(model), "block0": model.encoder.layers[0], "norm": model.encoder.ln}
    return Backbone(
        model=model, stages=stages, preprocessing=Preprocessing(), tap="norm", pooling="cls", class_tokens=1
    )


def test_positions_are_interpolated_as_torchvision_does() -> None:
    from torchvision.models.vision_transformer import interpolate_embeddings

    model = torchvision.models.VisionTransformer(64, 16, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8)
    nn.init.normal_(model.encoder.pos_embedding)
    from stillsight.encoders.zoo.torchvision import PatchEmbedding

    for size in (32, 64, 96):
        official = interpolate_embeddings(size, 16, dict(model.state_dict()))["encoder.pos_embedding"]
        side = size // 16
        assert torch.allclose(PatchEmbedding(model)._positions(side, side), official, atol=1e-6), size


# Hash and pickle ------------------------------------------------------------------------------------------------------


def test_the_fingerprint_sees_one_bit_a_name_a_shape_a_type_and_a_buffer() -> None:
    encoder = small()
    original = {name: tensor.detach().clone() for name, tensor in encoder.state().items()}
    assert fingerprint(original) == encoder.sha256()
    assert fingerprint(dict(reversed(list(original.items())))) == encoder.sha256(), "the order is no content"
    key, buffer = "layer1.conv1.weight", "layer1.bn1.running_mean"

    def changed(name: str, tensor: Tensor) -> str:
        return fingerprint(original | {name: tensor})

    flipped = original[key].clone()
    flipped.view(torch.int32).view(-1)[100] ^= 1
    assert (flipped - original[key]).abs().max() < 1e-6, "one bit, and the last one"
    moved = original[buffer].clone()
    moved[3] += 1e-6
    renamed = {("renamed" if name == key else name): tensor for name, tensor in original.items()}
    others = [
        changed(key, flipped),
        changed(buffer, moved),
        changed("layer1.bn1.num_batches_tracked", torch.tensor(1)),
        changed(key, original[key].flatten()),
        changed(key, original[key].view(torch.int32)),
        fingerprint(renamed),
        fingerprint({name: tensor for name, tensor in original.items() if name != key}),
    ]
    assert encoder.sha256() not in others
    assert len(set(others)) == len(others)


def test_the_fingerprint_is_of_values_and_not_of_their_memory_layout() -> None:
    encoder = small()
    before = encoder.sha256()
    encoder.to(memory_format=torch.channels_last)
    assert not encoder.state()["layer1.conv1.weight"].is_contiguous()
    assert encoder.sha256() == before


def test_one_seed_gives_one_network_whatever_ran_before() -> None:
    torch.manual_seed(1)
    first = build("retina", "random", seed=3, device="cpu").sha256()
    state = torch.get_rng_state()
    torch.rand(10)
    assert build("retina", "random", seed=3, device="cpu").sha256() == first
    assert build("retina", "random", seed=4, device="cpu").sha256() != first
    torch.set_rng_state(state)
    expected = torch.rand(3)
    torch.set_rng_state(state)
    build("retina", "random", seed=3, device="cpu")
    assert torch.equal(torch.rand(3), expected), "building drew from the generator of the caller"


def test_an_encoder_is_pickled_as_its_recipe() -> None:
    encoder = build("resnet18", "random", tap="layer2", seed=3, resolution=40, precision="float32", device="cpu")
    packed = pickle.dumps(encoder)
    assert len(packed) < 4096
    again = pickle.loads(packed)
    assert again.sha256() == encoder.sha256()
    assert (again.tap, again.resolution, again.provenance) == ("layer2", 40, encoder.provenance)
    assert torch.equal(again(random_pixels(48)), encoder(random_pixels(48)))


def test_a_pickled_encoder_refuses_weights_that_have_changed(tmp_path: Path) -> None:
    file = tmp_path / "eyes.safetensors"
    state = {name: tensor.detach().clone() for name, tensor in small().state().items()}
    save_file(state, file)
    packed = pickle.dumps(build("retina", weights=file, device="cpu"))
    assert pickle.loads(packed).sha256() == fingerprint(state)
    state["stem.0.weight"][0, 0, 0, 0] += 1
    save_file(state, file)
    with pytest.raises(EncoderError) as caught:
        pickle.loads(packed)
    message = str(caught.value)
    assert "The weights of retina have changed: this model was saved with frozen weights" in message
    assert "eyes.safetensors now holds" in message
    assert "Give it the weights that it was trained with." in message


@pytest.mark.parametrize("unfreeze", ["stem", None])
def test_one_that_is_yet_to_learn_refuses_other_weights_to_begin_with(tmp_path: Path, unfreeze: str | None) -> None:
    """Its learned part goes in as the recipe alone, as long as it has learned nothing."""
    file = tmp_path / "eyes.safetensors"
    state = {name: tensor.detach().clone() for name, tensor in small().state().items()}
    save_file(state, file)
    packed = pickle.dumps(build("retina", "finetune", unfreeze=unfreeze, weights=file, device="cpu"))
    assert pickle.loads(packed).learned.state_dict().keys()
    state["stem.0.weight"][0, 0, 0, 0] += 1
    save_file(state, file)
    with pytest.raises(EncoderError, match=r"The weights with which retina begins to learn have changed: .*eyes\.saf"):
        pickle.loads(packed)


def trained(mode: str = "finetune", **choices: Any) -> Encoder:
    """One whose learned part has moved, by what an optimizer would do to it."""
    encoder = build("retina", mode, device="cpu", precision="float32", **choices)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.learned.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return encoder


@pytest.mark.parametrize(
    ("mode", "choices"),
    [
        ("finetune", {"unfreeze": "layer2"}),
        ("scratch", {}),
        ("finetune", {"adapt": "lora", "lora_rank": 2}),
        ("finetune", {"adapt": "norm"}),
        ("frozen", {"pooling": "attention2"}),
    ],
)
@pytest.mark.parametrize("way", ["pickle", "torch.save", "copy"])
def test_what_was_learned_is_pickled_too(mode: str, choices: dict[str, Any], way: str) -> None:
    encoder = trained(mode, **choices)
    expected = encoder(random_pixels(32))
    if way == "pickle":
        again = pickle.loads(pickle.dumps(encoder))
    elif way == "copy":
        again = copy.deepcopy(encoder)
    else:
        buffer = io.BytesIO()
        torch.save(nn.Sequential(encoder).eval(), buffer)
        buffer.seek(0)
        whole = torch.load(buffer, weights_only=False)
        again = whole[0]
        assert not any(module.training for module in whole.modules())
    assert network_bits(again.learned) == network_bits(encoder.learned)
    assert again.sha256() == encoder.sha256()
    assert close(again(random_pixels(32)), expected, 1e-6)
    assert len(pickle.dumps(pickle.loads(pickle.dumps(build("retina", mode, device="cpu", **choices))))) < 4096


def test_low_rank_additions_that_were_added_for_good_are_pickled_as_they_are() -> None:
    encoder = trained(adapt="lora")
    expected = encoder(random_pixels(32))
    merge(encoder.learned)
    assert close(pickle.loads(pickle.dumps(encoder))(random_pixels(32)), expected)


def test_an_encoder_of_which_a_policy_trains_a_copy_is_pickled_as_its_recipe() -> None:
    encoder = build("retina", "finetune", device="cpu")
    copied = copy.deepcopy(encoder.learned)
    with torch.no_grad():
        next(copied.parameters()).add_(1)
    assert len(pickle.dumps(encoder)) < 4096
    assert pickle.loads(pickle.dumps(encoder)).sha256() == encoder.sha256()


def test_what_was_learned_by_another_network_is_refused() -> None:
    build_again, (frozen, pixels, learned, training) = trained(unfreeze="layer2").__reduce__()
    name = next(iter(learned))
    learned[name] = learned[name][:1]
    with pytest.raises(
        EncoderError, match=r"What retina had learned does not fit the network that it is now \(size mis"
    ):
        build_again(frozen, pixels, learned, training)


@pytest.mark.parametrize("name", ["vit_tiny", "eupe_ti16"])
def test_a_pickled_transformer_knows_how_its_tokens_lie(name: str) -> None:
    """16 x 4 tokens are as many as 8 x 8: a pooling, and rotations, would take them for a square."""
    options = {"tap": "block1", "pooling": "grid2", "unfreeze": "block1", "precision": "float32", "device": "cpu"}
    encoder = build(name, "scratch", **options)
    with torch.no_grad():
        cut = encoder.frozen(torch.randint(0, 256, (2, 3, 64, 256), dtype=torch.uint8))
        again = pickle.loads(pickle.dumps(encoder))
        assert torch.equal(again.learned(cut), encoder.learned(cut))


def test_an_encoder_without_a_recipe_is_pickled_whole() -> None:
    encoder = small("layer3")
    again = pickle.loads(pickle.dumps(encoder))
    assert again.sha256() == encoder.sha256()
    assert torch.equal(again(random_pixels(16)), encoder(random_pixels(16)))


# Official names -------------------------------------------------------------------------------------------------------


def official_model(name: str) -> Any:
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model.eval()


def fill(model: nn.Module, state: dict[str, Tensor]) -> Iterable[str]:
    """Load `state` into torchvision's network, and return the names that it did not cover."""
    outcome = model.load_state_dict(state, strict=False)
    assert not outcome.unexpected_keys
    missing: Iterable[str] = outcome.missing_keys
    return missing


def test_every_network_keeps_its_official_names(network: tuple[str, Backbone]) -> None:
    name, backbone = network
    row = ENCODERS[name]
    state = exact(backbone).state()
    assert set(state) <= set(backbone.model.state_dict())
    if row.weights in (None, "shipped"):
        assert set(state) == set(backbone.model.state_dict())
        return
    missing = set(backbone.model.state_dict()) - set(state)
    heads = {"fc", "classifier", "heads", "attn_pool", "fc_norm", "conv_head", "norm_head", "head"}
    assert {key.split(".")[0] for key in missing} <= heads, "only what stands behind the last map is cut off"


def normalised(backbone: Backbone, pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.preprocessing.mean, backbone.preprocessing.std))
    return (pixels / 255 - mean) / std


@torch.no_grad()
def test_resnet18_gives_the_features_of_torchvisions_own_forward() -> None:
    backbone = make_backbone("resnet18")
    randomise(backbone.model)
    encoder, model = exact(backbone), official_model("resnet18")
    assert set(fill(model, encoder.state())) == {"fc.weight", "fc.bias"}
    model.fc = nn.Identity()
    pixels = random_pixels(64)
    assert close(encoder(pixels), model(normalised(backbone, pixels)))


@torch.no_grad()
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "efficientnet_b0"])
def test_a_features_family_gives_the_features_of_torchvisions_own_network(name: str) -> None:
    backbone = make_backbone(name)
    randomise(backbone.model)
    encoder, model = exact(backbone), official_model(name)
    assert all(key.startswith("classifier.") for key in fill(model, encoder.state()))
    pixels = random_pixels(64)
    expected = model.features(normalised(backbone, pixels)).mean((2, 3))
    assert close(encoder(pixels), expected)


@torch.no_grad()
def test_vit_gives_the_class_token_of_torchvisions_own_encoder() -> None:
    backbone = make_backbone("vit_b_16")
    encoder, model = exact(backbone), official_model("vit_b_16")
    assert all(key.startswith("heads.") for key in fill(model, encoder.state()))
    model.heads = nn.Identity()
    pixels = random_pixels(224, count=1)
    assert close(encoder(pixels), model(normalised(backbone, pixels)))


def test_state_is_live() -> None:
    encoder = small("layer3")
    encoder.state()["layer3.bn1.bias"].data.fill_(7.0)
    assert encoder.learned.state()["layer3.bn1.bias"].tolist() == [7.0] * 256


def test_parts_are_what_they_say() -> None:
    encoder = small("layer3")
    assert isinstance(encoder.frozen, Frozen)
    assert isinstance(encoder.learned, Learned)
    assert isinstance(encoder.frozen.steps[0], Preprocess)
    assert encoder.frozen.device == torch.device("cpu")
    assert not any(parameter.requires_grad for parameter in encoder.frozen.steps.parameters())
    assert all(parameter.requires_grad for parameter in encoder.learned.parameters())


@pytest.mark.parametrize(
    ("kind", "resolution", "image", "told"),
    [
        (
            "cache",
            None,
            (32, 32),
            "encoded at 32 px, as they come; the weights were made for 224 px. Type --resolution 224, or less for less "
            "work",
        ),
        ("download", None, (300, 96), "encoded at 300 x 96 px, as they come; the weights were made for 224 px. Type"),
        ("cache", 64, (32, 32), "encoded at 64 px, as --resolution says; the weights were made for 224 px"),
        ("cache", 224, (32, 32), ""),
        ("cache", None, (224, 230), ""),
        ("random", None, (32, 32), ""),
        ("run", None, (32, 32), ""),  # which may have learned at any size
    ],
)
def test_weights_that_see_smaller_images_than_they_were_made_for_say_so(
    kind: str, resolution: int | None, image: tuple[int, int], told: str
) -> None:
    layer = nn.Conv2d(3, 4, 3, 2)
    backbone = Backbone(
        model=layer, stages={"layer": layer}, preprocessing=Preprocessing(size=224), tap="layer", pooling="global"
    )
    encoder = Encoder(backbone, resolution=resolution, provenance=Provenance(kind=kind, name="a.pth"))
    found = encoder.smaller_than_made(*image)
    assert found.startswith(told)
    assert bool(found) == bool(told)
