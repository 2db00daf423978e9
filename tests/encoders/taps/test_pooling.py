"""From a map to a vector, by known answers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillsight.encoders import EncoderError
from stillsight.encoders.taps.pooling import Pooling
from stillsight.encoders.taps.tap import check_pooling, poolings

MAP = torch.tensor([[[[1.0, 3.0, 10.0, 20.0], [5.0, 7.0, 30.0, 40.0], [0.0, 0.0, -1.0, -2.0], [0.0, 4.0, -3.0, -6.0]]]])
"""One image, one channel, 4 x 4; its quarters average to 4, 25, 1 and -3."""


def two_channels() -> Tensor:
    return torch.cat([MAP, MAP * 10], dim=1)


def test_global_is_the_mean_of_each_channel() -> None:
    assert Pooling("global")(two_channels()).tolist() == [[6.75, 67.5]]


def test_grid2_keeps_the_quarters_apart_channels_first() -> None:
    assert Pooling("grid2")(two_channels()).tolist() == [[4.0, 25.0, 1.0, -3.0, 40.0, 250.0, 10.0, -30.0]]


def test_flatten_keeps_every_value_channels_first() -> None:
    maps = two_channels()
    assert torch.equal(Pooling("flatten")(maps)[0], torch.cat([maps[0, 0].reshape(-1), maps[0, 1].reshape(-1)]))


def test_flatten_does_not_depend_on_the_memory_layout() -> None:
    maps = torch.rand(2, 3, 4, 5)
    for name in ("flatten", "softmax", "grid2", "global"):
        pooled = Pooling(name)(maps.to(memory_format=torch.channels_last))
        assert torch.allclose(pooled, Pooling(name)(maps), atol=1e-6)


@pytest.mark.parametrize(
    ("row", "column", "x", "y"), [(0, 0, -1.0, -1.0), (0, 4, 1.0, -1.0), (2, 4, 1.0, 1.0), (1, 1, -0.5, 0.0)]
)
def test_softmax_gives_the_place_of_a_single_bright_pixel(row: int, column: int, x: float, y: float) -> None:
    maps = torch.zeros(1, 2, 3, 5)
    maps[0, 0, row, column] = 1000.0
    # Channel 0 sees the pixel, channel 1 is empty and so answers with the centre: x of both channels, then y of both.
    assert Pooling("softmax")(maps).tolist() == [pytest.approx([x, 0.0, y, 0.0], abs=1e-6)]


def test_cls_is_the_first_token() -> None:
    tokens = torch.arange(2 * 5 * 3).reshape(2, 5, 3)
    assert Pooling("cls", class_tokens=1)(tokens).tolist() == [[0.0, 1.0, 2.0], [15.0, 16.0, 17.0]]


def test_tokens_are_a_map_row_by_row_without_the_class_token() -> None:
    tokens = torch.cat([torch.full((1, 1, 1), 1000.0), MAP.reshape(1, 16, 1)], dim=1)
    assert Pooling("grid2", class_tokens=1)(tokens).tolist() == [[4.0, 25.0, 1.0, -3.0]]
    assert Pooling("global", class_tokens=1)(tokens).tolist() == [[6.75]]
    assert torch.equal(Pooling("flatten", class_tokens=1)(tokens), MAP.flatten(1))


def test_a_vector_stays_what_it_is() -> None:
    vector = torch.rand(3, 7)
    for name in ("global", "flatten"):
        assert torch.equal(Pooling(name)(vector), vector)
    for name in ("grid4", "softmax"):  # which would be taken for channels at places
        with pytest.raises(EncoderError, match=rf"a vector of 7 features, and --pooling {name} is of a map"):
            Pooling(name)(vector)


def test_features_are_float32_whatever_comes_in() -> None:
    for name in ("global", "grid2", "flatten", "softmax"):
        assert Pooling(name)(MAP.to(torch.bfloat16)).dtype == torch.float32


sizes = st.integers(1, 9)


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 3), channels=st.integers(1, 4), height=sizes, width=sizes, seed=st.integers(0, 1000))
def test_each_pooling_is_a_mean_of_the_next_finer_one(
    count: int, channels: int, height: int, width: int, seed: int
) -> None:
    maps = torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed))
    whole = Pooling("global")(maps)
    assert torch.allclose(Pooling("grid1")(maps), whole, atol=1e-5)
    flat = Pooling("flatten")(maps)
    assert flat.shape == (count, channels * height * width)
    assert torch.allclose(flat.unflatten(1, (channels, -1)).mean(2), whole, atol=1e-5)
    if height % 2 == 0 and width % 2 == 0:
        assert torch.allclose(Pooling("grid2")(maps).unflatten(1, (channels, 4)).mean(2), whole, atol=1e-5)
    places = Pooling("softmax")(maps)
    assert places.shape == (count, 2 * channels)
    assert (places.abs() <= 1 + 1e-5).all()


@pytest.mark.parametrize("name", ["globl", "grid", "grid0", "grid33", "grid-1", "", "GLOBAL", "grid2x2"])
def test_an_unknown_pooling_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(EncoderError) as caught:
        check_pooling(name)
    assert f"There is no pooling named {name!r}. Allowed: global, grid1 .. grid32" in str(caught.value)
    assert "--pooling grid4" in str(caught.value)


def test_a_map_coarser_than_the_grid_is_refused_and_not_made_up() -> None:
    with pytest.raises(EncoderError, match=r"a map of 4 x 4, coarser than --pooling grid5\. Type a .*--pooling grid4"):
        Pooling("grid5")(MAP)
    # What the refusal prevents: torch repeats values to fill the grid, which says nothing new.
    assert torch.nn.functional.adaptive_avg_pool2d(MAP, 5).shape == (1, 1, 5, 5)


@pytest.mark.parametrize(("features", "tokens"), [(MAP, 1), (torch.zeros(1, 5, 3), 0), (torch.zeros(1, 5), 1)])
def test_cls_without_a_class_token_is_refused(features: Tensor, tokens: int) -> None:
    with pytest.raises(EncoderError, match=r"has no class token\. Allowed here: --pooling global") as refused:
        Pooling("cls", tokens)(features)
    assert str(refused.value).partition(" Allowed here: ")[2] == (
        "--pooling global, grid1 .. grid32 (a k x k grid of averages), flatten, softmax (spatial softmax), attention1 "
        ".. attention64 (learned queries), conv1 .. conv1024 (a learned 3 x 3 convolution). Type, say: "
        "--pooling global."
    )
    assert "cls (class token), cls+global" in poolings()
