"""Store features on disk, each row under the digest of its image: no kill, bad disk or changed split can spoil it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import torch
from torch import Tensor

from stillsight.encoders.atomic import write_atomically
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.supervised.data.disk import check_room, no_room, unusable

IMAGE, ROW = 16, 8
"""Bytes of the digest of an image and of a row of features."""
ENTRY = IMAGE + ROW


def digests(images: Tensor) -> list[bytes]:
    """A digest of the pixels of each of the uint8 images `[N, 3, H, W]`."""
    pixels = images.contiguous().numpy()
    return [hashlib.blake2b(image, digest_size=IMAGE).digest() for image in pixels]


class Store:
    """Float32 rows `[width]` in a memory-mapped file, to which rows are only ever added.

    `rows.f32` holds the rows; `index` holds, for each of them, the digest of its image and a digest of the row. The
    entries are written when their rows are, so a process killed at any moment leaves rows without entries, which are
    written over. On opening, every row is checked by its digest: one that was damaged is forgotten, and so are entries
    without a whole row. While one process has the store open, others wait. `reference` holds numbers by which a caller
    can tell whether the rows are still those that it would compute.

    Args:
        folder: made if it is missing.
        width: numbers in a row.

    Raises:
        EncoderError: the folder cannot be made, read or written.
    """

    def __init__(self, folder: Path, width: int) -> None:
        check_room(folder, 0)
        self.folder, self.width = folder, width
        self.places: dict[bytes, int] = {}
        try:
            self._read()
        except OSError as error:  # another user's, or read-only
            raise unusable(folder, error) from error

    def _read(self) -> None:
        """Open and lock the files, and find the whole rows."""
        folder, width = self.folder, self.width
        self._index = self._open("index")
        fcntl.flock(self._index, fcntl.LOCK_EX)
        self._rows = self._open("rows.f32")
        entries = (folder / "index").read_bytes()
        size = width * 4
        self._count = min(len(entries) // ENTRY, (folder / "rows.f32").stat().st_size // size)
        if self._count:
            mapped = self._mapped()
            for place in range(self._count):
                first = place * ENTRY
                image, row = entries[first : first + IMAGE], entries[first + IMAGE : first + ENTRY]
                if _digest(mapped[place]) == row:
                    self.places[image] = place

    def _open(self, name: str) -> IO[bytes]:
        (self.folder / name).touch()
        return (self.folder / name).open("r+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()
        self._index.close()  # which lets go of the lock

    def __contains__(self, image: bytes) -> bool:
        return image in self.places

    def check_room(self, rows: int) -> None:
        """Refuse to begin what the disk cannot take, see `disk.check_room`."""
        check_room(self.folder, rows * (self.width * 4 + ENTRY))

    def add(self, images: list[bytes], rows: Tensor) -> None:
        """Write `rows` float32 `[n, width]` of the images with these digests.

        Raises:
            EncoderError: the disk is full, or cannot be written.
        """
        block = rows.numpy().astype("<f4", copy=False)
        try:
            self._write(self._rows, self._count * self.width * 4, block.tobytes())
            entries = b"".join(image + _digest(row) for image, row in zip(images, block, strict=True))
            self._write(self._index, self._count * ENTRY, entries)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._full(block.nbytes) from error
            raise unusable(self.folder, error) from error
        self.places |= {image: self._count + place for place, image in enumerate(images)}
        self._count += len(images)

    def _full(self, needed: int) -> EncoderError:
        return no_room(self.folder, needed, shutil.disk_usage(self.folder).free)

    @staticmethod
    def _write(file: IO[bytes], offset: int, content: bytes) -> None:
        file.seek(offset)
        file.write(content)
        file.truncate()  # whatever a killed process left behind
        file.flush()

    def get(self, images: list[bytes]) -> Tensor:
        """Float32 features `[N, width]` of the images with these digests, in their order."""
        rows = self._mapped()[[self.places[image] for image in images]]
        return torch.from_numpy(rows.astype(np.float32, copy=False))

    def forget(self) -> None:
        """Drop every row, on disk as well."""
        self._write(self._index, 0, b"")
        self.places, self._count = {}, 0

    def reference(self) -> Tensor | None:
        """What `refer_to` wrote, float32 `[n]`; None if nothing was, or not whole."""
        try:
            content = (self.folder / "reference").read_bytes()
        except FileNotFoundError:
            return None
        numbers, digest = content[:-ROW], content[-ROW:]
        if len(numbers) % 4 or hashlib.blake2b(numbers, digest_size=ROW).digest() != digest:
            return None
        return torch.from_numpy(np.frombuffer(numbers, "<f4").astype(np.float32))

    def refer_to(self, numbers: Tensor) -> None:
        """Keep float32 `numbers` `[n]` by which one can tell later whether the rows still are what they were.

        Raises:
            EncoderError: the disk is full.
        """
        content = numbers.numpy().astype("<f4", copy=False).tobytes()
        try:
            write_atomically(self.folder / "reference", content + hashlib.blake2b(content, digest_size=ROW).digest())
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise self._full(len(content)) from error

    def _mapped(self) -> np.ndarray:
        return np.memmap(self.folder / "rows.f32", "<f4", "r", shape=(self._count, self.width))


def _digest(row: np.ndarray) -> bytes:
    return hashlib.blake2b(row.data, digest_size=ROW).digest()
