"""Store features on disk, each row under the digest of its image: no kill, bad disk or changed split can spoil it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import torch
from torch import Tensor

from stillsight.encoders.atomic import write_atomically
from stillsight.encoders.errors import DiskFault, EncoderError, say_once
from stillsight.encoders.supervised.data.disk import check_room

IMAGE, ROW = 16, 8
"""Bytes of the digest of an image and of a row of features."""
ENTRY = IMAGE + ROW
FORGOTTEN = b"forgotten".ljust(ENTRY, b"\0")
"""In the place of the entry of a row that was damaged, which was said and is not said again."""


def digests(images: Tensor) -> list[bytes]:
    """A digest of the pixels of each of the uint8 images `[N, 3, H, W]`."""
    pixels = images.contiguous().numpy()
    return [hashlib.blake2b(image, digest_size=IMAGE).digest() for image in pixels]


class Store:
    """Float32 rows `[width]` in a memory-mapped file, to which rows are only ever added.

    `rows.f32` holds the rows; `index` holds, for each of them, the digest of its image and a digest of both. The
    entries are written when their rows are, so a process killed at any moment leaves rows without entries, which are
    written over. On opening, every row is checked by its digest: one that was damaged is forgotten, and so are entries
    without a whole row, and how many there were is said. While one process has the store open, others wait, and say
    so. `reference` holds numbers by which a caller can tell whether the rows are still those that it would compute.

    Where the disk refuses (it is another user's or read-only, it fails or fills up), what is there is read all the
    same, and rows that are added stay in memory: they are computed again the next time, which is said once.

    Args:
        folder: made if it is missing.
        width: numbers in a row.

    Raises:
        EncoderError: `folder` or what it lies in is a file.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self.places: dict[bytes, int] = {}
        self._count = 0
        self._files: list[IO[bytes]] = []
        self._writable = True
        self._unkept: dict[bytes, np.ndarray] = {}
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
        folder, width = self.folder, self.width
        self._lock(self._open("index"))
        self._open("rows.f32")
        entries = (folder / "index").read_bytes()
        size = width * 4
        content = (folder / "rows.f32").stat().st_size
        self._count = min(len(entries) // ENTRY, content // size)
        lost = max(-(-len(entries) // ENTRY), -(-content // size)) - self._count
        if self._count:
            mapped = self._mapped()
            for place in range(self._count):
                first = place * ENTRY
                image, digest = entries[first : first + IMAGE], entries[first + IMAGE : first + ENTRY]
                if digest in (_digest(image, mapped[place]), _digest(b"", mapped[place])):
                    self.places[image] = place
                elif image + digest != FORGOTTEN:
                    lost += 1
                    self._forget(place)
        if lost:
            rows, images = ("1 row", "its image is") if lost == 1 else (f"{lost} rows", "their images are")
            say_once(f"{rows} of the cache {folder} damaged or incomplete: {images} encoded again.")

    def _forget(self, place: int) -> None:
        """Write in the place of a damaged row's entry that nothing is there."""
        if self._writable:
            self._files[0].seek(place * ENTRY)
            self._files[0].write(FORGOTTEN)
            self._files[0].flush()

    def _open(self, name: str) -> IO[bytes]:
        if self._writable:
            (self.folder / name).touch()
        self._files.append((self.folder / name).open("r+b" if self._writable else "rb"))
        return self._files[-1]

    def _lock(self, file: IO[bytes]) -> None:
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
    def _write(file: IO[bytes], offset: int, content: bytes) -> None:
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
            content = (self.folder / "reference").read_bytes()
        except OSError:
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
                path = self.folder / "reference"
                write_atomically(path, content + hashlib.blake2b(content, digest_size=ROW).digest())
            except OSError as error:
                self._do_without(error)

    def _mapped(self) -> np.ndarray:
        return np.memmap(self.folder / "rows.f32", "<f4", "r", shape=(self._count, self.width))


def _digest(image: bytes, row: np.ndarray) -> bytes:
    """Of an entry: its image's digest and its row. Caches that were begun earlier have entries of the row alone."""
    return hashlib.blake2b(image + row.tobytes(), digest_size=ROW).digest()
