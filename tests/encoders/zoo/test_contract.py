"""What a third party's stages must be: each breach is one sentence before anything trains, and our own rows keep it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stillsight.encoders import ENCODERS, Backbone, EncoderError, Preprocessing
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.taps.pooling import Pooling
from stillsight.encoders.zoo.contract.contract import check, check_at
from stillsight.encoders.zoo.contract.first_sight import FirstSight
from stillsight.encoders.zoo.registry import make_backbone


class Stage(nn.Module):
    """A stage whose forward pass is a function of its convolution's output."""

    def __init__(self, then: Callable[[Tensor], object] = lambda maps: maps, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, 4, 1)
        self.then = then

    def forward(self, images: Tensor) -> object:
        return self.then(self.conv(images))


def backbone(stage: nn.Module, model: nn.Module | None = None) -> Backbone:
    whole = nn.Sequential(stage) if model is None else model
    return Backbone(model=whole, stages={"only": stage}, preprocessing=Preprocessing(), tap="only")


@pytest.mark.parametrize(
    ("then", "sentence"),
    [
        (lambda maps: (maps, None), r"Stage only of x:y returns a tuple, and a stage must hand on one tensor"),
        (lambda maps: {"features": maps}, r"returns a dict"),
        (lambda maps: maps.half(), r"computes in float16, .* Return model\.float\(\)"),
        (lambda maps: maps.permute(0, 2, 3, 1), r"which is a map with its channels last\. .*permute\(0, 3, 1, 2\)"),
        (lambda maps: maps.mean(), r"hands on \[\]\. Allowed: a map"),
    ],
)
def test_a_stage_that_hands_on_something_else_is_a_sentence(then: Callable[[Tensor], object], sentence: str) -> None:
    with pytest.raises(EncoderError, match=sentence):
        check("x:y", backbone(Stage(then)))
    check("x:y", backbone(Stage()))
    check("x:y", backbone(Stage(lambda maps: maps.flatten(2).transpose(1, 2))))
    check("x:y", backbone(Stage(lambda maps: maps.mean((2, 3)))))


class Square(nn.Module):
    """Takes square images alone, and hands its maps on with their channels last, as Swin does."""

    def __init__(self, permuted: bool) -> None:
        super().__init__()
        self.conv, self.permuted = nn.Conv2d(3, 8, 4, 4), permuted

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[2] == images.shape[3]
        maps: Tensor = self.conv(images)
        return maps if self.permuted else maps.permute(0, 2, 3, 1)


def test_channels_last_maps_are_told_on_square_images_too() -> None:
    with pytest.raises(EncoderError, match="channels last"):
        check("x:y", backbone(Square(permuted=False)))
    check("x:y", backbone(Square(permuted=True)))


class Unregistered(nn.Module):
    """Adds positions that it only borrowed: a vision transformer whose embedding holds them in a list."""

    def __init__(self, positions: nn.Parameter, *, registered: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.borrowed = [positions]
        if registered:
            self.positions = positions

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.conv(images) + self.borrowed[0]
        return maps


@pytest.mark.parametrize("registered", [False, True])
def test_a_parameter_that_no_stage_owns_but_one_uses_is_refused(registered: bool) -> None:
    model = nn.Module()
    model.pos_embed = nn.Parameter(torch.randn(1, 8, 1, 1))
    model.head = nn.Linear(8, 2)  # nobody needs it
    model.embed = Unregistered(model.pos_embed, registered=registered)
    if registered:
        check("x:y", backbone(model.embed, model))
        return
    with pytest.raises(EncoderError, match=r"x:y computes with pos_embed, which none of the stages that run holds"):
        check("x:y", backbone(model.embed, model))


def test_a_stage_of_copies_is_a_sentence_and_not_a_number() -> None:
    broken = backbone(Stage(), model=nn.Sequential(Stage()))
    with pytest.raises(EncoderError, match=r"Stage only holds conv\.weight, which is no tensor of the network"):
        Encoder(broken)


def test_tokens_that_form_no_square_are_averaged_or_refused() -> None:
    tokens = torch.randn(2, 1 + 6, 4)
    torch.testing.assert_close(Pooling("global", 1)(tokens), tokens[:, 1:].mean(1))
    torch.testing.assert_close(Pooling("cls", 1)(tokens), tokens[:, 0])
    with pytest.raises(EncoderError, match=r"6 patch tokens, which form no square, and --pooling grid2"):
        Pooling("grid2", 1)(tokens)


# What changes, and what depends on what else passes ------------------------------------------------------------------


class Running(nn.Module):
    """Keeps a running mean, in eval mode too."""

    mean: Tensor

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 4)
        self.register_buffer("mean", torch.zeros(8), persistent=persistent)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.conv(images)
        with torch.no_grad():
            self.mean.add_((maps.mean((0, 2, 3)) - self.mean) * 1e-4)
        return maps - self.mean.view(1, -1, 1, 1)


@pytest.mark.parametrize("persistent", [True, False])
def test_a_buffer_that_moves_when_images_pass_is_refused(persistent: bool) -> None:
    with pytest.raises(EncoderError, match=r"^x:y changes \S*mean whenever images pass, in eval mode too"):
        check("x:y", backbone(Running(persistent=persistent)))


@pytest.mark.filterwarnings("ignore")  # torch.jit says that it is old
@pytest.mark.parametrize("training", [True, False])
def test_a_trace_made_in_train_mode_is_refused(training: bool) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.Dropout(0.3)).train(training)
    traced = torch.jit.trace(layers, torch.rand(2, 3, 48, 48), check_trace=False)
    if training:
        with pytest.raises(EncoderError, match=r"x:y changes \S*running_mean .* torch\.jit\.trace\(model\.eval\(\), "):
            check("x:y", backbone(traced))
    else:
        assert check("x:y", backbone(traced))


class Cached(nn.Module):
    """Makes its table when the first image of a size passes, which is no change of what it computes."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 4)
        self.register_buffer("table", torch.zeros(0), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.conv(images)
        if self.table.shape != maps.shape[2:]:
            self.table = torch.linspace(0, 1, maps.shape[2] * maps.shape[3]).view(maps.shape[2:])
        return maps + self.table


def test_a_table_that_is_made_for_a_size_is_no_change() -> None:
    assert check("x:y", backbone(Cached()))


def test_dropout_that_is_always_on_is_refused_and_changes_nobodys_random_numbers() -> None:
    always = backbone(Stage(lambda maps: nn.functional.dropout(maps, 0.1)))
    before = torch.get_rng_state()
    with pytest.raises(EncoderError, match=r"Stage only of x:y hands on other numbers when the same images pass once"):
        check("x:y", always)
    assert torch.equal(torch.get_rng_state(), before)
    dropping = nn.Sequential(Stage(), nn.Dropout(0.5))
    assert check("x:y", backbone(dropping)), "which is off in eval mode"
    assert dropping[1].training, "and as it was afterwards"


@pytest.mark.parametrize(
    "then",
    [
        lambda maps: maps - maps.mean((0, 2, 3), keepdim=True),
        lambda maps: maps / maps.std((0, 2, 3), keepdim=True),
        lambda maps: maps - maps[:1],
        lambda maps: nn.functional.batch_norm(maps, None, None, training=True),
    ],
)
def test_features_that_depend_on_the_batch_are_refused(then: Callable[[Tensor], object]) -> None:
    with pytest.raises(EncoderError, match=r"What stage only of x:y hands on of an image depends on its batch, by"):
        check("x:y", backbone(Stage(then)))
    assert check("x:y", backbone(Stage(lambda maps: maps - maps.mean((2, 3), keepdim=True))))


@pytest.mark.parametrize("asleep", [False, True])
def test_a_network_that_is_to_learn_and_gets_no_gradient_is_refused(asleep: bool) -> None:
    """The failure it prevents: a finetune run that is a frozen one, and is compared with it."""
    blind, open_ = backbone(Stage(lambda maps: maps.detach())), backbone(Stage())
    for each in (blind, open_):
        each.model.requires_grad_(not asleep)  # whatever its author did, what is to learn is woken up
    check("x:y", blind)
    check("x:y", open_, learns="all")
    with pytest.raises(EncoderError, match=r"Stage only of x:y hands on features without a gradient, .* --mode frozen"):
        check("x:y", blind, learns="all")
    with pytest.raises(EncoderError, match="without a gradient"):
        FirstSight("x:y", blind, learns="all")((48, 48))
    for each in (blind, open_):
        assert {parameter.requires_grad for parameter in each.model.parameters()} == {not asleep}


class Projected(nn.Module):
    """Frozen eyes and a projection that learns, as one stage: finetuned, the eyes would stay as they are.

    Args:
        cut: ends the gradient between the two.
        scale: gives it a `scale`, by which the maps are multiplied and which gets no gradient.
    """

    def __init__(self, cut: bool, scale: Callable[[nn.Module], None] | None = None) -> None:
        super().__init__()
        self.eyes, self.projection, self.cut = nn.Conv2d(3, 8, 3, 4), nn.Conv2d(8, 4, 1), cut
        self.unused = nn.Parameter(torch.ones(3))
        if scale is not None:
            scale(self)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.eyes(images)
        maps = maps * getattr(self, "scale", torch.ones(1)).detach()
        features: Tensor = self.projection(maps.detach() if self.cut else maps)
        return features


def test_a_weight_that_is_to_learn_and_gets_no_gradient_is_named() -> None:
    blind, open_ = backbone(Projected(cut=True)), backbone(Projected(cut=False))
    check("x:y", blind)
    check("x:y", open_, learns="all")  # what is unused needs none
    kept = torch.ones(3)
    open_.model[0].unused.grad = kept
    check("x:y", open_, learns="all")
    assert open_.model[0].unused.grad is kept, "gradients are as they were"
    assert all(weight.grad is None for weight in open_.model[0].eyes.parameters())
    with pytest.raises(EncoderError, match=r"0\.eyes\.weight of x:y is in its features and gets no gradient.*buffer"):
        check("x:y", blind, learns="all")
    parameter = Projected(False, lambda module: module.register_parameter("scale", nn.Parameter(torch.ones(1))))
    with pytest.raises(EncoderError, match=r"0\.scale of x:y is in its features and gets no gradient"):
        check("x:y", backbone(parameter), learns="all")
    buffer = Projected(False, lambda module: module.register_buffer("scale", torch.ones(1)))
    check("x:y", backbone(buffer), learns="all")


def test_what_lies_before_the_stages_that_learn_needs_no_gradient() -> None:
    eyes, behind = Stage(lambda maps: maps.detach()), Stage(channels=8)
    two = Backbone(
        model=nn.Sequential(eyes, behind),
        stages={"eyes": eyes, "behind": behind},
        preprocessing=Preprocessing(),
        tap="behind",
    )
    check("x:y", two, learns="behind")
    for learns in ("all", "eyes"):
        with pytest.raises(EncoderError, match=r"0\.conv\.weight of x:y .* \(--unfreeze STAGE\)"):
            check("x:y", two, learns=learns)


class OneWay(torch.autograd.Function):
    """Its author wrote no backward pass."""

    @staticmethod
    def forward(_: object, maps: Tensor) -> Tensor:
        return maps.clone()


def test_an_operation_without_a_gradient_is_a_sentence() -> None:
    one_way = backbone(Stage(OneWay.apply))
    check("x:y", one_way)
    with pytest.raises(
        EncoderError, match=r"No gradient of x:y can be computed \(NotImplementedError: .* --mode frozen"
    ):
        check("x:y", one_way, learns="all")


@pytest.mark.parametrize(
    "then",
    [
        lambda maps: nn.functional.silu(maps, inplace=True),
        lambda maps: maps.relu_(),  # of the second look on it changes no number
        lambda maps: maps.data.mul_(2) + 0,  # which nothing counts
        lambda maps: maps[:, 1:].add_(1),
    ],
)
def test_a_stage_that_changes_what_it_is_given_is_refused(then: Callable[[Tensor], Tensor]) -> None:
    class Behind(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return then(maps)

    def two(behind: nn.Module) -> Backbone:
        low = Stage()
        whole = nn.Sequential(low, behind)
        return Backbone(model=whole, stages={"low": low, "high": behind}, preprocessing=Preprocessing(), tap="low,high")

    with pytest.raises(
        EncoderError, match=r"Stage high of x:y changes the tensor that it is given, in place, .* x \+= z"
    ):
        check("x:y", two(Behind()))
    with pytest.raises(EncoderError, match=r"Stage high of x:y changes the tensor"):
        FirstSight("x:y", two(Behind()))((48, 48))
    for module in (nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.Sequential(nn.Identity(), nn.ELU(inplace=True))):
        assert check("x:y", two(module), learns="all"), "a module is told not to"
    assert check("x:y", backbone(Stage(lambda maps: maps.relu_()))), "of what is its own a stage does what it likes"


class Stubborn(nn.Module):
    """Keeps its BatchNorm in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.norm(self.conv(images))
        return maps

    def train(self, mode: bool = True) -> Stubborn:
        super().train(mode)
        self.norm.train()
        return self


class Silent(Stage):
    """Its eval() returns nothing."""

    def eval(self) -> None:  # type: ignore[override]
        super().train(False)


def test_a_stage_that_does_not_go_into_eval_mode_is_refused_by_name() -> None:
    with pytest.raises(EncoderError, match=r"Stage only of x:y keeps norm \(BatchNorm2d\) in train mode after eval"):
        check("x:y", backbone(Stubborn()))
    with pytest.raises(EncoderError, match=r"eval\(\) of stage only of x:y returns a NoneType"):
        check("x:y", backbone(Silent()))


# What it holds --------------------------------------------------------------------------------------------------------


def borrowing(tensor: Tensor) -> Backbone:
    """A network that computes with `tensor`, which is its own and not its stage's."""
    model = nn.Module()
    if isinstance(tensor, nn.Parameter):
        model.borrowed = tensor
    else:
        model.register_buffer("borrowed", tensor)
    model.head = nn.Linear(8, 2)
    model.embed = Stage(lambda maps: maps[:, model.borrowed] if not tensor.is_floating_point() else maps * tensor)
    return backbone(model.embed, model)


@pytest.mark.parametrize(
    "tensor",
    [
        nn.Parameter(torch.ones(1, 8, 1, 1), requires_grad=False),  # which no gradient shows
        nn.Parameter(torch.full((1, 8, 1, 1), 1e-30)),  # which a small change would not show
        torch.ones(1, 8, 1, 1),
        torch.arange(8),
        torch.arange(8) > 3,
    ],
)
def test_whatever_is_used_and_held_by_no_stage_is_refused(tensor: Tensor) -> None:
    before = tensor.detach().clone()
    with pytest.raises(EncoderError, match=r"x:y computes with borrowed, which none of the stages that run holds"):
        check("x:y", borrowing(tensor))
    assert torch.equal(tensor, before), "it holds again what it held"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_float32_are_refused_without_an_image(dtype: torch.dtype) -> None:
    with pytest.raises(EncoderError, match=r"Stage only of x:y holds conv\.weight in \w+, and .* Return model\.float"):
        check("x:y", backbone(Stage().to(dtype)))


@pytest.mark.filterwarnings("ignore")  # torch says that quantising goes elsewhere
def test_shapes_that_are_not_known_and_quantised_layers_are_refused() -> None:
    with pytest.raises(EncoderError, match=r"holds 0\.weight, whose shape is not known before an image has passed"):
        check("x:y", backbone(nn.Sequential(nn.LazyConv2d(8, 3))))
    dense = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    quantised = torch.ao.quantization.quantize_dynamic(dense, {nn.Linear})
    with pytest.raises(EncoderError, match=r"holds 3\._packed_params\S*, which is .* before it is quantised"):
        check("x:y", backbone(quantised))


def test_tokens_with_their_channels_first_are_told_by_another_size() -> None:
    with pytest.raises(
        EncoderError, match=r"hands on \[2, 8, 288\] of one image and \[2, 8, 144\] .*transpose\(1, 2\)"
    ):
        check("x:y", backbone(Stage(lambda maps: maps.flatten(2))))
    assert check("x:y", backbone(Stage(lambda maps: maps.flatten(2)[:, :, :4].transpose(1, 2))))


# Where no probe gets through -----------------------------------------------------------------------------------------


class OneSize(nn.Module):
    """Takes images of 64 px alone, of which nothing tells."""

    def __init__(self, then: Callable[[Tensor], Tensor] = lambda maps: maps) -> None:
        super().__init__()
        self.conv, self.then = nn.Conv2d(3, 24, 8, 8), then
        self.positions = nn.Parameter(torch.zeros(1, 24, 8, 8))

    def forward(self, images: Tensor) -> Tensor:
        return self.then(self.conv(images) + self.positions)


def test_a_network_of_one_size_is_looked_at_when_images_of_it_come() -> None:
    assert not check("x:y", backbone(OneSize()))
    assert check("x:y", replace(backbone(OneSize()), fixed=64))
    assert check("x:y", replace(backbone(OneSize()), preprocessing=Preprocessing(size=64))), "its recipe says so"
    last = backbone(OneSize(lambda maps: maps.permute(0, 2, 3, 1)))
    assert not check("x:y", last)
    sight = FirstSight("x:y", last)
    encoder = Encoder(last, tap="only", first_sight=sight)
    with pytest.raises(EncoderError, match=r"channels last"):
        encoder(torch.zeros(1, 3, 64, 64))
    with pytest.raises(EncoderError, match=r"Images of 32 x 32 px do not get through stage only of x:y \(RuntimeError"):
        copy.deepcopy(encoder)(torch.zeros(1, 3, 32, 32))


def test_a_network_that_no_image_passes_is_a_sentence_with_its_own_words() -> None:
    gray = backbone(nn.Sequential(nn.Conv2d(1, 8, 3, 4)))
    assert not check("x:y", gray)
    with pytest.raises(EncoderError, match=r"expected input\[2, 3, 64, 64\] to have 1 channels, but got 3 channels"):
        check_at("x:y", gray, (64, 64))


def test_an_encoder_that_was_looked_at_is_not_looked_at_again() -> None:
    looks: list[tuple[int, int]] = []
    encoder = Encoder(backbone(Stage()), resolution=32, first_sight=looks.append)
    encoder(torch.zeros(1, 3, 64, 48))
    assert looks == [(32, 32)], "at the size that the network sees"
    passes: list[Tensor] = []
    sight = FirstSight("x:y", backbone(Stage(lambda maps: passes.append(maps) or maps)))
    sight((32, 32))
    once = len(passes)
    sight((32, 32))
    assert len(passes) == once > 1


def test_what_was_refused_is_refused_the_next_time() -> None:
    sight = FirstSight("x:y", backbone(Stage(lambda maps: maps.permute(0, 2, 3, 1))))
    for _ in range(2):
        with pytest.raises(EncoderError, match="channels last"):
            sight((32, 48))


def test_the_first_sight_may_be_one_without_gradients() -> None:
    """`Frozen.encode` runs in inference mode, in which no weight gets a gradient."""
    two = backbone(OneSize())
    encoder = Encoder(two, tap="only", first_sight=FirstSight("x:y", two, learns="all"))
    assert encoder.frozen.encode(np.zeros((2, 3, 64, 64), np.uint8)).shape == (2, 24)
    blind = backbone(OneSize(lambda maps: maps.detach()))
    with torch.inference_mode():
        FirstSight("x:y", two, learns="all")((64, 64))
        with pytest.raises(EncoderError, match="without a gradient"):
            FirstSight("x:y", blind, learns="all")((64, 64))


@pytest.mark.parametrize("name", ENCODERS)
def test_every_row_of_the_registry_keeps_the_contract(name: str) -> None:
    check(name, make_backbone(name))
