"""What a third party's stages must be: each breach is one sentence before anything trains, and our own rows keep it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stillsight.encoders import ENCODERS, Backbone, EncoderError, Preprocessing
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.taps.pooling import Pooling
from stillsight.encoders.zoo.contract import check
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
    with pytest.raises(EncoderError, match=r"x:y computes with pos_embed, which none of its stages holds"):
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


@pytest.mark.parametrize("name", ENCODERS)
def test_every_row_of_the_registry_keeps_the_contract(name: str) -> None:
    check(name, make_backbone(name))
