"""Search folders for picture files: what is a picture by its name, what is passed over, and each real file once."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stillsight.encoders.errors import EncoderError, printable

ENDINGS = (
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""What a folder is searched for, to learn from as to predict, in any case; a file that is named itself may be called
anything."""
JUNK = ("__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found")
"""Folders that systems and programs leave behind, in lower case; hidden ones (.git, .ipynb_checkpoints) need no row."""


@dataclass
class PassedOver:
    """What a search did not take, counted.

    Attributes:
        endings: files that are no pictures by their ending, by ending in lower case.
        hidden: hidden files, and hidden and junk folders; what lies in such a folder is not counted.
        repeated: links to what is read already, and to folders that hold the searched one.
        special: pipes, sockets and devices with a picture's ending.
        loose: pictures beside the classes of an image folder, which belong to none.
    """

    endings: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    repeated: int = 0
    special: int = 0
    loose: int = 0

    def __add__(self, other: PassedOver) -> PassedOver:
        return PassedOver(
            self.endings + other.endings,
            self.hidden + other.hidden,
            self.repeated + other.repeated,
            self.special + other.special,
            self.loose + other.loose,
        )

    def __str__(self) -> str:
        """All that is not zero, in words; empty where nothing was passed over."""
        endings = ", ".join(f"{printable(ending)} {count}" for ending, count in sorted(self.endings.items()))
        counts = (
            (self.endings.total(), f"files that are no pictures by their ending ({endings})"),
            (self.hidden, "hidden files, hidden folders and folders of the system"),
            (self.repeated, "links to what is read already"),
            (self.special, "pipes and devices"),
            (self.loose, "pictures beside the classes"),
        )
        return ", ".join(f"{count:,} {what}" for count, what in counts if count)


def find(places: Iterable[Path]) -> tuple[list[Path], PassedOver]:
    """The picture files in `places`: files as they are named, folders searched through and through, by path.

    Raises:
        EncoderError: a place does not exist or cannot be searched, or a folder has no pictures.
    """
    pictures: list[Path] = []
    passed = PassedOver()
    for place in places:
        if not place.is_dir():
            if not place.exists() and not place.is_symlink():
                raise EncoderError(
                    f"There is no file or folder {place}. Give picture files, or folders that hold them."
                )
            pictures.append(place)
            continue
        (inside,), left = search([place])
        if not inside:
            told = f"; passed over were {left}" if str(left) else ""
            raise EncoderError(
                f"The folder {place} holds no pictures. Looked for: {', '.join(ENDINGS)}{told}. Give a folder that has "
                "some, or name the files."
            )
        pictures += sorted(inside)
        passed += left
    return pictures, passed


def search(folders: Sequence[Path]) -> tuple[list[list[Path]], PassedOver]:
    """The picture files at every depth of each of `folders`, by folder and name, and what was passed over.

    Hidden and junk entries are skipped at every depth. Links are followed, but no real file or folder is taken twice,
    in whichever of the folders: what lies there itself goes before links to it. A dangling link with a picture's ending
    is taken, so that it is counted as broken.

    Raises:
        EncoderError: a folder cannot be searched.
    """
    pictures: list[list[Path]] = [[] for _ in folders]
    passed = PassedOver()
    visited: set[str] = set()
    roots = [os.path.realpath(folder) for folder in folders]
    links = deque((number, folder) for number, folder in enumerate(folders) if folder.is_symlink())

    def enter(number: int, folder: Path, real: str) -> None:
        if real in visited:  # one of `folders` lies in another
            passed.repeated += 1
            return
        visited.add(real)
        for entry in entries(folder):
            path, place = Path(entry.path), os.path.join(real, entry.name)
            if skipped(entry.name):
                passed.hidden += 1
            elif entry.is_symlink():
                links.append((number, path))
            elif entry.is_dir():
                enter(number, path, place)
            else:
                take(number, path, place)

    def take(number: int, path: Path, real: str) -> None:
        if path.suffix.lower() not in ENDINGS:
            passed.endings[path.suffix.lower() or "no ending"] += 1
        elif path.exists() and not path.is_file():
            passed.special += 1
        elif real in visited:
            passed.repeated += 1
        else:
            visited.add(real)
            pictures[number].append(path)

    for number, folder in enumerate(folders):
        if not folder.is_symlink():
            enter(number, folder, roots[number])
    while links:
        number, path = links.popleft()
        real = os.path.realpath(path)
        if not path.is_dir():
            take(number, path, real)
        elif any(root.startswith(os.path.join(real, "")) for root in roots):
            passed.repeated += 1
        else:
            enter(number, path, real)
    return [sorted(paths, key=lambda path: (str(path.parent), path.name)) for paths in pictures], passed


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in `folder`, by name.

    Raises:
        EncoderError: it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        reason = error.strerror or error
        raise EncoderError(
            f"The folder {folder} cannot be searched ({reason}). Make it readable, or move it."
        ) from error


def skipped(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or junk of a system."""
    return name.startswith(".") or name.lower() in JUNK
