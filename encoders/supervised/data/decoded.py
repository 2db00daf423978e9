"""Decode picture files to uint8 images of one size, once: they are kept for the runs that come after."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import PIL
import torch
from torch import Tensor

from stillsight.encoders.atomic import to_json
from stillsight.encoders.device import available_memory
from stillsight.encoders.errors import DamagedFileError, DiskFault, EncoderError, MemoryShortError
from stillsight.encoders.supervised.data import picture
from stillsight.encoders.supervised.data.disk import check_room
from stillsight.encoders.supervised.data.picture import Interpolation
from stillsight.encoders.system.plain_file import below
from stillsight.encoders.weights import tensor_file

Progress = Callable[[str, int, int], None]

SMALLER = "Type a smaller --resolution."
"""What to do where memory does not hold the images."""


@dataclass(frozen=True)
class Decoded:
    """What picture files hold.

    Attributes:
        images: uint8 `[N, 3, H, W]`, of the files that can be read, in their order.
        broken: rows of the files that cannot.
        traits: how many have which of `picture.TRAITS`.
        note: why the images could not be kept, or empty.
        not_given: how many of the broken are so because memory or the system did not give them now.
    """

    images: Tensor
    broken: list[int]
    traits: Counter[str]
    note: str = ""
    not_given: int = 0


def decode_all(
    paths: list[Path],
    folder: Path,
    side: int | None,
    interpolation: Interpolation,
    cache: Path | None,
    progress: Progress | None,
) -> Decoded:
    """The pictures in `paths`, from `cache` where an earlier run left them there.

    A cache that cannot be read or written costs time, and no run, which the note says. One whose disk has too little
    room to begin with is an error, because what comes after it needs room as well.

    Args:
        paths: of the files.
        folder: which they belong to, for messages.
        side: in pixels, of the squares that images are resized to; None takes images that have one size already.
        interpolation: to resize with.
        cache: folder for the decoded images; None keeps none.
        progress: called with (what, images done, images in all).

    Raises:
        EncoderError: images of several sizes without a `side`, or too little memory or disk.
        NotPlainError: what lies in the cache is a link, a pipe or a device.
    """
    if cache is None:
        return _decode(paths, folder, side, interpolation, progress)
    file = below(cache, f"images-{_key(paths, side, interpolation)}.safetensors", what="cache")
    kept = _recall(file)
    if kept is not None:
        return kept
    decoded = _decode(paths, folder, side, interpolation, progress)
    if decoded.not_given:
        note = f"{decoded.not_given} of them memory or the system did not give now, so the next run decodes all anew"
        return replace(decoded, note=note)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        header = _header(decoded)
        check_room(file.parent, tensor_file.size({"images": decoded.images}, header))
        _keep(decoded, header, file)
    except OSError as error:
        reason = error.cause if isinstance(error, DiskFault) else error.strerror or error
        note = f"the decoded images could not be kept in {file.parent} ({reason}), and the next run decodes them again"
        return replace(decoded, note=note)
    return decoded


def _decode(
    paths: list[Path], folder: Path, side: int | None, interpolation: Interpolation, progress: Progress | None
) -> Decoded:
    size = (side, side) if side else _first_size(paths)
    needed = len(paths) * 3 * size[0] * size[1]
    free = available_memory()
    if free is not None and needed > free:
        raise EncoderError(
            f"{len(paths):,} images of {size[0]} x {size[1]} pixels take {needed:,} bytes of memory, and {free:,} are "
            f"free. {SMALLER}"
        )
    images = torch.empty((len(paths), 3, *size), dtype=torch.uint8)
    broken: list[int] = []
    not_given = 0
    traits: Counter[str] = Counter()
    kept = 0

    def read(path: Path) -> tuple[Tensor, tuple[str, ...]] | EncoderError:
        try:
            found = picture.decode(path)
        except EncoderError as error:
            return error
        pixels = torch.from_numpy(found.pixels)
        return picture.resize(pixels[None], size, interpolation)[0] if side else pixels, found.traits

    with ThreadPoolExecutor(os.cpu_count()) as workers:  # decoders let go of Python's lock
        for row, found in enumerate(workers.map(read, paths)):
            if isinstance(found, EncoderError):
                broken.append(row)
                not_given += isinstance(found, picture.NotGivenError)
            elif found[0].shape[1:] != size:
                raise several_sizes(folder)
            else:
                images[kept] = found[0]
                traits.update(found[1])
                kept += 1
            if progress is not None and ((row + 1) % 256 == 0 or row + 1 == len(paths)):
                progress("read image", row + 1, len(paths))
    return Decoded(images[:kept], broken, traits, not_given=not_given)


def _first_size(paths: list[Path]) -> tuple[int, int]:
    """Height and width of the first image that can be read."""
    for path in paths:
        try:
            pixels = picture.read(path)
        except EncoderError:
            continue
        return pixels.shape[1], pixels.shape[2]
    return 1, 1  # all are broken, which the caller tells


def several_sizes(folder: Path) -> EncoderError:
    """The sentence about images that a tensor cannot hold."""
    return EncoderError(
        f"The images in {folder} have different sizes. Say which size they shall be resized to: --resolution 64."
    )


def _key(paths: list[Path], side: int | None, interpolation: Interpolation) -> str:
    """Changes whenever an image is added, removed, renamed or written anew, and with the decoder and its rules."""
    resized = f"{side} {interpolation}" if side else "as they are"
    digest = hashlib.sha256(f"{resized} rules {picture.VERSION} Pillow {PIL.__version__}\n".encode())
    for path in paths:
        digest.update(os.fsencode(os.path.realpath(path)))  # a name may be no UTF-8
        try:
            status = path.stat()
            digest.update(f" {status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(b" unreadable\n")
    return digest.hexdigest()[:24]


def _header(decoded: Decoded) -> dict[str, str]:
    return {"broken": to_json(decoded.broken), "traits": to_json(decoded.traits)}


def _keep(decoded: Decoded, header: dict[str, str], file: Path) -> None:
    """Write `decoded` to `file`.

    Raises:
        DiskFault: it cannot be written there.
    """
    tensor_file.write(file, {"images": decoded.images}, header)


def _recall(file: Path) -> Decoded | None:
    """What an earlier run decoded; None if there is nothing, it cannot be read, or it is damaged.

    Raises:
        MemoryShortError: there is, and memory has no room for it: nor would it have any for the images decoded again.
    """
    try:
        stored = tensor_file.read(file)
    except MemoryShortError as error:
        raise MemoryShortError(f"The cache of decoded images {file}", error.reason, SMALLER) from error
    except (DamagedFileError, OSError):
        return None
    if stored.sha256 is None:  # of a version before, which may be damaged where its own hash did not look
        return None
    facts = stored.metadata
    try:
        return Decoded(stored.tensors["images"], json.loads(facts["broken"]), Counter(json.loads(facts["traits"])))
    except (KeyError, TypeError, ValueError, RecursionError):  # not a header of ours
        return None
