"""Nature, IMPALA and DrQ compute what their papers say, by arithmetic that is written out here and shares no layer with
them; and Nature what Stable-Baselines3's own computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from stillsight.encoders import Encoder, build

SIDE = 84
Layer = tuple[np.ndarray, np.ndarray]
"""Weight `[out, in, k, k]` and bias `[out]` of a convolution."""


def convolved(maps: np.ndarray, layer: Layer, stride: int = 1, padding: int = 0) -> np.ndarray:
    """Maps `[N, C, H, W]` under a window that is moved over them: the sum of products, and the bias."""
    weight, bias = layer
    padded = np.pad(maps, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(padded, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    summed = np.tensordot(windows, weight, axes=((1, 4, 5), (1, 2, 3)))  # [N, H, W, out]
    return np.moveaxis(summed + bias, 3, 1)


def pooled(maps: np.ndarray) -> np.ndarray:
    """The largest number of each 3 x 3 window, every second one, with nothing around the edge."""
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    return sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(4, 5))


def rectified(maps: np.ndarray) -> np.ndarray:
    return np.maximum(maps, 0.0)


def nature(pixels: np.ndarray, layers: Sequence[Layer]) -> np.ndarray:
    """Mnih et al. 2015, Methods, Model architecture: 32 filters of 8 x 8 with stride 4, 64 of 4 x 4 with stride 2, and
    64 of 3 x 3 with stride 1, each followed by a rectifier; pixels from 0 to 1."""
    maps = pixels / 255.0
    for layer, (filters, side, stride) in zip(layers, ((32, 8, 4), (64, 4, 2), (64, 3, 1)), strict=True):
        assert layer[0].shape[0] == filters
        assert layer[0].shape[2:] == (side, side)
        maps = rectified(convolved(maps, layer, stride))
    return maps


def impala(pixels: np.ndarray, layers: Sequence[Layer]) -> np.ndarray:
    """Espeholt et al. 2018, figure 3, right: three sections of 16, 32 and 32 channels, each a convolution of 3 x 3, a
    maximum of 3 x 3 with stride 2, and two residual blocks (rectifier, convolution, rectifier, convolution, and what
    came in); a rectifier at the end; pixels from 0 to 1."""
    maps = pixels / 255.0
    left = iter(layers)
    for channels in (16, 32, 32):
        section = [next(left) for _ in range(5)]
        assert all(weight.shape[0] == channels and weight.shape[2:] == (3, 3) for weight, _ in section)
        maps = pooled(convolved(maps, section[0], padding=1))
        for first, second in (section[1:3], section[3:5]):
            inner = convolved(rectified(maps), first, padding=1)
            maps = maps + convolved(rectified(inner), second, padding=1)
    assert next(left, None) is None
    return rectified(maps)


def drq(pixels: np.ndarray, layers: Sequence[Layer]) -> np.ndarray:
    """Yarats et al. 2021 (DrQ-v2), drqv2.py: four convolutions of 32 filters of 3 x 3, the first with stride 2, none
    with padding, each followed by a rectifier; pixels from -0.5 to 0.5."""
    maps = pixels / 255.0 - 0.5
    for number, layer in enumerate(layers):
        assert layer[0].shape[0] == 32
        assert layer[0].shape[2:] == (3, 3)
        maps = rectified(convolved(maps, layer, 2 if number == 0 else 1))
    assert len(layers) == 4
    return maps


class Paper(NamedTuple):
    """A network as its paper has it.

    Attributes:
        forward: from pixels `[N, 3, H, W]` and layers to maps.
        shape: of these for 84 x 84 pixels.
        parameters: of its convolutions, for three channels of colour.
    """

    forward: Callable[[np.ndarray, Sequence[Layer]], np.ndarray]
    shape: tuple[int, int, int]
    parameters: int


PAPERS = {
    "nature": Paper(nature, (64, 7, 7), 32 * 193 + 64 * 513 + 64 * 577),
    "impala": Paper(impala, (32, 11, 11), 16 * 28 + 4 * 16 * 145 + 32 * 145 + 4 * 32 * 289 + 32 * 289 + 4 * 32 * 289),
    "drq": Paper(drq, (32, 35, 35), 32 * 28 + 3 * 32 * 289),
}


def pictures() -> Tensor:
    """Fixed uint8 `[4, 3, 84, 84]`: noise, a slope of other steepness in each colour, black, and white."""
    noise = torch.randint(0, 256, (3, SIDE, SIDE), generator=torch.Generator().manual_seed(8))
    slope = torch.arange(SIDE)
    slopes = torch.stack([slope[:, None] + slope, 255 - 3 * slope[:, None] + 0 * slope, 2 * slope + 0 * slope[:, None]])
    black = torch.zeros(3, SIDE, SIDE)
    return torch.stack([noise, slopes, black, black + 255]).to(torch.uint8)


def seeded(name: str, seed: int) -> Encoder:
    """The encoder with the weights that this seed gives, and biases that are not zero in any of the three."""
    encoder = build(name, "random", pooling="flatten", seed=seed, precision="float32", device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in encoder.state().items():
            if key.endswith("bias"):
                tensor.normal_(0, 0.1, generator=generator)
    return encoder


def convolutions(encoder: Encoder) -> list[Layer]:
    """Its weights and biases in float64, in the order in which images go through them."""
    tensors = [tensor.numpy().astype(np.float64) for tensor in encoder.state().values()]
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def alike(found: Tensor, expected: np.ndarray) -> None:
    """Both `[N, F]` are the same to within rounding, and point the same way."""
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert expected.std() > 0.01, "they tell images apart"
    given = found.numpy().astype(np.float64)
    assert np.abs(given - expected).max() < 1e-5
    for one, other in zip(given, expected, strict=True):
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.9999


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", PAPERS)
def test_features_are_those_of_the_paper(name: str, seed: int) -> None:
    paper, encoder, images = PAPERS[name], seeded(name, seed), pictures()
    layers = convolutions(encoder)
    assert sum(weight.size + bias.size for weight, bias in layers) == paper.parameters
    assert all(bias.all() for _, bias in layers)
    maps = paper.forward(images.numpy().astype(np.float64), layers)
    assert maps.shape == (4, *paper.shape)
    features = encoder(images)
    assert features.shape == (4, int(np.prod(paper.shape)))
    alike(features, maps.reshape(4, -1))
    assert not np.allclose(maps[0], maps[1])


def test_nature_is_that_of_stable_baselines3() -> None:
    from stable_baselines3.common.torch_layers import NatureCNN

    encoder, images = seeded("nature", 3), pictures()
    theirs = NatureCNN(spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8), features_dim=512)
    layers = [layer for layer in theirs.cnn if isinstance(layer, nn.Conv2d)]
    assert isinstance(theirs.cnn[-1], nn.Flatten)
    with torch.no_grad():
        tensors = iter(encoder.state().values())
        for layer in layers:
            assert layer.bias is not None
            layer.weight.copy_(next(tensors))
            layer.bias.copy_(next(tensors))
        assert next(tensors, None) is None
        expected = theirs.cnn(images.float() / 255)  # as its policies divide before it
    assert expected.shape == (4, 3136)
    alike(encoder(images), expected.numpy().astype(np.float64))


def test_drq_begins_as_its_code_does() -> None:
    """Orthogonal weights with the gain of a rectifier, and no biases (drqv2.py, utils.weight_init)."""
    encoder = build("drq", "random", pooling="flatten", seed=2, precision="float32", device="cpu")
    for weight, bias in convolutions(encoder):
        rows = weight.reshape(32, -1)
        gram = rows @ rows.T if rows.shape[1] >= 32 else rows.T @ rows
        assert np.allclose(gram, 2 * np.eye(len(gram)), atol=1e-4)
        assert not bias.any()
