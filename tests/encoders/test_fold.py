"""Folding BatchNorm changes no output and leaves the original alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torchvision
from torch import Tensor, nn

from stillsight.encoders.encoder import fingerprint
from stillsight.encoders.engines.folded import fold


def lively(model: nn.Module) -> nn.Module:
    """Statistics of a network that has seen data: with mean 0 and variance 1, forgetting them would not show."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"])
def test_a_folded_network_is_the_same_function_without_batch_norm(name: str) -> None:
    torch.manual_seed(0)
    model = lively(getattr(torchvision.models, name)(weights=None))
    before = fingerprint(model.state_dict())
    folded = fold(model)
    assert norms(model) > 0
    assert norms(folded) == 0
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images), atol=1e-4, rtol=1e-4)
    assert fingerprint(model.state_dict()) == before


class Shared(nn.Module):
    """One convolution used twice, once before BatchNorm: folding it would change the other use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(images)))


class Fork(nn.Module):
    """The convolution's output is also needed before BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return maps + self.norm(maps)


class Looks(nn.Module):
    """Python code that depends on values cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.norm(self.conv(images))
        return maps if maps.sum() > 0 else -maps


class Normed(nn.Module):
    """Its convolution's weight is computed from others, by a parametrisation or by a hook before each forward pass."""

    def __init__(self, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.conv, self.norm = norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.norm(self.conv(images))
        return maps


@pytest.mark.filterwarnings("ignore")  # torch says that the hook is old
@pytest.mark.parametrize(
    "kind",
    [
        *(Shared, Fork, Looks),
        partial(Normed, nn.utils.parametrizations.spectral_norm),
        partial(Normed, nn.utils.parametrizations.weight_norm),
        partial(Normed, nn.utils.weight_norm),
    ],
)
def test_what_cannot_be_folded_stays_as_it_is(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = lively(kind())
    with torch.no_grad():
        model(torch.zeros(1, 3, 8, 8))  # torch copies no tensor that a graph hangs on
    folded = fold(model)
    assert norms(folded) == 1
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images))


class Optional(nn.Module):
    """Takes an argument that its network does not give."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, maps: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        maps = self.norm(self.conv(maps))
        return maps if bias is None else maps + bias


@torch.no_grad()
def test_an_argument_that_is_not_given_stays_away() -> None:
    stage = Optional().eval()
    images = torch.randn(2, 3, 8, 8)
    folded = fold(stage)
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    torch.testing.assert_close(folded(images), stage(images))
