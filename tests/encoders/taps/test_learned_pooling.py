"""Poolings that learn, by numpy and by torch's own layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders import EncoderError
from stillsight.encoders.taps.handover import Layout
from stillsight.encoders.taps.learned_pooling import AttentionPooling, ConvPooling, sine_positions


def positions(rows: int, columns: int, channels: int) -> np.ndarray:
    """By loops, as the formula says."""
    quarter = channels // 4
    found = np.zeros((rows * columns, channels))
    for row in range(rows):
        for column in range(columns):
            for index in range(quarter):
                for half, place in ((0, column), (1, row)):
                    angle = place / 10_000 ** (index / quarter)
                    found[row * columns + column, half * 2 * quarter + index] = np.sin(angle)
                    found[row * columns + column, half * 2 * quarter + quarter + index] = np.cos(angle)
    return found


@pytest.mark.parametrize(("rows", "columns", "channels"), [(2, 3, 8), (4, 1, 10), (1, 1, 4), (2, 2, 3)])
def test_positions_are_sines_of_column_and_row(rows: int, columns: int, channels: int) -> None:
    found = sine_positions(rows, columns, channels).numpy()
    np.testing.assert_allclose(found, positions(rows, columns, channels), atol=1e-6)


def attended(maps: np.ndarray, pooling: AttentionPooling) -> np.ndarray:
    """The pooling of `[N, C, h, w]`, by loops in double precision."""
    count, channels, rows, columns = maps.shape
    queries = pooling.queries.detach().double().numpy()
    scale, shift = (t.detach().double().numpy() for t in (pooling.norm.weight, pooling.norm.bias))
    where = positions(rows, columns, channels)
    found = np.zeros((count, channels + 2, len(queries)))
    for image in range(count):
        values = maps[image].reshape(channels, -1).T
        values = (values - values.mean(1, keepdims=True)) / np.sqrt(values.var(1, keepdims=True) + 1e-5) * scale + shift
        for index, query in enumerate(queries):
            scores = np.array([query @ (value + place) for value, place in zip(values, where, strict=True)])
            weights = np.exp(scores / np.sqrt(channels))
            weights /= weights.sum()
            found[image, :channels, index] = weights @ values
            y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
            found[image, channels:, index] = weights @ x.ravel(), weights @ y.ravel()
    return found.reshape(count, -1)


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (2, 5)])
def test_attention_is_a_mean_by_what_each_query_looks_for(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    pooling = AttentionPooling("attention3", 8)
    nn.init.normal_(pooling.norm.weight)
    nn.init.normal_(pooling.norm.bias)
    maps = torch.randn(2, 8, rows, columns)
    torch.testing.assert_close(
        pooling(maps).double(), torch.from_numpy(attended(maps.double().numpy(), pooling)), atol=1e-5, rtol=1e-5
    )


def test_attention_says_where_its_query_has_found_something() -> None:
    pooling = AttentionPooling("attention1", 4)
    with torch.no_grad():
        pooling.queries.copy_(torch.tensor([[200.0, -200.0, 0.0, 0.0]]))
    maps = torch.zeros(1, 4, 3, 5)
    maps[0, :, 2, 1] = torch.tensor([1.0, -1.0, 0.0, 0.0])
    pooled = pooling(maps)[0]
    torch.testing.assert_close(pooled[4:], torch.tensor([-0.5, 1.0]), atol=1e-4, rtol=0)  # x, then y
    torch.testing.assert_close(pooled[:4], torch.tensor([2**0.5, -(2**0.5), 0.0, 0.0]), atol=1e-3, rtol=0)


def as_tokens(maps: Tensor) -> Tensor:
    """Patch tokens of a map with a class token and a register before them."""
    return torch.cat([torch.full((len(maps), 2, maps.shape[1]), 50.0), maps.flatten(2).transpose(1, 2)], 1)


@pytest.mark.parametrize("kind", [AttentionPooling, ConvPooling])
def test_tokens_are_pooled_as_the_map_in_which_they_lie(kind: type[AttentionPooling] | type[ConvPooling]) -> None:
    torch.manual_seed(0)
    name = "attention2" if kind is AttentionPooling else "conv3"
    pooling = kind(name, 8, 2, Layout(image=(32, 96)))
    maps = torch.randn(2, 8, 2, 6)
    torch.testing.assert_close(pooling(as_tokens(maps)), pooling(maps))
    with pytest.raises(EncoderError, match=rf"gives 12 patch tokens, which form no square, and --pooling {name} needs"):
        kind(name, 8, 2, Layout(image=(64, 64)))(as_tokens(maps))
    with pytest.raises(EncoderError, match=r"form no grid in the proportions of an image of 10 x 70 px"):
        kind(name, 8, 2, Layout(image=(10, 70)))(as_tokens(maps))
    with pytest.raises(EncoderError, match=rf"gives a vector of 8 features, and --pooling {name} is of a map"):
        pooling(torch.randn(2, 8))


def test_the_convolution_is_torchs_own_with_one_group_norm_and_relu() -> None:
    torch.manual_seed(0)
    pooling = ConvPooling("conv3", 8)
    nn.init.normal_(pooling.norm.weight)
    nn.init.normal_(pooling.norm.bias)
    maps = torch.randn(2, 8, 4, 5)
    compressed = F.conv2d(maps, pooling.convolution.weight, padding=1)
    expected = F.relu(F.group_norm(compressed, 1, pooling.norm.weight, pooling.norm.bias)).flatten(1)
    assert pooling(maps).shape == (2, 3 * 4 * 5)
    torch.testing.assert_close(pooling(maps), expected)
    rows = pooling.convolution.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(3), atol=1e-5, rtol=0)  # orthogonal, gain sqrt(2)


def test_an_initialiser_that_walks_over_a_policy_leaves_it_as_it_is() -> None:
    policy = nn.Sequential(nn.Conv2d(3, 8, 1), ConvPooling("conv3", 8))
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}

    def initialise(module: nn.Module) -> None:
        for parameter in module.parameters(recurse=False):
            nn.init.constant_(parameter, 7)

    policy.apply(initialise)
    changed = {name for name, tensor in policy.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"0.weight", "0.bias"}


def test_features_are_float32_whatever_comes_in() -> None:
    maps = torch.randn(1, 8, 3, 3).to(torch.bfloat16)
    for pooling in (AttentionPooling("attention2", 8), ConvPooling("conv3", 8)):
        assert pooling(maps).dtype == torch.float32
