"""Load a data set: CIFAR-10, CIFAR-100 or an image folder, with a validation part cut from the training images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from stillsight.encoders.errors import EncoderError, printable
from stillsight.encoders.supervised.data import cifar, image_folder
from stillsight.encoders.supervised.data.cifar_facts import CIFAR, TRAIN_IMAGES
from stillsight.encoders.supervised.data.picture import Interpolation
from stillsight.encoders.supervised.data.split import Dataset, Split
from stillsight.encoders.supervised.data.subset import Subset, hold_out

VALIDATION_SHARE = 0.1
"""Share of the training images that is held out for validation: 5,000 of CIFAR's 50,000."""
SUBSET_VALIDATION_SHARE = 0.2
"""The same where labels are few: of 1,000, VTAB-1k (Zhai et al. 2019) learns from 800 and chooses by 200."""


def load(
    name: str,
    folder: Path,
    validation: int | None = None,
    subset: Subset | None = None,
    side: int | None = None,
    skip_broken: float = 0.01,
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    interpolation: Interpolation = "bilinear",
) -> Dataset:
    """Read a data set and cut it into train, validation and test.

    Of CIFAR, the last `validation` training images are held out: the files are in random order already, and torchvision
    checks their md5, so this split is the same everywhere. In all other cases images are held out class by class,
    unless an image folder names its own; equal ones of a folder stay on one side.

    Args:
        name: cifar10, cifar100, or a folder with one sub-folder a class, see `image_folder.read`.
        folder: of the CIFAR files in torchvision's layout; they are downloaded there if they are missing.
        validation: training images to hold out; None is a tenth, and a fifth of a subset, or what the folder names.
        subset: which of the training images are used; None uses all.
        side, skip_broken, cache, progress, interpolation: for image folders, see `image_folder.read`.

    Raises:
        EncoderError: the data is neither there nor to be had, leaves nothing to test on, or `validation` or `subset` is
            out of range.
    """
    subset = subset or Subset()
    notes: tuple[str, ...] = ()
    named: Split | None = None
    if name in CIFAR:
        _check_validation(validation, TRAIN_IMAGES)  # before 170 MB are downloaded
        pool, test, classes = cifar.read(name, folder)
        title, origin = name, "Krizhevsky 2009"
    else:
        images = image_folder.read(Path(name), side, skip_broken, cache, progress, interpolation)
        pool, test, classes, notes = images.labelled, images.test, images.classes, images.notes
        title, origin, named = printable(Path(name).resolve().name), "", images.validation
        if not len(test):
            raise EncoderError(
                f"{name} leaves no images to test on: no class has two that differ and belong to it alone. Give a "
                "class more, or put test images into test/ beside train/, a sub-folder for each class in both."
            )
    if named is not None and validation is None and not subset.limited:
        return Dataset(title, pool, named, test, classes, origin, notes)
    if named is not None:
        flag = "--validation" if validation is not None else "--shots" if subset.shots is not None else "--fraction"
        notes += (f"the folder's own validation images are not used: {flag} holds training images out",)
    pool = subset.draw(pool, classes)
    count = validation or round((SUBSET_VALIDATION_SHARE if subset.limited else VALIDATION_SHARE) * len(pool))
    _check_validation(validation, len(pool))
    if name in CIFAR and not subset.limited:
        rows = torch.arange(len(pool))
        kept, held_out = rows[:-count], rows[-count:]
    else:
        originals = None if name in CIFAR else pool.originals()
        kept, held_out = hold_out(pool.labels, count / len(pool), subset.seed if subset.limited else 0, originals)
    return Dataset(title, pool.take(kept), pool.take(held_out), test, classes, origin, notes)


def _check_validation(validation: int | None, images: int) -> None:
    if validation is not None and not 0 < validation < images:
        raise EncoderError(
            f"--validation {validation} is out of range. Allowed: 1 to {images - 1:,} of the training images."
        )
