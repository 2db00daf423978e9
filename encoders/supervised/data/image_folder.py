"""Read an image folder with one sub-folder a class: its parts, its classes, and which pictures are equal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from stillsight.encoders.errors import EncoderError, as_typed, printable
from stillsight.encoders.supervised.data import picture
from stillsight.encoders.supervised.data.decoded import Progress, decode_all, several_sizes
from stillsight.encoders.supervised.data.picture import Interpolation
from stillsight.encoders.supervised.data.search import ENDINGS, PassedOver, entries, search, skipped
from stillsight.encoders.supervised.data.split import Split
from stillsight.encoders.supervised.data.subset import hold_out

TEST_SHARE = 0.2
"""Share of each class that is tested on where the folder names no test images."""
PARTS = {"train": ("train", "training"), "validation": ("valid", "val", "validation"), "test": ("test", "testing")}
"""Names of the sub-folders that part a data set, in any case. ImageNet's layout calls its test images val/."""


@dataclass(frozen=True)
class ImageFolder:
    """What a folder holds.

    Attributes:
        labelled: images to learn and, where there are no images for `validation`, to choose with.
        test: images to test on; there may be none.
        classes: names, by label, each on one line of valid text.
        notes: what was left out, passed over, seen otherwise than it lies there, or equal.
        validation: images to choose with, where the folder has some beside its test images.
    """

    labelled: Split
    test: Split
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    validation: Split | None = None


@dataclass(frozen=True)
class _Part:
    """A folder of classes: its images, the file of each, the classes, and what became of other files."""

    split: Split
    paths: list[Path]
    classes: tuple[str, ...]
    broken: list[Path]
    traits: Counter[str]
    passed: PassedOver
    note: str

    def take(self, rows: Tensor) -> _Part:
        """Of the images these `rows` alone, int64 `[n]`."""
        return replace(self, split=self.split.take(rows), paths=[self.paths[row] for row in rows.tolist()])


@dataclass(frozen=True)
class _Listing:
    """What lies in a folder, apart from what is hidden: sub-folders and links to such, and other entries, by name."""

    folders: list[Path]
    files: list[Path]
    hidden: int

    @property
    def has_pictures(self) -> bool:
        """Whether a file is a picture by its name."""
        return any(path.suffix.lower() in ENDINGS for path in self.files)

    def passed_over(self) -> PassedOver:
        """The files, where only folders count."""
        suffixes = [path.suffix.lower() for path in self.files]
        pictures = sum(suffix in ENDINGS for suffix in suffixes)
        others = Counter(suffix or "no ending" for suffix in suffixes if suffix not in ENDINGS)
        return PassedOver(others, hidden=self.hidden, loose=pictures)


def read(
    folder: Path,
    side: int | None,
    skip_broken: float,
    cache: Path | None,
    progress: Progress | None = None,
    interpolation: Interpolation = "bilinear",
) -> ImageFolder:
    """Read FOLDER/<class>/<images>, or FOLDER/train/<class>/<images> with test/, valid/ or both beside train/.

    Without parts, a fifth of each class is tested on, the same images under every seed. Of train/ and valid/ alone,
    valid/ is tested on. A class with one image keeps it for learning. Broken images are left out and named in the
    notes. Equal images stay on one side: where the folder itself has them on two, those for training are left out, and
    of those for validation and for testing the former.

    Args:
        folder: of the images; links are followed, hidden and junk folders are not, at any depth.
        side: in pixels, of the squares that images are resized to; None takes images that have one size already.
        skip_broken: share of the images, 0..1, that may be broken.
        cache: folder for the decoded images; None keeps none.
        progress: called with (what, images done, images in all).
        interpolation: to resize with, that of the recipe of the encoder's weights.

    Raises:
        EncoderError: no classes or a class without images, sub-folders that are parts and no classes, too many broken
            images, images of several sizes without a `side`, or too little memory or disk.
    """
    places = _parts(folder)
    if places is None:
        whole = _read_classes(folder, side, skip_broken, cache, progress, interpolation)
        kept, held_out = hold_out(whole.split.labels, TEST_SHARE, seed=0, originals=whole.split.originals())
        notes = (*_told([whole], folder, whole.passed), *_single_images(whole))
        return ImageFolder(whole.split.take(kept), whole.split.take(held_out), whole.classes, notes)
    parts = {
        name: _read_classes(place, side, skip_broken, cache, progress, interpolation) for name, place in places.items()
    }
    for name, part in parts.items():
        _check_alike(parts["train"], part, places["train"], places[name], folder)
    listing = _list(folder)
    unused = [f"{printable(sub.name)}/ is not used" for sub in listing.folders if sub not in places.values()]
    passed = sum((part.passed for part in parts.values()), listing.passed_over())
    told = _told(list(parts.values()), folder, passed)
    told += _keep_apart(parts, places, folder)
    train = parts["train"]
    if "test" not in parts:
        told.append(f"{places['validation'].name}/ is tested on, for there is no test/")
        parts["test"] = parts.pop("validation")
    validation = parts["validation"].split if "validation" in parts else None
    notes = (*told, *unused, *_single_images(train))
    return ImageFolder(train.split, parts["test"].split, train.classes, notes, validation)


def _parts(folder: Path) -> dict[str, Path] | None:
    """The sub-folders that part a data set, by the names of `PARTS`; None where the sub-folders are classes.

    Raises:
        EncoderError: a part is there twice, or has no classes.
    """
    subfolders = _list(folder).folders
    named = {part: [sub for sub in subfolders if sub.name.lower() in names] for part, names in PARTS.items()}
    named = {part: places for part, places in named.items() if places}
    if "train" not in named or len(named) == 1:
        return None
    # A class may be called train, among cars and planes: parts hold folders, or there is nothing else beside them.
    alone = sum(map(len, named.values())) == len(subfolders)
    if not alone and not any(_list(sub).folders for sub in named["train"]):
        return None
    for part, places in named.items():
        if len(places) > 1:
            both = " and ".join(f"{sub.name}/" for sub in places)
            raise EncoderError(f"{folder} has {both}, and both mean {part}. Rename one, or put them together.")
        if not _list(places[0]).folders:
            raise EncoderError(
                f"{places[0]} has no sub-folders, and by its name it is a part of a data set, which needs one for each "
                f"class. Sort its pictures into classes, or move it out of {folder}."
            )
    return {part: places[0] for part, places in named.items()}


def _list(folder: Path) -> _Listing:
    """What lies in `folder`.

    Raises:
        EncoderError: it cannot be read.
    """
    folders, files, hidden = [], [], 0
    for entry in entries(folder):
        path = Path(entry.path)
        if skipped(entry.name):
            hidden += 1
        elif path.is_dir():
            folders.append(path)
        else:
            files.append(path)
    return _Listing(folders, files, hidden)


def _check_classes(folder: Path, listing: _Listing) -> None:
    """Refuse sub-folders that are no classes.

    Raises:
        EncoderError: they are fewer than two, hold nothing but sub-folders of equal names, or one is a link to nothing.
    """
    subfolders = listing.folders
    for path in listing.files:
        if path.is_symlink() and not path.exists() and not path.suffix:
            raise EncoderError(f"{path} is a link that leads nowhere, and may have been a class. Mend or delete it.")
    if len(subfolders) < 2:
        inside = len(_list(subfolders[0]).folders) if subfolders else 0
        deeper = (
            f", or take the {inside} in {subfolders[0].name}/: --dataset {as_typed(subfolders[0])}"
            if inside > 1
            else ""
        )
        raise EncoderError(
            f"{folder} has {len(subfolders)} sub-folder{'' if subfolders else 's'}, and telling classes apart takes "
            f"two. Give each class a sub-folder of images{deeper}."
        )
    listings = {sub: _list(sub) for sub in subfolders}
    bare = {
        sub: {inside.name.lower() for inside in listing.folders}
        for sub, listing in listings.items()
        if listing.folders and not listing.has_pictures
    }
    for one, other in combinations(bare, 2):
        if bare[one] <= bare[other] or bare[other] <= bare[one]:
            shared = shortened(sorted(bare[one] & bare[other]))
            raise EncoderError(
                f"In {folder}, {one.name}/ and {other.name}/ hold nothing but sub-folders of equal names ({shared}): "
                "they look like parts of a data set and not like classes. Name parts train/, valid/ and test/, give "
                f"one of them alone, say --dataset {as_typed(one)}, or put the pictures of a class into its folder "
                "itself."
            )


def _read_classes(
    folder: Path,
    side: int | None,
    skip_broken: float,
    cache: Path | None,
    progress: Progress | None,
    interpolation: Interpolation,
) -> _Part:
    """Images and labels of one folder of classes in the order of their paths."""
    listing = _list(folder)
    _check_classes(folder, listing)
    classes = tuple(printable(sub.name) for sub in listing.folders)
    found, passed = search(listing.folders)
    if lacking := [name for name, paths in zip(classes, found, strict=True) if not paths]:
        told = f" Passed over were {passed}." if str(passed) else ""
        raise EncoderError(
            f"{folder}: Found no valid file for the classes {', '.join(lacking)}. Looked for: {', '.join(ENDINGS)}."
            f"{told} Put images there, or delete the sub-folder."
        )
    paths = [path for inside in found for path in inside]
    every_label = [label for label, inside in enumerate(found) for _ in inside]
    decoded = decode_all(paths, folder, side, interpolation, cache, progress)
    broken = [paths[row] for row in decoded.broken]
    kept = sorted(set(range(len(paths))) - set(decoded.broken))
    labels = torch.tensor([every_label[row] for row in kept], dtype=torch.long)
    if len(broken) > skip_broken * len(paths):
        raise EncoderError(
            f"{len(broken)} of the {len(paths)} images in {folder} are broken ({_names(broken, folder)}), and at most "
            f"{skip_broken:.0%} may be. Repair or delete them, or type --skip-broken {_ceil(len(broken) / len(paths))}."
        )
    empty = [name for label, name in enumerate(classes) if not (labels == label).any()]
    if empty:
        raise EncoderError(f"All images of class {shortened(empty)} in {folder} are broken. Repair them, or delete it.")
    split = Split(decoded.images, labels)
    passed += listing.passed_over()
    return _Part(split, [paths[row] for row in kept], classes, broken, decoded.traits, passed, decoded.note)


def _check_alike(train: _Part, other: _Part, train_folder: Path, other_folder: Path, folder: Path) -> None:
    """Refuse parts of other classes or sizes than the training images.

    Raises:
        EncoderError: they are.
    """
    if train.classes != other.classes:
        odd = ", ".join(sorted(set(train.classes) ^ set(other.classes)))
        raise EncoderError(
            f"{train_folder} and {other_folder} have different classes ({odd}). Give both a sub-folder for each class."
        )
    if train.split.images.shape[1:] != other.split.images.shape[1:]:
        raise several_sizes(folder)


def _keep_apart(parts: dict[str, _Part], places: dict[str, Path], folder: Path) -> list[str]:
    """Leave out of `parts` what is learned and tested alike, or learned and chosen with; the notes that say so.

    Raises:
        EncoderError: nothing is left of a class.
    """
    notes = []
    for less, more in (("validation", "test"), ("train", "test"), ("train", "validation")):
        if less in parts and more in parts and (equal := parts[less].split.shared_with(parts[more].split)).any():
            rows = equal.nonzero().flatten().tolist()
            named = _names([parts[less].paths[row] for row in rows], folder)
            notes.append(
                f"{len(rows):,} pictures of {places[less].name}/ equal ones of {places[more].name}/ and are left out: "
                f"{named}"
            )
            parts[less] = parts[less].take((~equal).nonzero().flatten())
            left = parts[less].split.labels.bincount(minlength=len(parts[less].classes)).tolist()
            if 0 in left:
                raise EncoderError(
                    f"All pictures of class {parts[less].classes[left.index(0)]} in {places[less]} lie in "
                    f"{places[more]} too. Give each part pictures of its own."
                )
    return notes


def _told(parts: list[_Part], folder: Path, passed: PassedOver) -> list[str]:
    """The notes on what was left out, seen otherwise, equal to another within its part, or passed over."""
    notes = [
        f"{len(part.broken)} broken images left out: {_names(part.broken, folder)}" for part in parts if part.broken
    ]
    notes += picture.tell(sum((part.traits for part in parts), Counter()))
    pairs = [
        (part.paths[row], part.paths[original], int(part.split.labels[row] != part.split.labels[original]))
        for part in parts
        for row, original in enumerate(part.split.originals().tolist())
        if row != original
    ]
    if pairs:
        named = shortened([f"{_name(one, folder)} = {_name(other, folder)}" for one, other, _ in pairs])
        notes.append(f"{len(pairs):,} pictures equal another and stay on its side of every split: {named}")
    if disputed := [f"{_name(one, folder)} = {_name(other, folder)}" for one, other, apart in pairs if apart]:
        notes.append(f"{len(disputed):,} of them under another class, which contradicts itself: {shortened(disputed)}")
    notes += dict.fromkeys(part.note for part in parts if part.note)
    return [*notes, f"passed over: {passed}"] if str(passed) else notes


def _single_images(part: _Part) -> tuple[str, ...]:
    """The note about classes that have one image, equal ones counted as one."""
    originals = part.split.originals()
    distinct = part.split.labels[originals == torch.arange(len(originals))]
    counts = distinct.bincount(minlength=len(part.classes)).tolist()
    single = [name for name, count in zip(part.classes, counts, strict=True) if count == 1]
    return (f"one image alone, kept for learning: {shortened(single)}",) if single else ()


def _name(path: Path, folder: Path) -> str:
    return printable(str(path.relative_to(folder)))


def _names(paths: list[Path], folder: Path) -> str:
    return shortened([_name(path, folder) for path in paths])


def shortened(names: list[str], most: int = 5) -> str:
    """The first `most` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _ceil(share: float) -> str:
    """A share 0..1, rounded up to hundredths."""
    return f"{int(share * 100) / 100 + 0.01:.2f}"
