"""Read CIFAR-10 and CIFAR-100 (Krizhevsky 2009) through torchvision, which is imported only then."""

from __future__ import annotations

from pathlib import Path

from stillsight.encoders.errors import EncoderError
from stillsight.encoders.supervised.data.split import Split


def read(name: str, folder: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Training images, test images and names of the classes; what is missing is downloaded.

    Args:
        name: cifar10 or cifar100.
        folder: of the files in torchvision's layout; torchvision checks their md5.

    Raises:
        EncoderError: the files are neither there nor to be had.
    """
    import torch
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        parts = [kind(str(folder), train=train, download=not _complete(kind, folder)) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise EncoderError(
            f"{name} is not in {folder} and could not be downloaded ({error}). Put {kind.base_folder}/ there, or give "
            "--data FOLDER, a folder that holds it."
        ) from error
    train, test = (
        Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in parts
    )
    return train, test, tuple(parts[0].classes)


def _complete(kind: type, folder: Path) -> bool:
    """Whether all files are there, with the md5 that they should have."""
    try:
        kind(str(folder), train=True, download=False)
    except RuntimeError:
        return False
    return True
