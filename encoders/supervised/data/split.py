"""Split and Dataset: labelled images as uint8 tensors, in a training, a validation and a test part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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
        """The images of these `rows`, int64 `[n]`, copied."""
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
