"""Show the most confident mistakes in one picture: where a classifier is sure and wrong, labels are often odd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

SIDE = 128
"""Side in pixels at which each image is shown; CIFAR's 32 become four times as large."""
CAPTION = 36
"""Height in pixels of the two lines under it."""
GAP = 8
"""Empty pixels around each tile."""
HEAD = 22
"""Height in pixels of the line above all tiles."""
HEADS = ("The most confident mistakes: how sure of what, and what it is", "Most confident mistakes", "Sure and wrong")
"""What that line says: the first that fits."""
COLUMNS = 5

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SCALE = 0.42


@dataclass(frozen=True)
class Mistake:
    """One wrong prediction.

    Attributes:
        index: of the image.
        true, predicted: class names.
        confidence: probability that the prediction had, 0..1.
    """

    index: int
    true: str
    predicted: str
    confidence: float


def most_confident(
    confidence: np.ndarray, predicted: np.ndarray, labels: np.ndarray, names: Sequence[str], most: int = 25
) -> list[Mistake]:
    """The `most` confident wrong predictions, the most confident first.

    Args:
        confidence: of each prediction, float `[N]`.
        predicted, labels: int `[N]`.
        names: of the classes.
        most: how many at most.
    """
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    return [
        Mistake(int(index), names[labels[index]], names[predicted[index]], float(confidence[index])) for index in order
    ]


def picture(images: Sequence[np.ndarray], mistakes: Sequence[Mistake]) -> np.ndarray:
    """Under a heading a grid of tiles, five in a row: the image enlarged, under it what it was taken for and what it
    is.

    Args:
        images: uint8 `[3, H, W]` RGB, one for each of `mistakes`, in their order.
        mistakes: what happened.

    Returns:
        uint8 `[height, width, 3]` RGB.
    """
    columns = min(COLUMNS, len(mistakes))
    rows = -(-len(mistakes) // COLUMNS)
    height, width = SIDE + CAPTION + GAP, SIDE + GAP
    canvas = np.full((HEAD + GAP + rows * height, GAP + columns * width, 3), 255, np.uint8)
    room = canvas.shape[1] - 2 * GAP
    fitting = [text for text in HEADS if cv2.getTextSize(text, _FONT, _SCALE, 1)[0][0] <= room]
    cv2.putText(canvas, fitting[0] if fitting else "", (GAP, HEAD - 4), _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    for place, (image, mistake) in enumerate(zip(images, mistakes, strict=True)):
        row, column = divmod(place, COLUMNS)
        top, left = HEAD + GAP + row * height, GAP + column * width
        canvas[top : top + SIDE, left : left + SIDE] = _enlarged(image)
        percent = f"{mistake.confidence:.1%} "
        caption = (percent + _fitting(mistake.predicted, percent), "is " + _fitting(mistake.true, "is "))
        for line, text in enumerate(caption):
            corner = (left, top + SIDE + 14 + 16 * line)
            cv2.putText(canvas, text, corner, _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def _enlarged(image: np.ndarray) -> np.ndarray:
    """`[3, H, W]` as `[SIDE, SIDE, 3]`, its proportions kept on grey; small pixels stay squares."""
    height, width = image.shape[1:]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown = cv2.resize(
        np.ascontiguousarray(image.transpose(1, 2, 0)),
        size,
        interpolation=cv2.INTER_NEAREST_EXACT if scale >= 1 else cv2.INTER_AREA,
    )
    tile = np.full((SIDE, SIDE, 3), 224, np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = shown
    return tile


def _fitting(name: str, beside: str) -> str:
    """`name` in the letters that cv2's font has, cut to what the tile's width leaves `beside` other text."""
    text = name.encode("ascii", "replace").decode()
    while len(text) > 3 and cv2.getTextSize(beside + text, _FONT, _SCALE, 1)[0][0] > SIDE:
        text = text.rstrip(".")[:-1] + ".."
    return text
