"""Pixels become the network's input as the weights' own recipe wants it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models import get_weight
from torchvision.transforms import v2

from stillsight.encoders import ENCODERS, EncoderError, Preprocessing
from stillsight.encoders.preprocess import ImageCounter, Preprocess
from stillsight.encoders.zoo.registry import make_backbone
from stillsight.encoders.zoo.torchvision import recipe as recipe_of

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=224)
BICUBIC = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bicubic")
MODES = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}

torchvision_rows = pytest.mark.parametrize(
    "name", [name for name, row in ENCODERS.items() if row.weights and "_Weights." in row.weights]
)


def random_pixels(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def reference(recipe: Preprocessing, resolution: int | None) -> v2.Compose:
    """torchvision's own transforms; the whole image is resized, none of it is cropped."""
    steps: list[torch.nn.Module] = [v2.ToDtype(torch.float32)]
    if resolution is not None:
        steps.append(v2.Resize((resolution, resolution), MODES[recipe.interpolation], antialias=True))
        steps.append(v2.Lambda(lambda images: images.clamp(0, 255)))  # as pictures of whole numbers are
    scaled = [v2.Lambda(lambda images: images / 255), v2.Normalize(list(recipe.mean), list(recipe.std))]
    return v2.Compose([*steps, *scaled])


@pytest.mark.parametrize("recipe", [IMAGENET, BICUBIC], ids=["bilinear", "bicubic"])
@settings(deadline=None, max_examples=15)
@given(
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    resolution=st.none() | st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_it_is_torchvisions_resize_and_normalise(
    recipe: Preprocessing, height: int, width: int, resolution: int | None, seed: int
) -> None:
    pixels = random_pixels(2, height, width, seed)
    ours = Preprocess(recipe, resolution, ImageCounter())(pixels)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, reference(recipe, resolution)(pixels), atol=2e-5)


def test_resizing_is_torchvisions_to_the_last_bit() -> None:
    pixels = random_pixels(2, 50, 30)
    plain = Preprocessing(mean=(0, 0, 0), std=(1 / 255,) * 3)  # divides by one, so that resizing alone is left
    expected = v2.functional.resize(pixels.float(), [16, 16], v2.InterpolationMode.BILINEAR, antialias=True)
    assert torch.equal(Preprocess(plain, 16, ImageCounter())(pixels), expected)


def test_the_interpolation_of_the_recipe_is_used() -> None:
    pixels = random_pixels(1, 20, 20)
    plain = {mode: Preprocessing(interpolation=mode) for mode in ("bilinear", "bicubic")}
    outputs = [Preprocess(recipe, 48, ImageCounter())(pixels) for recipe in plain.values()]
    assert (outputs[0] - outputs[1]).abs().max() > 0.01


@torchvision_rows
def test_what_is_resized_is_what_the_transform_of_the_weights_gives(name: str) -> None:
    weights = ENCODERS[name].weights
    assert weights is not None
    wanted = get_weight(weights).transforms()
    wanted.resize_size, wanted.crop_size = [64, 64], [64, 64]  # the whole image, as ours is kept
    pixels = random_pixels(4, 32, 32).div(255).round().mul(255).to(torch.uint8)  # the hardest edges that there are
    found = Preprocess(recipe_of(name), 64, ImageCounter())(pixels)
    rounding = 0.5 / 255 / min(wanted.std)
    assert (found - wanted(pixels)).abs().max() <= rounding + 1e-4, "torchvision resizes whole numbers, and rounds"


def test_small_details_are_averaged_and_not_skipped() -> None:
    # A one-pixel checkerboard is grey from afar. Without antialiasing, every fourth pixel alone has one colour.
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255
    pixels = board.to(torch.uint8).expand(1, 3, 64, 64)
    small = Preprocess(Preprocessing(), 16, ImageCounter())(pixels)
    assert torch.allclose(small, torch.full_like(small, 0.5), atol=0.02)
    assert torch.nn.functional.interpolate(pixels.float(), size=(16, 16), mode="nearest").unique().numel() == 1


def test_the_whole_image_is_kept() -> None:
    pixels = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    pixels[..., :2, :2] = 255  # in the corner, which the ImageNet recipes' centre crop throws away
    assert Preprocess(Preprocessing(), 20, ImageCounter())(pixels)[0, :, 0, 0].min() > 0.5
    assert get_weight("ResNet18_Weights.IMAGENET1K_V1").transforms()(pixels).unique().numel() == 3


def test_images_of_the_right_size_are_not_touched() -> None:
    pixels = random_pixels(2, 24, 24)
    same = Preprocess(IMAGENET, 24, ImageCounter())(pixels)
    assert torch.equal(same, Preprocess(IMAGENET, None, ImageCounter())(pixels))
    assert Preprocess(IMAGENET, None, ImageCounter())(random_pixels(1, 5, 9)).shape == (1, 3, 5, 9)


def test_black_and_white_have_known_values() -> None:
    pixels = torch.stack([torch.zeros(3, 1, 1), torch.full((3, 1, 1), 255.0)])
    low, high = Preprocess(IMAGENET, None, ImageCounter())(pixels).flatten(1)
    assert low.tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert high.tolist() == pytest.approx([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225])


@torchvision_rows
def test_the_recipe_is_that_of_the_rows_own_weights(name: str) -> None:
    # Every row of a big network costs a second to build; the recipe alone is what the builder would ask for.
    weights = ENCODERS[name].weights
    assert weights is not None
    wanted = get_weight(weights).transforms()
    found = recipe_of(name)
    assert found.mean == tuple(wanted.mean)
    assert found.std == tuple(wanted.std)
    assert found.size == wanted.crop_size[0]
    assert found.interpolation == wanted.interpolation.value


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0"])
def test_the_network_carries_that_recipe(name: str) -> None:
    assert make_backbone(name).preprocessing == recipe_of(name)


def test_efficientnet_is_resized_as_it_was_trained() -> None:
    assert make_backbone("efficientnet_b0").preprocessing.interpolation == "bicubic"


@pytest.mark.parametrize("name", ["nature", "impala"])
def test_networks_from_scratch_see_pixels_from_zero_to_one(name: str) -> None:
    pixels = Preprocess(make_backbone(name).preprocessing, None, ImageCounter())(random_pixels(4, 16, 16))
    assert (pixels.min(), pixels.max()) == (0.0, 1.0)


def test_the_recipe_is_not_part_of_the_weights() -> None:
    module = Preprocess(IMAGENET, None, ImageCounter())
    assert module.state_dict() == {}
    assert {name for name, _ in module.named_buffers()} == {"mean", "std"}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"mean": (123.675, 116.28, 103.53)},
            r"of pixels 0\.\.255, .*Divide both by 255: mean=\(0\.485, 0\.456, 0\.406\)",
        ),
        ({"std": (58.395, 57.12, 57.375)}, r"of pixels 0\.\.255, .* std=\(0\.229, 0\.224, 0\.225\)"),
        ({"std": (0.2, 0.0, 0.2)}, r"std=\(0\.2, 0\.0, 0\.2\)\) divides by what is not above 0"),
        ({"std": (0.2, -0.1, 0.2)}, r"divides by what is not above 0"),
        ({"mean": (0.5,)}, r"mean=\(0\.5,\)\) is not three finite numbers"),
        ({"mean": (0.5, 0.5, float("nan"))}, r"is not three finite numbers"),
        ({"mean": 0.5}, r"is not three finite numbers"),
        ({"interpolation": "nearest"}, r"no interpolation named 'nearest'.* Allowed: bilinear, bicubic"),
    ],
)
def test_a_recipe_that_would_give_other_pixels_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EncoderError, match=sentence):
        Preprocessing(**fields)


def test_recipes_of_other_ranges_are_taken() -> None:
    Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # -1..1
    Preprocessing(mean=(0.485, 0.458, 0.408), std=(1 / 255,) * 3)  # 0..255 less a mean
