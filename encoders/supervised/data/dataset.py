"""CIFAR-10, CIFAR-100 or an image folder as uint8 tensors, with a validation part cut from the training images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stillsight.encoders.errors import EncoderError
from stillsight.encoders.supervised.cifar_config import CIFAR
from stillsight.encoders.supervised.data.subset import Few, hold_out

CIFAR_TRAIN = 50_000
"""Training images of CIFAR-10 and of CIFAR-100."""
SHARE = 0.1
"""Share of the training images that is held out for validation: 5,000 of CIFAR's 50,000."""
FEW_SHARE = 0.2
"""The same where labels are few: of 1,000, VTAB-1k (Zhai et al. 2019) learns from 800 and chooses by 200."""


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, 3, H, W]` and labels int64 `[N]`."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        """The same images on `device`: 50,000 CIFAR images are 154 MB, so they live where the network lives."""
        return Split(self.images.to(device), self.labels.to(device))

    def take(self, rows: Tensor) -> Split:
        """The images of these `rows`, copied."""
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Dataset:
    """A labelled image data set. `validation` comes out of the training images; `test` is looked at once, at last.

    Attributes:
        name: in cards and file names.
        train, validation, test: the images.
        classes: names, by label.
        origin: whom to cite for the images, or empty.
        notes: what a reader of the results must know of the images: which were skipped, which class has only one.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    origin: str = ""
    notes: tuple[str, ...] = ()

    def sha256(self) -> str:
        """Hash of all pixels and labels: what two runs must share to be compared."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(split.images.numpy().tobytes())
            digest.update(split.labels.numpy().tobytes())
        return digest.hexdigest()


def load(
    name: str,
    folder: Path,
    validation: int | None = None,
    few: Few | None = None,
    side: int | None = None,
    skip_broken: float = 0.01,
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Dataset:
    """Read a data set and cut it into train, validation and test.

    Of CIFAR, the last `validation` training images are held out: the files are in random order already, and torchvision
    checks their md5, so this split is the same everywhere. In all other cases images are held out class by class.

    Args:
        name: cifar10, cifar100, or a folder with one sub-folder a class, see `folder.read`.
        folder: of the CIFAR files in torchvision's layout; they are downloaded there if they are missing.
        validation: training images to hold out; None is a tenth, and a fifth where labels are few.
        few: which of the training images are used; None uses all.
        side, skip_broken, cache, progress: for image folders, see `folder.read`.

    Raises:
        EncoderError: the data is neither there nor to be had, or `validation` or `few` is out of range.
    """
    few = few or Few()
    if name in CIFAR:
        _check_validation(validation, CIFAR_TRAIN)  # before 170 MB are downloaded
    no_notes: tuple[str, ...] = ()
    if name in CIFAR:
        pool, test, classes = _cifar(name, folder)
        origin, notes = "Krizhevsky 2009", no_notes
    else:
        from stillsight.encoders.supervised.data import image_folder as folders

        found = folders.read(Path(name), side, skip_broken, cache, progress)
        pool, test, classes, notes = found.labelled, found.test, found.classes, found.notes
        name, origin = Path(name).resolve().name, ""
    pool = few.choose(pool, classes)
    count = validation or round((FEW_SHARE if few.asked else SHARE) * len(pool))
    _check_validation(validation, len(pool))
    if name in CIFAR and not few.asked:
        rows = torch.arange(len(pool))
        left, held = rows[:-count], rows[-count:]
    else:
        left, held = hold_out(pool.labels, count / len(pool), few.seed if few.asked else 0)
    return Dataset(name, pool.take(left), pool.take(held), test, classes, origin, notes)


def _check_validation(validation: int | None, images: int) -> None:
    if validation is not None and not 0 < validation < images:
        raise EncoderError(
            f"--validation {validation} is out of range. Allowed: 1 to {images - 1:,} of the training images."
        )


def _cifar(name: str, folder: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Training and test images of CIFAR, and the names of the classes."""
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        both = [kind(str(folder), train=train, download=not _complete(kind, folder)) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise EncoderError(
            f"{name} is not in {folder} and could not be downloaded ({error}). Put {kind.base_folder}/ there, or give "
            "--data FOLDER, a folder that holds it."
        ) from error
    train, test = (
        Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)) for part in both
    )
    return train, test, tuple(both[0].classes)


def _complete(kind: type, folder: Path) -> bool:
    try:
        kind(str(folder), train=True, download=False)
    except RuntimeError:
        return False
    return True
