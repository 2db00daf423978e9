"""Augmentation: each image has its own chance, computed for all at once, and equal to torchvision's image by image."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from stillsight.encoders.supervised.training import randaugment
from stillsight.encoders.supervised.training.augment import augment, draw, draw_boxes, draw_shifts, erase, rotate, shift
from stillsight.encoders.supervised.training.mixing import mix
from stillsight.encoders.supervised.training.recipe import Recipe

ALL: dict[str, Any] = {"crop": 2, "rotation": 20.0, "randaugment": 9, "erasing": 0.5}


def pictures(count: int, height: int = 16, width: int = 12, seed: int = 0) -> Tensor:
    """Smooth random images uint8, so that interpolation can be compared."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    return F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 255).to(torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shift_and_flip(images: Tensor, generator: torch.Generator, pad: int) -> Tensor:
    """The standard augmentation of CIFAR (He et al. 2016, section 4.2)."""
    draws = draw_shifts(len(images), pad, generator)
    return shift(images, draws["shifts"], draws["flips"])


# Shifts and flips -----------------------------------------------------------------------------------------------------


def slow_shift_and_flip(images: Tensor, generator: torch.Generator, pad: int) -> Tensor:
    """One image after the other, with the same draws."""
    dy, dx = torch.randint(0, 2 * pad + 1, (2, len(images), 1), generator=generator)
    flip = torch.rand(len(images), 1, generator=generator) < 0.5
    height, width = images.shape[2:]
    done = []
    for index, image in enumerate(images):
        padded = F.pad(image[None].float(), (pad,) * 4, mode="reflect")[0].to(images.dtype)
        top, left = int(dy[index]), int(dx[index])
        window = padded[:, top : top + height, left : left + width]
        done.append(window.flip(2) if flip[index] else window)
    return torch.stack(done)


shapes = st.tuples(st.integers(1, 8), st.integers(1, 3), st.integers(4, 9), st.integers(4, 9))


@settings(deadline=None, max_examples=40)
@given(shape=shapes, pad=st.integers(0, 3), seed=st.integers(0, 10_000), whole=st.booleans())
def test_shifts_and_flips_are_those_of_the_slow_way(
    shape: tuple[int, int, int, int], pad: int, seed: int, whole: bool
) -> None:
    images = torch.randint(0, 256, shape, generator=generator(seed))
    images = images.to(torch.uint8) if whole else images.float()
    found = shift_and_flip(images, generator(seed), pad)
    assert found.dtype == images.dtype
    assert torch.equal(found, slow_shift_and_flip(images, generator(seed), pad))
    for before, after in zip(images.flatten(0, 1), found.flatten(0, 1), strict=True):
        assert set(after.unique().tolist()) <= set(before.unique().tolist()), "a value that no pixel had"


def test_without_shifts_an_image_is_itself_or_its_mirror_image() -> None:
    images = torch.randint(0, 256, (400, 3, 4, 6), dtype=torch.uint8, generator=generator())
    found = shift_and_flip(images, generator(), pad=0)
    same = (found == images).flatten(1).all(1)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 150 < int(same.sum()) < 250, "half of them, give or take five standard deviations"


def test_all_shifts_within_the_border_occur() -> None:
    images = torch.zeros(2000, 1, 9, 9)
    images[:, :, 4, 4] = 1
    found = shift_and_flip(images, generator(), pad=2)
    places = {tuple(place) for place in found.nonzero()[:, 2:].tolist()}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}


def test_without_flips_no_image_is_mirrored() -> None:
    images = pictures(50)
    recipe = Recipe(flip=False, crop=1)
    draws = draw(recipe, 50, (16, 12), generator())
    assert not draws["flips"].any()
    assert not torch.equal(augment(images, draws, recipe), images), "they are still shifted"


def test_torchvisions_own_transform_moves_a_whole_batch_alike_and_ours_does_not() -> None:
    images = torch.zeros(64, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 1
    torch.manual_seed(0)
    theirs = v2.RandomCrop(9, padding=2)(images)
    assert len(theirs.unique(dim=0)) == 1, "why the draws are ours"
    assert len(shift_and_flip(images, generator(), pad=2).unique(dim=0)) > 10


# Rotation, boxes ------------------------------------------------------------------------------------------------------


def test_rotations_are_torchvisions_within_the_image() -> None:
    images = pictures(6, 24, 30)
    degrees = torch.tensor([0.0, 10.0, -10.0, 35.0, 90.0, 180.0])
    found = rotate(images, degrees)
    for image, angle, mine in zip(images, degrees.tolist(), found, strict=True):
        theirs = tv.rotate(image.float(), angle, v2.InterpolationMode.BILINEAR)
        inside = tv.rotate(torch.ones(1, 24, 30), angle, v2.InterpolationMode.BILINEAR)[0] > 0.999
        assert inside.sum() > 250
        assert (mine.float() - theirs)[:, inside].abs().max() <= 0.51, "rounded to whole numbers"
    assert torch.equal(found[0], images[0])
    square = pictures(1, 8, 8)
    assert torch.equal(rotate(square, torch.tensor([90.0])), square.rot90(1, (2, 3))), "counter-clockwise"
    assert rotate(square.float(), torch.tensor([5.0])).is_floating_point()


def test_rotations_stay_within_their_range_and_go_both_ways() -> None:
    degrees = draw(Recipe(rotation=30.0), 1000, (8, 8), generator())["degrees"]
    assert -30 <= degrees.min() < -29
    assert 29 < degrees.max() <= 30


@settings(deadline=None, max_examples=40)
@given(height=st.integers(2, 40), width=st.integers(2, 40), seed=st.integers(0, 1000))
def test_boxes_lie_within_the_image(height: int, width: int, seed: int) -> None:
    top, left, tall, wide = draw_boxes(1.0, 50, (height, width), generator(seed)).unbind(1)
    assert (torch.stack([top, left]) >= 0).all()
    assert (torch.stack([tall, wide]) >= 1).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()


def test_boxes_have_the_areas_shapes_and_share_of_the_paper() -> None:
    boxes = draw_boxes(0.25, 4000, (400, 400), generator()).double()
    chosen = boxes[:, 2] > 0
    assert 0.22 < chosen.double().mean() < 0.28
    tall, wide = boxes[chosen, 2], boxes[chosen, 3]
    whole = (tall < 400) & (wide < 400)  # where the box was not cut
    area = (tall * wide / 400**2)[whole]
    assert 0.019 < area.min() < 0.03 < 0.28 < area.max() < 0.335
    ratio = (tall / wide)[whole]
    assert 0.29 < ratio.min() < 0.35 < 2.8 < ratio.max() < 3.4
    assert not draw_boxes(0.0, 100, (8, 8), generator())[:, 2].any()


def test_a_box_is_filled_with_the_mean_colour_of_its_image_and_nothing_else_changes() -> None:
    images = pictures(2, 6, 8)
    found = erase(images, torch.tensor([[1, 2, 3, 4], [0, 0, 0, 5]]))
    inside = torch.zeros(6, 8, dtype=torch.bool)
    inside[1:4, 2:6] = True
    mean = images[0].float().mean((1, 2)).to(torch.uint8)
    assert torch.equal(found[0][:, inside], mean[:, None].expand(-1, 12))
    assert torch.equal(found[0][:, ~inside], images[0][:, ~inside])
    assert torch.equal(found[1], images[1]), "an empty box"


# RandAugment ----------------------------------------------------------------------------------------------------------


def in_double(table: Callable[[], Tensor | None]) -> Tensor | None:
    """torchvision's table of strengths, which it makes in float32: where a product with a pixel is nearly whole, the
    seventh digit of the strength and the processor decide how it is rounded."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return table()
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("magnitude", [1, 9, 15, 30])
@pytest.mark.parametrize("name", list(v2.RandAugment._AUGMENTATION_SPACE))
def test_each_operation_is_torchvisions(name: str, magnitude: int) -> None:
    assert list(randaugment.OPERATIONS) == list(v2.RandAugment._AUGMENTATION_SPACE)
    images = pictures(5, 32, 32)
    magnitudes, signed = v2.RandAugment._AUGMENTATION_SPACE[name]
    strengths = in_double(lambda: magnitudes(31, 32, 32))
    operation, has_sign = randaugment.OPERATIONS[name]
    assert has_sign == signed
    for sign in (1, -1) if signed else (1,):
        strength = 0.0 if strengths is None else sign * float(strengths[magnitude])
        theirs = v2.RandAugment()._apply_image_or_video_transform(
            images, name, strength, v2.InterpolationMode.NEAREST, {torch.Tensor: None}
        )
        assert torch.equal(operation(images, sign * magnitude / 30), theirs), (name, sign)


def test_images_with_the_same_operation_are_computed_together_as_if_alone() -> None:
    images = pictures(60, 16, 16)
    draws = randaugment.draw(60, generator())
    found = randaugment.distort(images, **draws, magnitude=12)
    listed = list(randaugment.OPERATIONS.values())
    for image, mine, operations, signs in zip(images, found, draws["operations"], draws["signs"], strict=True):
        slow = image[None]
        for index, minus in zip(operations.tolist(), signs.tolist(), strict=True):
            operation, signed = listed[index]
            slow = operation(slow, (-1 if minus and signed else 1) * 12 / 30)
        assert torch.equal(mine, slow[0])
    assert not torch.equal(images, found)
    assert torch.equal(images, pictures(60, 16, 16)), "what was given is left alone"


def test_all_operations_and_both_signs_occur() -> None:
    draws = randaugment.draw(1000, generator())
    counts = draws["operations"].flatten().bincount(minlength=14)
    assert len(counts) == 14
    assert counts.min() > 90, "2000 / 14 is 143, five standard deviations less is 85"
    assert 900 < int(draws["signs"].sum()) < 1100


# All together ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 12), max_size=3))
def test_a_batch_that_is_shared_is_augmented_to_the_same_images(seed: int, cuts: list[int]) -> None:
    recipe = Recipe(**ALL)
    images = pictures(12, seed=seed)
    draws = draw(recipe, 12, (16, 12), generator(seed))
    whole = augment(images, draws, recipe)
    assert (whole.dtype, whole.shape) == (images.dtype, images.shape)
    edges = [0, *sorted(cuts), 12]
    shares = [slice(a, b) for a, b in itertools.pairwise(edges) if a < b]
    parts = [augment(images[s], {k: v[s] for k, v in draws.items()}, recipe) for s in shares]
    assert torch.equal(torch.cat(parts), whole)


def test_each_part_of_the_augmentation_changes_something_and_none_changes_nothing() -> None:
    images = pictures(20)
    off: dict[str, Any] = {"crop": 0, "flip": False}
    for name, value in [("crop", 2), ("flip", True), ("rotation", 20.0), ("randaugment", 9), ("erasing", 0.5)]:
        recipe = Recipe(**(off | {name: value}))
        assert not torch.equal(augment(images, draw(recipe, 20, (16, 12), generator()), recipe), images), name
    nothing = Recipe(**off)
    draws = draw(nothing, 20, (16, 12), generator())
    assert draws == {}
    assert augment(images, draws, nothing) is images


# Mixing ---------------------------------------------------------------------------------------------------------------


def test_mixup_mixes_neighbours_and_their_labels_by_one_share() -> None:
    images, labels = pictures(4), torch.tensor([0, 1, 2, 1])
    torch.manual_seed(0)
    mixed, targets = mix(images, labels, Recipe(mixup=0.4), 3)
    share = float(targets[0, 0])  # image 0 has label 0, its neighbour (the last) has label 1
    assert 0 < share < 1
    plain = images.float()
    assert torch.allclose(mixed, share * plain + (1 - share) * plain.roll(1, 0), atol=1e-3)
    hot = F.one_hot(labels, 3).float()
    assert torch.allclose(targets, share * hot + (1 - share) * hot.roll(1, 0))


def test_cutmix_pastes_a_box_and_mixes_labels_by_its_area() -> None:
    images = torch.stack([torch.full((3, 16, 16), value, dtype=torch.uint8) for value in (0, 255)])
    torch.manual_seed(3)
    mixed, targets = mix(images, torch.tensor([0, 1]), Recipe(cutmix=1.0), 2)
    share = (mixed[0] == 0).float().mean()
    assert 0 < share < 1
    assert torch.allclose(targets[0], torch.stack([share, 1 - share]), atol=1e-6)


def test_with_both_kinds_each_batch_takes_one() -> None:
    images = torch.stack([torch.full((3, 16, 16), value, dtype=torch.uint8) for value in (0, 255)])
    kinds = set()
    for seed in range(12):
        torch.manual_seed(seed)
        mixed, _ = mix(images, torch.tensor([0, 1]), Recipe(mixup=1.0, cutmix=1.0), 2)
        kinds.add(bool(set(mixed.unique().tolist()) <= {0.0, 255.0}))
    assert kinds == {True, False}


def test_without_mixing_a_batch_is_what_it_was() -> None:
    images, labels = pictures(4), torch.tensor([0, 1, 2, 1])
    mixed, targets = mix(images, labels, Recipe(), 3)
    assert mixed is images
    assert targets is labels
