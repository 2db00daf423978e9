"""Split and Dataset: labelled images as uint8 tensors, in a training, a validation and a test part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

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

    def originals(self) -> Tensor:
        """For each image the row of the first one with the same pixels, its own where there is none before it; int64
        `[N]`. The images must be on the CPU."""
        firsts: dict[bytes, int] = {}
        rows = [firsts.setdefault(digest, row) for row, digest in enumerate(digests(self.images))]
        return torch.tensor(rows, dtype=torch.long)

    def shared_with(self, other: Split) -> Tensor:
        """Which images `other` holds too, pixel by pixel; bool `[N]`. Both must be on the CPU."""
        held = set(digests(other.images))
        return torch.tensor([digest in held for digest in digests(self.images)], dtype=torch.bool)


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


DIGEST = 16
"""Bytes of the digest of an image."""


def digests(images: Tensor) -> list[bytes]:
    """A digest, of `DIGEST` bytes, of the pixels of each of the uint8 images `[N, 3, H, W]` on the CPU."""
    return [hashlib.blake2b(image, digest_size=DIGEST).digest() for image in images.contiguous().numpy()]
