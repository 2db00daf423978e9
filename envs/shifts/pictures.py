"""Pictures: a user's own images and films, shown over or behind an environment."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from stillsight.envs.errors import EnvError
from stillsight.envs.shifts.terms import check_path

if TYPE_CHECKING:
    from stillsight.envs.shifts.rows import Image

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FILMS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
"""Endings of files that are taken for images and for films."""
MOST_FRAMES = 300
"""Frames of a film that are shown; of a longer one the first."""
STILL_SIDE, FILM_SIDE = 256, 128
"""Pixels to which the shorter side of an image and of a film's frames is reduced when it is read: a film takes up to
300 x 128 x 228 x 3 bytes, 26 MB. Two of them are kept in memory."""


class Pictures:
    """Images and films of a user's: an image, a film, or a folder of them.

    In a folder each image and each film is one, and so is each folder of images in it: those are the frames of a film,
    in the order of their names (as DAVIS has them).

    Args:
        path: of a file or folder.

    Raises:
        EnvError: there is nothing, or nothing that is a picture.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.sources = self._sources()
        if not self.sources:
            raise EnvError(
                f"{self.path} holds no pictures. They are images ({', '.join(IMAGES)}), films ({', '.join(FILMS)}) or "
                "folders of images: type another path after the @."
            )

    def begin(self, random: np.random.Generator) -> Callable[[int], Image]:
        """What an episode shows: one of the pictures, and of a film a first frame and a direction, are drawn.

        Returns:
            From the step to uint8 `[h, w, 3]` of any size.
        """
        source = self.sources[int(random.integers(len(self.sources)))]
        first, direction = random.uniform(), int(random.choice((-1, 1)))
        frames = read(source)
        start = int(first * len(frames))
        return lambda step: frames[turning(start + direction * step, len(frames))]

    def _sources(self) -> list[Path]:
        check_path(self.path)
        if not self.path.is_dir():
            return [self.path] if self.path.suffix.lower() in IMAGES + FILMS else []
        return [path for path in sorted(self.path.iterdir()) if path.suffix.lower() in IMAGES + FILMS or _frames(path)]


def turning(index: int, count: int) -> int:
    """`index` of `count`, running to and fro: 0 1 2 1 0 1 for three."""
    if count == 1:
        return 0
    index %= 2 * (count - 1)
    return min(index, 2 * (count - 1) - index)


def read(source: Path) -> list[Image]:
    """The frames of an image (one), a film or a folder of images, uint8 `[h, w, 3]`, RGB.

    Raises:
        EnvError: it cannot be read as what its name says.
    """
    return _read(str(source), source.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read(source: str, _written: int) -> list[Image]:
    path = Path(source)
    if path.is_dir():
        return [_image(frame, FILM_SIDE) for frame in _frames(path)[:MOST_FRAMES]]
    if path.suffix.lower() in IMAGES:
        return [_image(path, STILL_SIDE)]
    film = cv2.VideoCapture(source)
    frames: list[Image] = []
    while len(frames) < MOST_FRAMES:
        there, frame = film.read()
        if not there:
            break
        frames.append(_small(frame, FILM_SIDE))
    film.release()
    if not frames:
        raise EnvError(f"{source} cannot be read as a film. Type another path after the @, or mend the file.")
    return frames


def _image(path: Path, side: int) -> Image:
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if image is None:
        raise EnvError(f"{path} cannot be read as an image. Type another path after the @, or mend the file.")
    return _small(image, side)


def _small(given: Any, side: int) -> Image:
    """An image of OpenCV's with its shorter side reduced to `side`, RGB."""
    image: Image = given
    scale = side / min(image.shape[:2])
    if scale < 1.0:
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _frames(folder: Path) -> list[Path]:
    """The images in a folder, in the order of their names; none in what is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)


def fitted(image: Image, height: int, width: int) -> Image:
    """The middle of a picture, as much of it as has these proportions, at this size."""
    scale = max(height / image.shape[0], width / image.shape[1])
    tall, wide = min(image.shape[0], round(height / scale)), min(image.shape[1], round(width / scale))
    top, left = (image.shape[0] - tall) // 2, (image.shape[1] - wide) // 2
    shown = image[top : top + tall, left : left + wide]
    how = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    return cv2.resize(shown, (width, height), interpolation=how).astype(np.uint8, copy=False)
