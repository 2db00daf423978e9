"""Read an image folder with one sub-folder a class, decoded once to uint8 of one size."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import PIL
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from stillsight.encoders.atomic import replacing
from stillsight.encoders.device import available_memory
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.supervised.data import picture
from stillsight.encoders.supervised.data.disk import check_room
from stillsight.encoders.supervised.data.split import Split
from stillsight.encoders.supervised.data.subset import hold_out

TEST_SHARE = 0.2
"""Share of each class that is tested on where the folder names no test images."""
TEST_FOLDERS = ("test", "val", "validation")
"""Sub-folders beside train/ that hold test images; the first that exists. ImageNet's layout calls them val/."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ImageFolder:
    """What a folder holds.

    Attributes:
        labelled: images to learn and to choose with.
        test: images to test on.
        classes: names, by label.
        notes: which images were left out, which class has only one, which sub-folder is not used.
    """

    labelled: Split
    test: Split
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def read(
    folder: Path, side: int | None, skip_broken: float, cache: Path | None, progress: Progress | None = None
) -> ImageFolder:
    """Read FOLDER/<class>/<images>, or FOLDER/train/<class>/<images> and FOLDER/test/<class>/<images>.

    Without train/ and test/, a fifth of each class is tested on, the same images under every seed. A class with one
    image keeps it for learning. Broken images are left out and named in the notes.

    Args:
        folder: of the images, as torchvision's ImageFolder takes it.
        side: in pixels, of the squares that images are resized to; None takes images that have one size already.
        skip_broken: share of the images, 0..1, that may be broken.
        cache: folder for the decoded images; None keeps none.
        progress: called with (what, images done, images in all).

    Raises:
        EncoderError: no classes or a class without images, too many broken images, images of several
            sizes without a `side`, or too little memory or disk.
    """
    test_folder = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if not (folder / "train").is_dir() or test_folder is None:
        whole, classes, notes = _read_classes(folder, side, skip_broken, cache, progress)
        kept, held_out = hold_out(whole.labels, TEST_SHARE, seed=0)
        notes += _single_images(whole, classes)
        return ImageFolder(whole.take(kept), whole.take(held_out), classes, notes)
    labelled, classes, notes = _read_classes(folder / "train", side, skip_broken, cache, progress)
    test, test_classes, test_notes = _read_classes(test_folder, side, skip_broken, cache, progress)
    if classes != test_classes:
        odd = ", ".join(sorted(set(classes) ^ set(test_classes)))
        raise EncoderError(
            f"{folder / 'train'} and {test_folder} have different classes ({odd}). Give both a sub-folder for each "
            "class."
        )
    if labelled.images.shape[1:] != test.images.shape[1:]:
        raise _several_sizes(folder)
    others = (name for name in TEST_FOLDERS if (folder / name).is_dir() and folder / name != test_folder)
    unused = tuple(f"{name}/ is not used" for name in others)
    return ImageFolder(labelled, test, classes, notes + test_notes + unused + _single_images(labelled, classes))


def _single_images(split: Split, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The note about classes that have one image."""
    counts = split.labels.bincount(minlength=len(classes)).tolist()
    single = [name for name, count in zip(classes, counts, strict=True) if count == 1]
    return (f"one image alone, kept for learning: {_shortened(single)}",) if single else ()


def _read_classes(
    folder: Path, side: int | None, skip_broken: float, cache: Path | None, progress: Progress | None
) -> tuple[Split, tuple[str, ...], tuple[str, ...]]:
    """Images and labels of one folder in the order of their paths, names of the classes, and notes."""
    # Hidden folders (.git, .ipynb_checkpoints) are no classes.
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if len(classes) < 2:
        raise EncoderError(
            f"{folder} has {len(classes)} sub-folder{'' if classes else 's'}, and telling classes apart takes two. "
            "Give each class a sub-folder of images."
        )
    try:
        samples = make_dataset(str(folder), {name: label for label, name in enumerate(classes)}, IMG_EXTENSIONS)
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise EncoderError(f"{folder}: {reason}. Put images there, or delete the sub-folder.") from error
    paths = [Path(path) for path, _ in samples]
    file = None if cache is None else cache / f"images-{_key(paths, side)}.safetensors"
    images, broken = _read_cache(file) or _decode(paths, side, file, progress)
    kept = sorted(set(range(len(samples))) - set(broken))
    labels = torch.tensor([samples[row][1] for row in kept])
    names = _shortened([str(paths[row].relative_to(folder)) for row in broken])
    if len(broken) > skip_broken * len(paths):
        raise EncoderError(
            f"{len(broken)} of the {len(paths)} images in {folder} are broken ({names}), and at most "
            f"{skip_broken:.0%} may be. Repair or delete them, or type --skip-broken {_ceil(len(broken) / len(paths))}."
        )
    empty = [name for label, name in enumerate(classes) if not (labels == label).any()]
    if empty:
        raise EncoderError(
            f"All images of class {_shortened(empty)} in {folder} are broken. Repair them, or delete it."
        )
    notes = (f"{len(broken)} broken images left out: {names}",) if broken else ()
    return Split(images, labels), tuple(classes), notes


def _decode(
    paths: list[Path], side: int | None, file: Path | None, progress: Progress | None
) -> tuple[Tensor, list[int]]:
    """Images uint8 `[N, 3, side, side]` of the `paths` that can be read, and the rows of the others."""
    size = (side, side) if side else _first_size(paths)
    needed = len(paths) * 3 * size[0] * size[1]
    free = available_memory()
    if free is not None and needed > free:
        raise EncoderError(
            f"{len(paths):,} images of {size[0]} x {size[1]} pixels take {needed:,} bytes of memory, and {free:,} are "
            "free. Type a smaller --resolution."
        )
    images, broken = torch.empty((len(paths), 3, *size), dtype=torch.uint8), []
    kept = 0
    with ThreadPoolExecutor(os.cpu_count()) as workers:  # decoders let go of Python's lock
        for row, image in enumerate(workers.map(lambda path: _read_image(path, side), paths)):
            if image is None:
                broken.append(row)
            elif image.shape[1:] != size:
                raise _several_sizes(paths[row].parent.parent)
            else:
                images[kept] = image
                kept += 1
            if progress is not None and ((row + 1) % 256 == 0 or row + 1 == len(paths)):
                progress("read image", row + 1, len(paths))
    images = images[:kept]
    if file is not None:
        check_room(file.parent, images.nbytes)
        facts = {"broken": json.dumps(broken), "blake2b": _checksum(images)}
        with replacing(file) as partial:
            save_file({"images": images}, partial, facts)
    return images, broken


def _read_image(path: Path, side: int | None) -> Tensor | None:
    """An image as uint8 `[3, H, W]`, the way up that its camera says, or None if it is broken."""
    try:
        pixels = torch.from_numpy(picture.read(path))
    except EncoderError:
        return None
    return picture.resize(pixels[None], (side, side))[0] if side else pixels


def _first_size(paths: list[Path]) -> tuple[int, int]:
    """Height and width of the first image that can be read."""
    for path in paths:
        if (image := _read_image(path, None)) is not None:
            return image.shape[1], image.shape[2]
    return 1, 1  # all are broken, which the caller tells


def _several_sizes(folder: Path) -> EncoderError:
    """The sentence about images that a tensor cannot hold."""
    return EncoderError(
        f"The images in {folder} have different sizes. Say which size they shall be resized to: --resolution 64."
    )


def _key(paths: list[Path], side: int | None) -> str:
    """Changes whenever an image is added, removed, renamed or written anew, and with the decoder."""
    digest = hashlib.sha256(f"{side} Pillow {PIL.__version__}".encode())
    for path in paths:
        status = path.stat()
        digest.update(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _checksum(images: Tensor) -> str:
    return hashlib.blake2b(images.numpy().data, digest_size=16).hexdigest()


def _read_cache(file: Path | None) -> tuple[Tensor, list[int]] | None:
    """What an earlier run decoded; None if there is nothing or it is damaged."""
    if file is None or not file.is_file():
        return None
    try:
        with safe_open(str(file), "pt") as stored:
            images, facts = stored.get_tensor("images"), stored.metadata()
    except SafetensorError:
        return None
    return (images, json.loads(facts["broken"])) if _checksum(images) == facts["blake2b"] else None


def _shortened(names: list[str], most: int = 5) -> str:
    """The first `most` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _ceil(share: float) -> str:
    """A share 0..1, rounded up to hundredths."""
    return f"{int(share * 100) / 100 + 0.01:.2f}"
