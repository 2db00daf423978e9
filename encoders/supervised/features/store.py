"""Store features on disk, each row under the digest of its image: no kill, bad disk or changed split can spoil it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import torch
from torch import Tensor

from stillsight.encoders.atomic import write_atomically
from stillsight.encoders.errors import DamagedFileError, DiskFault, EncoderError, say_once
from stillsight.encoders.supervised.data.disk import check_room
from stillsight.encoders.supervised.data.split import DIGEST
from stillsight.encoders.system.plain_file import below, open_plain, read_plain

ROW = 8
"""Bytes of the digest of a row of features."""
ENTRY = DIGEST + ROW
FORGOTTEN = b"forgotten".ljust(ENTRY, b"\0")
"""In the place of the entry of a row that was damaged, which was said and is not said again."""
BLOCK = 4096
"""Entries that are read at a time."""
MOST_REFERENCE = 2**26
"""Bytes of numbers that a caller may keep to know its rows by; ours are the features of two images."""


class Store:
    """Float32 rows `[width]` in a memory-mapped file, to which rows are only ever added.

    `rows.f32` holds the rows; `index` holds, for each of them, the digest of its image and a digest of both. The
    entries are written when their rows are, so a process killed at any moment leaves rows without entries, which are
    written over. On opening, every row is checked by its digest: one that was damaged is forgotten, and so are entries
    without a whole row, and how many there were is said. While one process has the store open, others wait, and say
    so. `reference` holds numbers by which a caller can tell whether the rows are still those that it would compute.

    Where the disk refuses (it is another user's or read-only, it fails or fills up), what is there is read all the
    same, and rows that are added stay in memory: they are computed again the next time, which is said once. So it is
    where a file has a second name (a hard link), because what is written would stand in the other as well.

    Args:
        folder: made if it is missing. What it lies in may be a link; itself and its files may not.
        width: numbers in a row.

    Raises:
        EncoderError: `folder` or what it lies in is a file.
        NotPlainError: `folder` is a link, or one of its files is a link, a pipe or a device.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self.places: dict[bytes, int] = {}
        self._count = 0
        self._files: list[BinaryIO] = []
        self._writable = True
        self._unkept: dict[bytes, np.ndarray] = {}
        for name in ("index", "rows.f32", "reference"):
            self._path(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._read()
        except (FileExistsError, NotADirectoryError) as error:
            raise EncoderError(
                f"The cache {folder} cannot be made ({error}). Choose another: --cache FOLDER."
            ) from error
        except OSError as error:
            self._close()
            self._do_without(error)
            with contextlib.suppress(OSError):
                self._read()

    def _do_without(self, error: OSError) -> None:
        """Write nothing from now on, and say why. The lock stays: rows are still read."""
        self._writable = False
        reason = error.cause if isinstance(error, DiskFault) else error.strerror or error
        say_once(
            f"features could not be kept in {self.folder} ({reason}): the next run computes them again. To keep them, "
            "choose another: --cache FOLDER."
        )

    def _read(self) -> None:
        """Open and lock the files, and find the whole rows."""
        index = self._open("index")
        self._lock(index)
        rows = self._open("rows.f32")
        size = self.width * 4
        indexed, content = os.fstat(index.fileno()).st_size, os.fstat(rows.fileno()).st_size
        self._count = min(indexed // ENTRY, content // size)
        lost = max(-(-indexed // ENTRY), -(-content // size)) - self._count
        if self._count:
            mapped = self._mapped()
            for place, (image, digest) in enumerate(self._entries(index)):
                if digest == _digest(image, mapped[place]) or digest == _digest(b"", mapped[place]):
                    self.places[image] = place
                elif image + digest != FORGOTTEN:
                    lost += 1
                    self._forget(place)
        if lost:
            damaged, images = ("1 row", "its image is") if lost == 1 else (f"{lost} rows", "their images are")
            say_once(f"{damaged} of the cache {self.folder} damaged or incomplete: {images} encoded again.")

    def _entries(self, index: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
        """Of each whole row the digest of its image, and that of both.

        They are read a block at a time: a file may claim any size.
        """
        for first in range(0, self._count, BLOCK):
            index.seek(first * ENTRY)
            block = index.read(min(BLOCK, self._count - first) * ENTRY)
            for start in range(0, len(block), ENTRY):
                yield block[start : start + DIGEST], block[start + DIGEST : start + ENTRY]

    def _forget(self, place: int) -> None:
        """Write in the place of a damaged row's entry that nothing is there."""
        if self._writable:
            self._files[0].seek(place * ENTRY)
            self._files[0].write(FORGOTTEN)
            self._files[0].flush()

    def _path(self, name: str) -> Path:
        """Of one of the files, none of which may lead elsewhere."""
        return below(self.folder.parent, self.folder.name, name, what="cache")

    def _open(self, name: str) -> BinaryIO:
        file = open_plain(self._path(name), "r+b") if self._writable else open_plain(self._path(name))
        self._files.append(file)
        if self._writable and os.fstat(file.fileno()).st_nlink > 1:
            raise OSError(errno.EMLINK, f"its file {name} is a hard link, and would be written under its other name")
        return file

    def _lock(self, file: BinaryIO) -> None:
        how = fcntl.LOCK_EX if self._writable else fcntl.LOCK_SH
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            say_once(f"waiting for another process, which fills the cache {self.folder}.")
            fcntl.flock(file, how)

    def _close(self) -> None:
        for file in self._files:
            with contextlib.suppress(OSError):  # what it could not write it said when it was to write it
                file.close()  # which lets go of the lock
        self._files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __contains__(self, image: bytes) -> bool:
        return image in self.places or image in self._unkept

    def check_room(self, rows: int) -> None:
        """Refuse to begin what the disk cannot take, see `disk.check_room`."""
        if self._writable:
            check_room(self.folder, rows * (self.width * 4 + ENTRY))

    def add(self, images: list[bytes], rows: Tensor) -> None:
        """Write `rows` float32 `[n, width]` of the images with these digests; keep them in memory where that fails."""
        block = rows.numpy().astype("<f4", copy=False)
        if self._writable:
            index, values = self._files
            try:
                self._write(values, self._count * self.width * 4, block.tobytes())
                entries = b"".join(image + _digest(image, row) for image, row in zip(images, block, strict=True))
                self._write(index, self._count * ENTRY, entries)
            except OSError as error:
                self._do_without(error)
        if not self._writable:
            self._unkept |= dict(zip(images, block.copy(), strict=True))
            return
        self.places |= {image: self._count + place for place, image in enumerate(images)}
        self._count += len(images)

    @staticmethod
    def _write(file: BinaryIO, offset: int, content: bytes) -> None:
        file.seek(offset)
        file.write(content)
        file.truncate()  # whatever a killed process left behind
        file.flush()

    def get(self, images: list[bytes]) -> Tensor:
        """Float32 features `[N, width]` of the images with these digests, in their order."""
        if not self._unkept:
            rows = self._mapped()[[self.places[image] for image in images]]
            return torch.from_numpy(rows.astype(np.float32, copy=False))
        mapped = self._mapped() if self._count else None
        gathered = np.empty((len(images), self.width), np.float32)
        for number, image in enumerate(images):
            known = self._unkept.get(image)
            if known is None:
                assert mapped is not None
                known = mapped[self.places[image]]
            gathered[number] = known
        return torch.from_numpy(gathered)

    def forget(self) -> None:
        """Drop every row, on disk as well where that can be written."""
        self.places, self._count, self._unkept = {}, 0, {}
        if self._writable:
            try:
                self._write(self._files[0], 0, b"")
            except OSError as error:
                self._do_without(error)

    def reference(self) -> Tensor | None:
        """What `refer_to` wrote, float32 `[n]`; None if nothing was, or not whole."""
        try:
            content = read_plain(self._path("reference"), MOST_REFERENCE)
        except (OSError, DamagedFileError):
            return None
        numbers, digest = content[:-ROW], content[-ROW:]
        if len(numbers) % 4 or hashlib.blake2b(numbers, digest_size=ROW).digest() != digest:
            return None
        return torch.from_numpy(np.frombuffer(numbers, "<f4").astype(np.float32))

    def refer_to(self, numbers: Tensor) -> None:
        """Keep float32 `numbers` `[n]` by which one can tell later whether the rows still are what they were."""
        content = numbers.numpy().astype("<f4", copy=False).tobytes()
        if self._writable:
            try:
                write_atomically(self._path("reference"), content + hashlib.blake2b(content, digest_size=ROW).digest())
            except OSError as error:
                self._do_without(error)

    def _mapped(self) -> np.ndarray:
        return np.memmap(self._files[1], "<f4", "r", shape=(self._count, self.width))


def _digest(image: bytes, row: np.ndarray) -> bytes:
    """Of an entry: its image's digest and its row. Caches that were begun earlier have entries of the row alone."""
    digest = hashlib.blake2b(image, digest_size=ROW)
    digest.update(row.data)
    return digest.digest()
