"""The images that are looked at: picture files, folders of them, and the frames of films, one at a time and by name."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stillsight.encoders.errors import EncoderError
from stillsight.encoders.supervised.data import picture, search

FILMS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
"""Endings of files that are read as films."""


class Image(NamedTuple):
    """One image.

    Attributes:
        name: the path of its file; of a frame with its number, "film.mp4#12".
        pixels: uint8 `[3, H, W]` RGB.
    """

    name: str
    pixels: np.ndarray


@dataclass(frozen=True)
class Images:
    """The images in some places, in the order of the places; they are decoded anew each time.

    Attributes:
        files: pictures and films.
        every: take every so many frames of a film.
        skip_broken: pass over pictures and films that cannot be read, which is said.
    """

    files: Sequence[Path]
    every: int = 1
    skip_broken: bool = False

    def decode(self, wanted: Collection[str] | None = None, traits: Counter[str] | None = None) -> Iterator[Image]:
        """The images one after the other.

        Args:
            wanted: names of those that are wanted; all by default.
            traits: counts what was seen otherwise than it lies in the file, see `picture.TRAITS`.

        Raises:
            EncoderError: a broken picture, unless they are skipped; a film of which nothing can be read.
        """
        for path in self.files:
            if path.suffix.lower() in FILMS:
                if wanted is None or any(name.startswith(f"{path}#") for name in wanted):
                    frames = (Image(f"{path}#{number}", pixels) for number, pixels in self._frames(path))
                    try:
                        yield from (frame for frame in frames if wanted is None or frame.name in wanted)
                    except EncoderError as error:
                        self._skip(error, told=wanted is None)
            elif wanted is None or str(path) in wanted:
                try:
                    decoded = picture.decode(path)
                except EncoderError as error:
                    self._skip(error, told=wanted is None)
                    continue
                if traits is not None:
                    traits.update(decoded.traits)
                yield Image(str(path), decoded.pixels)

    def _skip(self, error: EncoderError, *, told: bool) -> None:
        """Pass over what cannot be read, where that was asked for.

        Raises:
            EncoderError: it was not.
        """
        if not self.skip_broken:
            raise EncoderError(f"{error} Leave it out, or type --skip-broken.") from error
        if told:
            print(f"stillsight: skipped. {error}", file=sys.stderr)

    def _frames(self, path: Path) -> Iterator[tuple[int, np.ndarray]]:
        """Number and pixels of every so many frames of a film, by OpenCV."""
        import cv2

        film = cv2.VideoCapture(str(path))
        number, said = 0, int(film.get(cv2.CAP_PROP_FRAME_COUNT))
        try:
            while film.grab():
                if number % self.every == 0:
                    read, frame = film.retrieve()
                    if not read:
                        break
                    yield number, np.ascontiguousarray(frame[:, :, ::-1].transpose(2, 0, 1))
                number += 1
        finally:
            film.release()
        if number == 0:
            raise EncoderError(
                f"{path} cannot be read as a film (damaged, cut off or of an unknown kind). Convert it, say: ffmpeg -i "
                f"{path.name} film.mp4"
            )
        if number < said - max(2, said // 100):  # players count a frame or two otherwise
            print(
                f"stillsight: warning: {path} says that it has {said:,} frames, and {number:,} could be read: it is "
                "cut off or damaged, and the rest is left out.",
                file=sys.stderr,
            )


def find(places: Sequence[Path], every: int = 1, skip_broken: bool = False) -> tuple[Images, search.PassedOver]:
    """The pictures and films in `places`: files as they are named, folders searched for pictures.

    Raises:
        EncoderError: a place does not exist, or a folder has no pictures.
    """
    files: list[Path] = []
    passed = search.PassedOver()
    for place in places:
        inside, left = search.find([place])
        files += inside
        passed += left
    return Images(files, every, skip_broken), passed
