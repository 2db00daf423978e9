"""The sheet: pictures, what the encoder makes of their places, and the images that it takes for the most alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stillsight.agents.seeing.pca import colours
from stillsight.encoders.atomic import replacing, writing
from stillsight.encoders.errors import printable

if TYPE_CHECKING:
    from PIL import Image

MOST = 16
"""Images that a sheet shows, spread over all there are."""
NEIGHBOURS = 3
"""Images that are shown as the nearest to each."""
SIDE, GAP, CAPTION = 144, 8, 14
"""Pixels of a tile, between two, and of the line of text under one."""
HEAD, LABEL = 2 * CAPTION + GAP, 20
"""Pixels above the tiles, for a title and the heads of columns, and at their left, for the numbers of rows."""
NEAREST = ("nearest", "2nd nearest", "3rd nearest")
"""Heads of the columns of neighbours."""
LETTER = 6
"""Pixels of a letter's width, at most."""


def chosen(count: int) -> list[int]:
    """Which of `count` images a sheet shows: all, or `MOST` of them, evenly spread, the first and the last included."""
    if count <= MOST:
        return list(range(count))
    return [round(number * (count - 1) / (MOST - 1)) for number in range(MOST)]


def neighbours(features: np.ndarray, shown: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The images nearest to those of `shown`, each the most alike first, by the cosine of their features.

    Args:
        features: float32 `[N, D]`.
        shown: indices.

    Returns:
        indices `[len(shown), k]` and cosines of the same shape, k = min(NEIGHBOURS, N - 1); none is its own neighbour.
    """
    numbers = features.astype(np.float64)
    lengths = np.linalg.norm(numbers, axis=1, keepdims=True)
    unit = numbers / np.where(lengths > 0, lengths, 1.0)
    cosines = unit[list(shown)] @ unit.T
    cosines[np.arange(len(shown)), list(shown)] = -np.inf
    count = min(NEIGHBOURS, len(features) - 1)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return nearest, np.take_along_axis(cosines, nearest, 1)


def write(
    path: Path,
    names: Sequence[str],
    features: np.ndarray,
    maps: Mapping[int, np.ndarray],
    pixels: Mapping[str, np.ndarray],
    *,
    title: str,
    tap: str,
) -> None:
    """Draw the sheet: under a title and the heads of its columns a numbered row for each image.

    Args:
        path: of the .png file.
        names: of all images.
        features: of all images, float32 `[N, D]`.
        maps: index -> what the tap hands on, `[C, h, w]`, of the images that are shown.
        pixels: name -> uint8 `[3, H, W]`, of the images that are shown and of their neighbours.
        title: what the encoder is.
        tap: whose map is drawn.

    Raises:
        DiskFault: the file cannot be written.
    """
    from PIL import Image, ImageDraw

    shown = list(maps)
    nearest, cosines = neighbours(features, shown)
    painted = dict(zip(shown, colours(list(maps.values())), strict=True))
    columns, row = 2 + nearest.shape[1], SIDE + CAPTION + GAP
    width, height = LABEL + columns * (SIDE + GAP) + GAP, HEAD + len(shown) * row + GAP
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.text((GAP, GAP), _begun(title, (width - 2 * GAP) // LETTER), fill="black")
    heads = ("picture", _begun(f"map at {tap}", SIDE // LETTER), *NEAREST[: nearest.shape[1]])
    for column, head in enumerate(heads):
        draw.text((LABEL + GAP + column * (SIDE + GAP), GAP + CAPTION), head, fill="black")
    for line, index in enumerate(shown):
        top = HEAD + GAP + line * row
        draw.text((GAP, top + (SIDE - CAPTION) // 2), str(line + 1), fill="black")
        rows, sides = maps[index].shape[1:]
        _tile(image, 0, top, pixels[names[index]].transpose(1, 2, 0), _short(names[index]))
        _tile(image, 1, top, painted[index], f"map {rows} x {sides}", sharp=True)
        for column, (other, cosine) in enumerate(zip(nearest[line], cosines[line], strict=True), 2):
            told = f"{cosine:.3f} {_short(names[other], SIDE // LETTER - 6)}"
            _tile(image, column, top, pixels[names[other]].transpose(1, 2, 0), told)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, writing(path):
        image.save(partial, format="PNG")


def _tile(sheet: Image.Image, column: int, top: int, pixels: np.ndarray, caption: str, *, sharp: bool = False) -> None:
    """Put one picture, uint8 `[h, w, 3]`, with its caption into its place; its proportions are kept."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    resampling = Image.Resampling.NEAREST if sharp else Image.Resampling.BILINEAR
    left = LABEL + GAP + column * (SIDE + GAP)
    sheet.paste(picture.resize(size, resampling), (left + (SIDE - size[0]) // 2, top + (SIDE - size[1]) // 2))
    ImageDraw.Draw(sheet).text((left, top + SIDE + 1), caption, fill="black")


def _begun(text: str, letters: int) -> str:
    """The beginning of a text, as far as it fits."""
    told = printable(text).encode("ascii", "replace").decode()
    return told if len(told) <= letters else f"{told[: letters - 2]}.."


def _short(name: str, letters: int = SIDE // LETTER) -> str:
    """The end of a name, as far as it fits, in letters that Pillow's own font has."""
    text = printable(Path(name).name).encode("ascii", "replace").decode()
    return text if len(text) <= letters else f"..{text[2 - letters :]}"
