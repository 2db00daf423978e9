"""CIFAR-10 and CIFAR-100 as uint8 tensors, with a validation part cut from the training images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from stillsight.encoders.registry import EncoderError

Name = Literal["cifar10", "cifar100"]


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


@dataclass(frozen=True)
class Dataset:
    """A labelled image data set. `validation` comes out of the training images; `test` is looked at once, at last."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]

    def sha256(self) -> str:
        """Hash of all pixels and labels: what makes cached features of this data set valid."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(split.images.numpy().tobytes())
            digest.update(split.labels.numpy().tobytes())
        return digest.hexdigest()


def load(name: Name, folder: Path, validation: int = 5000) -> Dataset:
    """Read a CIFAR data set from torchvision's layout in `folder`, downloading it there if it is missing.

    The last `validation` training images are held out. The files are in random order already, and torchvision checks
    their md5, so this split is the same everywhere.

    Raises:
        EncoderError: the data is neither there nor to be had, or `validation` is out of range.
    """
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    if not 0 < validation < 50_000:
        raise EncoderError(f"--validation {validation} is out of range. Allowed: 1 to 49,999 of the training images.")
    try:
        both = [kind(str(folder), train=train, download=not _complete(kind, folder)) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise EncoderError(
            f"{name} is not in {folder} and could not be downloaded ({error}). Put {kind.base_folder}/ there, or give "
            "--data FOLDER, a folder that holds it."
        ) from error
    splits = [
        Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)) for part in both
    ]
    train = Split(splits[0].images[:-validation], splits[0].labels[:-validation])
    held_out = Split(splits[0].images[-validation:], splits[0].labels[-validation:])
    return Dataset(name, train, held_out, splits[1], tuple(both[0].classes))


def _complete(kind: type, folder: Path) -> bool:
    try:
        kind(str(folder), train=True, download=False)
    except RuntimeError:
        return False
    return True
