"""Learned positions on another grid, beside cubic convolution written out, and what rows make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stillsight.encoders import spec
from stillsight.encoders.zoo.positions import lay_out
from stillsight.encoders.zoo.registry import make_backbone

A = -0.75
"""Of the cubic kernel (Keys 1981) that torch takes without antialiasing."""


def kernel(distance: float) -> float:
    x = abs(distance)
    if x <= 1:
        return (A + 2) * x**3 - (A + 3) * x**2 + 1
    return A * x**3 - 5 * A * x**2 + 8 * A * x - 4 * A if x < 2 else 0.0


def matrix(old: int, new: int, scale: float) -> np.ndarray:
    """Weights `[new, old]` of the old places in the new ones, with centres `1 / scale` apart; the border repeats."""
    weights = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) / scale - 0.5
        for place in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[row, min(max(place, 0), old - 1)] += kernel(centre - place)
    return weights


def laid_out(grid: np.ndarray, new: tuple[int, int], added: float | None) -> np.ndarray:
    """A grid `[rows, columns, C]` of positions on another one."""
    rows, columns = (
        matrix(old, to, to / old if added is None else (to + added) / old)
        for old, to in zip(grid.shape[:2], new, strict=True)
    )
    return np.einsum("ri,cj,ijk->rck", rows, columns, grid)


@pytest.mark.parametrize(("way", "added"), [("dino", 0.1), ("mae", None)])
@pytest.mark.parametrize("new", [(3, 5), (14, 16), (37, 37), (40, 9)])
def test_it_is_cubic_convolution_by_the_authors_scale(way: str, added: float | None, new: tuple[int, int]) -> None:
    positions = torch.randn(1, 2 + 37 * 37, 3, generator=torch.Generator().manual_seed(0))
    found = lay_out(positions, (37, 37), new, way)
    assert torch.equal(found[:, :2], positions[:, :2]), "the class token and a register keep theirs"
    if new == (37, 37):
        assert found is positions
        return
    expected = laid_out(positions[0, 2:].view(37, 37, 3).double().numpy(), new, added)
    np.testing.assert_allclose(found[0, 2:].view(*new, 3).numpy(), expected, atol=1e-4)


def test_it_keeps_the_dtype() -> None:
    assert lay_out(torch.randn(1, 1 + 16, 8).bfloat16(), (4, 4), (2, 3), "dino").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("dino_s16", 0.1),
        ("dinov2_s14", 0.1),
        ("theia_tiny", 0.1),
        ("mvp_s", None),
        *(pytest.param(name, 0.1, marks=pytest.mark.slow) for name in ("dino_s8", "dinov2_b14")),
        *(pytest.param(name, None, marks=pytest.mark.slow) for name in ("mae_b16", "vc1_b", "mvp_b")),
    ],
)
@torch.no_grad()
def test_rows_lay_them_out_as_their_authors_do(name: str, added: float | None) -> None:
    torch.manual_seed(0)
    backbone: Any = make_backbone(name)
    model = backbone.model
    theirs = model.embeddings.position_embeddings if name.startswith("theia") else model.pos_embed
    theirs.normal_()
    patch = spec(name).multiple
    old = round((theirs.shape[1] - 1) ** 0.5)
    for rows, columns in ((4, 7), (old, old)):
        images = torch.randn(1, 3, patch * rows, patch * columns)
        found = _added(backbone.stages["embed"], images, theirs)
        grid = theirs[0, 1:].view(old, old, -1).double().numpy()
        expected = grid if rows == old else laid_out(grid, (rows, columns), added)
        np.testing.assert_allclose(found[1:].view(rows, columns, -1).numpy(), expected, atol=1e-4)
        torch.testing.assert_close(found[0], theirs[0, 0], atol=1e-4, rtol=1e-4)


def _added(embed: Any, images: Tensor, positions: Tensor) -> Tensor:
    """What an embedding adds to the tokens of an image: `[1 + L, C]`."""
    with_them, kept = embed(images)[0], positions.clone()
    positions.zero_()
    added: Tensor = with_them - embed(images)[0]
    positions.copy_(kept)
    return added


@torch.no_grad()
def test_with_registers_dinov2_is_laid_out_by_timm() -> None:
    """The authors' hub entries with registers smooth, and add nothing: `interpolate_antialias=True`, offset 0."""
    backbone: Any = make_backbone("dinov2_s14_reg")
    model = backbone.model
    model.pos_embed.normal_()
    added = _added(backbone.stages["embed"], torch.randn(1, 3, 42, 70), model.pos_embed)
    assert torch.equal(added[:5], torch.zeros_like(added[:5])), "its class token and registers have no position"
    grid = model.pos_embed.view(1, 37, 37, -1).permute(0, 3, 1, 2)
    smooth = torch.nn.functional.interpolate(grid, size=(3, 5), mode="bicubic", antialias=True)
    torch.testing.assert_close(added[5:], smooth[0].flatten(1).T, atol=1e-4, rtol=1e-4)
