"""A contact sheet: rows of pictures with a heading each, as one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from stillsight.encoders.errors import printable

if TYPE_CHECKING:
    from PIL import Image

TILE = 150
"""Pixels of the longer side of a picture, about: small ones are enlarged by a whole number."""
GAP, HEAD, CAPTION, MARGIN = 8, 20, 16, 14
"""Pixels between two tiles, of a row's heading, of a tile's caption, and around all."""
INK, FAINT, PAPER = (20, 20, 24), (110, 110, 118), (250, 250, 248)


@dataclass(frozen=True)
class Row:
    """A row of the sheet.

    Attributes:
        title: a word or two.
        words: a line that says what it is.
        tiles: caption and picture, uint8 `[H, W, 3]`, of each.
    """

    title: str
    words: str
    tiles: Sequence[tuple[str, np.ndarray]]


def sheet(title: str, lines: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Draw it.

    Args:
        title: of the whole.
        lines: of text under it; long ones are broken.
        rows: what is shown.
    """
    from PIL import Image, ImageDraw

    pictures = [[_sized(picture) for _, picture in row.tiles] for row in rows]
    columns = max((len(row.tiles) for row in rows), default=1)
    tile = max((side for row in pictures for picture in row for side in picture.shape[:2]), default=TILE)
    width = 2 * MARGIN + columns * (tile + GAP) - GAP
    text = [part for line in lines for part in _broken(line, width - 2 * MARGIN)]
    top = MARGIN + 30 + 18 * len(text) + 8
    heights = [HEAD + max((p.shape[0] for p in row), default=0) + CAPTION + GAP for row in pictures]
    image = Image.new("RGB", (width, top + sum(heights) + MARGIN), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, MARGIN), _plain(title), fill=INK, font=_font(20))
    for number, line in enumerate(text):
        pen.text((MARGIN, MARGIN + 30 + 18 * number), line, fill=FAINT, font=_font(13))
    for row, shown, height in zip(rows, pictures, heights, strict=True):
        pen.text((MARGIN, top), _plain(row.title), fill=INK, font=_font(14))
        after = MARGIN + pen.textlength(_plain(row.title), font=_font(14)) + 10
        words = next(iter(_broken(row.words, width - MARGIN - int(after))), "")
        pen.text((after, top + 1), words, fill=FAINT, font=_font(13))
        for number, ((caption, _), picture) in enumerate(zip(row.tiles, shown, strict=True)):
            left = MARGIN + number * (tile + GAP)
            image.paste(Image.fromarray(picture), (left, top + HEAD))
            below = top + HEAD + max(p.shape[0] for p in shown)
            pen.text((left, below + 1), _plain(caption), fill=FAINT, font=_font(11))
        top += height
    return image


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _plain(text: str) -> str:
    """A text in letters that Pillow's own font has."""
    return printable(text).encode("ascii", "replace").decode()


def _broken(text: str, width: int) -> list[str]:
    """A text in lines of at most `width` pixels."""
    lines: list[str] = []
    for word in _plain(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(13).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _sized(picture: np.ndarray) -> np.ndarray:
    """A picture enlarged or reduced to about the size of a tile."""
    import cv2

    most = max(picture.shape[:2])
    if most <= TILE:
        times = max(1, round(TILE / most))
        return np.ascontiguousarray(picture.repeat(times, axis=0).repeat(times, axis=1))
    size = tuple(max(1, round(side * TILE / most)) for side in (picture.shape[1], picture.shape[0]))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
