"""What learns in the trained part is what was asked for, and the rest of it stays as it is, to the bit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders import Backbone, Encoder, EncoderError, Learned, Mode, Preprocessing, build, fingerprint
from stillsight.encoders.adapt import ALPHA, Adaptation, LowRank, merge, norms
from stillsight.encoders.config import EncoderConfig
from stillsight.encoders.zoo.registry import make_backbone

WAYS = ["norm", "lora"]


class Attention(nn.Module):
    """Tokens, as a vision transformer has them: LayerNorm, attention, and a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.linear = nn.Linear(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        tokens = maps.flatten(2).transpose(1, 2)
        normed = self.norm(tokens)
        mixed: Tensor = self.attention(normed, normed, normed, need_weights=False)[0]
        linear: Tensor = self.linear(tokens + mixed)
        return linear


def mixed() -> Backbone:
    """One layer of each kind: plain, grouped and depthwise convolutions, three normalisations, attention."""
    stages: dict[str, nn.Module] = {
        "plain": nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
        "grouped": nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.GroupNorm(2, 8), nn.ReLU()),
        "depthwise": nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.ReLU()),
        "attention": Attention(8),
    }
    model = nn.Sequential(*stages.values())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.normal_(0, 0.1)
    return Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="attention", pooling="global")


def encoder(what: Any = "all", unfreeze: str | None = "all", seed: int = 0, **options: Any) -> Encoder:
    torch.manual_seed(seed)
    pinned = options.pop("pinned", True)
    adaptation = Adaptation(what=what, seed=seed, **options)
    return Encoder(mixed(), unfreeze=unfreeze, adaptation=adaptation, pinned=pinned, precision="float32")


def pixels(seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def train(eyes: Encoder, steps: int = 3) -> None:
    eyes.train()
    optimizer = torch.optim.Adam(eyes.parameters(), lr=0.01)
    for step in range(steps):
        optimizer.zero_grad()
        (eyes(pixels(step)) ** 2).mean().backward()
        optimizer.step()


def bits(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


NORMS = {f"{module}.{name}" for module in ("0.1", "1.1", "3.norm") for name in ("weight", "bias")}
WEIGHTS = {f"{name}.weight" for name in ("0.0", "1.0", "2.0", "3.linear", "3.attention.out_proj")}
WEIGHTS |= {"3.attention.in_proj_weight"}


class RmsNorm2d(nn.Module):
    """As timm and most authors write it, of nothing of torch's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, maps: Tensor) -> Tensor:
        scaled: Tensor = maps * maps.square().mean(1, keepdim=True).add(1e-6).rsqrt() * self.weight.view(1, -1, 1, 1)
        return scaled


class Llama_RMSNorm(RmsNorm2d):  # noqa: N801 - a name that others have given
    """The same by another name."""


def test_every_kind_of_normalisation_learns_where_norms_do() -> None:
    kinds = [RmsNorm2d(8), Llama_RMSNorm(8), nn.RMSNorm([8, 4, 4]), nn.InstanceNorm2d(8, affine=True)]
    stage = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), *kinds, nn.InstanceNorm2d(8), nn.Conv2d(8, 8, 1))
    backbone = Backbone(
        model=stage, stages={"whole": stage}, preprocessing=Preprocessing(), tap="whole", pooling="global"
    )
    eyes = Encoder(backbone, unfreeze="all", adaptation=Adaptation(what="norm"), precision="float32")
    learning = {name.split(".", 2)[2] for name, _ in eyes.learned.named_parameters()}
    assert learning == {"1.weight", "2.weight", "3.weight", "4.weight", "4.bias"}
    eyes(torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in eyes.learned.parameters())


def test_timms_own_normalisations_are_among_them() -> None:
    layers = pytest.importorskip("timm.layers")
    kinds = [getattr(layers, name) for name in dir(layers) if name.startswith(("RmsNorm", "SimpleNorm"))]
    assert len(kinds) > 3
    assert all(len(list(norms(kind(8)))) > 0 for kind in kinds)


@pytest.mark.parametrize(("what", "expected"), [("norm", NORMS), ("lora", WEIGHTS)])
def test_only_what_was_asked_for_changes_and_the_rest_keeps_every_bit(what: str, expected: set[str]) -> None:
    eyes = encoder(what)
    before = bits(eyes.state())
    train(eyes)
    assert changed(before, eyes.state()) == expected


def test_all_leaves_nothing_out_but_statistics() -> None:
    eyes = encoder("all")
    before = bits(eyes.state())
    train(eyes)
    statistics = {f"0.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert changed(before, eyes.state()) == set(before) - statistics


@pytest.mark.parametrize("what", WAYS)
def test_the_start_is_exactly_the_pretrained_function(what: str) -> None:
    whole, adapted = encoder("all"), encoder(what)
    assert torch.equal(whole(pixels()), adapted(pixels()))
    assert whole.sha256() == adapted.sha256()
    assert set(whole.state()) == set(adapted.state()) == set(mixed().model.state_dict())


@pytest.mark.parametrize("what", WAYS)
def test_the_cut_is_kept(what: str) -> None:
    eyes = encoder(what, unfreeze="depthwise")
    before = bits(eyes.state())
    train(eyes)
    moved = changed(before, eyes.state())
    assert moved == {name for name in (NORMS if what == "norm" else WEIGHTS) if name.startswith(("2", "3"))}


def test_parameters_are_what_learns_and_nothing_else() -> None:
    assert sum(p.numel() for p in encoder("norm").learned.parameters()) == 2 * (8 + 8 + 8)
    down_and_up = {  # rank 4, rows, columns
        "0.0": 4 * (8 + 27),
        "1.0": 4 * (8 + 36),
        "2.0": 4 * (8 + 9),
        "out_proj": 4 * (8 + 8),
        "in_proj": 4 * (24 + 8),
        "linear": 4 * (8 + 8),
    }
    eyes = encoder("lora", rank=4)
    assert sum(p.numel() for p in eyes.learned.parameters()) == sum(down_and_up.values())
    assert all(p.requires_grad for p in eyes.parameters())


def test_the_rank_is_never_larger_than_the_matrix() -> None:
    shape = LowRank(torch.zeros(8, 1, 3, 3), 50, torch.Generator())
    assert (shape.down.shape, shape.up.shape) == ((8, 9), (8, 8))
    assert shape.scale == ALPHA / 50


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_convolution_computes_with_w_plus_the_scaled_product(groups: int) -> None:
    torch.manual_seed(0)
    backbone = Backbone(
        model=(model := nn.Sequential(nn.Conv2d(8, 8, 3, groups=groups))),
        stages={"conv": model[0]},
        preprocessing=Preprocessing(),
        tap="conv",
        pooling="flatten",
    )
    weight, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    part = Learned(backbone.stages, {"0.weight": "w", "0.bias": "b"}, adaptation=Adaptation(what="lora", rank=2))
    (low_rank,) = [module for module in part.modules() if isinstance(module, LowRank)]
    with torch.no_grad():
        low_rank.up.normal_()
    maps = torch.randn(2, 8, 6, 6)
    delta = 4.0 * (low_rank.up @ low_rank.down).reshape(weight.shape)
    torch.testing.assert_close(part(maps), F.conv2d(maps, weight + delta, bias, groups=groups))
    # Handed on under the official name: W with A and B in it.
    assert set(part.state()) == {"w", "b"}
    torch.testing.assert_close(part.state()["w"], weight + delta)
    assert torch.linalg.matrix_rank((part.state()["w"] - weight).flatten(1)) <= 2


def test_the_random_half_comes_from_the_seed_alone() -> None:
    def down(eyes: Encoder) -> Tensor:
        return torch.cat([module.down.flatten() for module in eyes.modules() if isinstance(module, LowRank)])

    first = down(encoder("lora"))
    torch.rand(5)
    assert torch.equal(first, down(encoder("lora")))
    assert not torch.equal(first, down(encoder("lora", seed=1)))
    assert all(not module.up.any() for module in encoder("lora").modules() if isinstance(module, LowRank))
    assert first.abs().max() <= 1 / 8**0.5, "uniform within the root of the smallest matrix's columns"
    assert first.std() > 0.1


@pytest.mark.parametrize("what", WAYS)
@pytest.mark.parametrize("shielded", [False, True])
def test_initialisers_reach_neither_the_settled_weights_nor_the_random_half(what: str, shielded: bool) -> None:
    torch.manual_seed(0)
    adaptation = Adaptation(what=what)  # type: ignore[arg-type]
    eyes = Encoder(mixed(), unfreeze="all", adaptation=adaptation, shielded=shielded)
    before = fingerprint(eyes.learned.state_dict())
    nn.Sequential(eyes).apply(partial(BasePolicy.init_weights, gain=1.0))
    assert fingerprint(eyes.learned.state_dict()) == before


@pytest.mark.parametrize("what", WAYS)
def test_targets_average_what_learns_and_keep_the_rest_to_the_bit(what: str) -> None:
    eyes = encoder(what)
    online, target = eyes.learned, copy.deepcopy(eyes.learned)
    twin = copy.deepcopy(eyes)
    assert torch.equal(twin(pixels()), eyes(pixels()))
    train(eyes)
    assert fingerprint(target.state()) == fingerprint(twin.state()), "a copy learns on its own"
    start, end = bits(dict(target.named_parameters())), bits(dict(online.named_parameters()))
    settled = bits(dict(target.named_buffers()))
    for _ in range(3):
        polyak_update(online.parameters(), target.parameters(), 0.005)
    for name, tensor in target.named_parameters():
        torch.testing.assert_close(tensor.detach(), end[name] + (start[name] - end[name]) * 0.995**3)
    assert fingerprint(dict(target.named_buffers())) == fingerprint(settled)


def test_averaging_rounds_frozen_parameters_which_is_why_they_are_buffers() -> None:
    torch.manual_seed(0)
    online = nn.Linear(64, 64).requires_grad_(False)
    target = copy.deepcopy(online)
    for _ in range(3):
        polyak_update(online.parameters(), target.parameters(), 0.005)
    assert not torch.equal(online.weight, target.weight)


@pytest.mark.parametrize("what", WAYS)
def test_state_dicts_go_from_one_to_another(what: str) -> None:
    eyes, other = encoder(what), encoder(what, seed=1)
    train(eyes)
    assert not torch.equal(eyes(pixels()), other(pixels()))
    other.learned.load_state_dict(eyes.learned.state_dict())
    assert torch.equal(eyes(pixels()), other(pixels()))
    assert eyes.sha256() == other.sha256()


@pytest.mark.parametrize("what", WAYS)
def test_a_trained_encoder_is_handed_on_through_a_weights_file(what: Any, tmp_path: Path) -> None:
    save_file(make_backbone("retina").model.state_dict(), tmp_path / "first.safetensors")
    options: dict[str, Any] = {"device": "cpu", "precision": "float32", "unfreeze": "layer2"}
    eyes = build("retina", "finetune", weights=tmp_path / "first.safetensors", adapt=what, **options)
    before = eyes.sha256()
    train(eyes)
    assert eyes.sha256() != before
    save_file({name: tensor.contiguous() for name, tensor in eyes.state().items()}, tmp_path / "second.safetensors")
    again = build("retina", "frozen", weights=tmp_path / "second.safetensors", device="cpu", precision="float32")
    eyes.eval()
    assert again.sha256() == eyes.sha256()
    torch.testing.assert_close(again(pixels()), eyes(pixels()))
    assert pickle.loads(pickle.dumps(eyes)).recipe == eyes.recipe, "as SB3 saves the policy's arguments"


@pytest.mark.parametrize(
    ("pinned", "what", "batchnorm", "moves"),
    [
        (True, "all", None, False),
        (True, "all", "frozen", False),
        (True, "all", "train", True),
        (True, "norm", None, False),
        (True, "lora", "train", True),
        (False, "all", None, True),
        (False, "all", "frozen", False),
        (False, "norm", None, False),
    ],
)
def test_statistics_move_where_they_were_asked_to(pinned: bool, what: Any, batchnorm: str | None, moves: bool) -> None:
    eyes = encoder(what, pinned=pinned, batchnorm=batchnorm)
    before = bits(eyes.state())
    train(eyes, 1)
    statistics = {name for name in changed(before, eyes.state()) if "running" in name or "num_batches" in name}
    assert bool(statistics) == moves
    eyes.eval()
    before = bits(eyes.state())
    eyes(pixels(9))
    assert not changed(before, eyes.state()), "a look in eval mode moves nothing"


def test_batchnorm_in_train_mode_normalises_by_the_batch() -> None:
    eyes = encoder("all", batchnorm="train", unfreeze="all").train()
    (norm,) = [module for module in eyes.modules() if isinstance(module, nn.BatchNorm2d)]
    seen: list[Tensor] = []
    norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))
    eyes(pixels())
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), torch.zeros(8), atol=1e-5, rtol=0)
    eyes.eval()
    eyes(pixels())
    assert seen[1].mean((0, 2, 3)).abs().max() > 1e-3


def test_a_part_without_such_layers_is_refused() -> None:
    with pytest.raises(EncoderError) as caught:
        Encoder(make_backbone("nature"), tap="conv3", unfreeze="conv2", adaptation=Adaptation(what="norm"))
    assert str(caught.value) == (
        "--adapt norm finds no normalisation layers with weights in what learns (conv2, conv3). Type --adapt all, or "
        "train from an earlier stage on (--unfreeze STAGE)."
    )
    with pytest.raises(EncoderError, match=r"--adapt lora finds no convolution or linear layer in what learns \(flat"):
        Learned({"flat": nn.Flatten()}, {}, adaptation=Adaptation(what="lora"))


@pytest.mark.filterwarnings("ignore")  # torch says that the first is old
@pytest.mark.parametrize(
    ("norm", "tensors"),
    [
        (nn.utils.weight_norm, "a Conv2d with weight_g, weight_v"),
        (nn.utils.parametrizations.spectral_norm, "a ParametrizedConv2d with parametrizations.weight.original"),
    ],
)
def test_weights_that_are_computed_are_nothing_to_add_to(norm: Callable[[nn.Module], nn.Module], tensors: str) -> None:
    layers = nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 4, 1))
    with pytest.raises(EncoderError) as caught:
        Learned({"layers": layers}, {}, adaptation=Adaptation(what="lora"))
    assert str(caught.value) == (
        "--adapt lora adds to the weights of layers, and 1 of 2 in what learns compute theirs from others, the first "
        f"of them {tensors}. Type --adapt all or --adapt norm, or let the function remove that from its layers."
    )


def test_merging_leaves_what_an_author_parametrised() -> None:
    layers = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))
    names = list(layers.state_dict())
    merge(layers)
    assert list(layers.state_dict()) == names


def _refused(choice: EncoderConfig) -> str:
    with pytest.raises(EncoderError) as caught:
        choice.check_encoder()
    return str(caught.value)


@pytest.mark.parametrize("mode", [Mode.FROZEN, Mode.RANDOM])
@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (partial(EncoderConfig, adapt="norm"), "--adapt norm"),
        (partial(EncoderConfig, adapt="lora"), "--adapt lora"),
        (partial(EncoderConfig, batchnorm="train"), "--batchnorm train"),
    ],
)
def test_ways_to_learn_are_refused_where_nothing_learns(
    mode: Mode, make: Callable[..., EncoderConfig], flag: str
) -> None:
    assert _refused(make(mode=mode)) == (
        f"{flag} says how the encoder learns, and with --mode {mode.value} it does not. Type --mode finetune, or drop "
        f"{flag}."
    )
    make(mode=Mode.FINETUNE).check_encoder()
    make(mode=Mode.SCRATCH).check_encoder()


def test_a_rank_that_adds_nothing_or_has_no_use_is_refused() -> None:
    lora = partial(EncoderConfig, mode=Mode.FINETUNE, adapt="lora")
    lora(lora_rank=1).check_encoder()
    for rank in (0, -3):
        assert _refused(lora(lora_rank=rank)) == f"--lora-rank {rank} adds nothing. Type a number from 1, say " + (
            "--lora-rank 8."
        )
    assert _refused(EncoderConfig(mode=Mode.FINETUNE, lora_rank=4)) == (
        "--lora-rank 4 has no use with --adapt all. Type --adapt lora, or drop it."
    )
