"""Published weights: for each kind of source a file's official name, its address, its hash, and where it may lie.

Nothing here imports torch: what is on this machine is told before any network is built.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.resources
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple
from urllib.parse import urlsplit

from stillsight.encoders.errors import EncoderError
from stillsight.encoders.weights import packages
from stillsight.encoders.zoo.encoder_spec import EncoderSpec

FOLDER_VARIABLE = "STILLSIGHT_WEIGHTS"
"""Environment variable that names a folder of weight files under their official names."""

SHIPPED = {"retina": ("retina.safetensors", "162ded15")}
"""Encoder -> file in encoders/zoo/pretrained/ and the first digits of its sha256."""

HUB = "https://huggingface.co"
"""Where Hugging Face's files are; HF_ENDPOINT names a mirror."""

_NAMELESS = ("model", "pytorch_model", "open_clip_model", "checkpoint", "weights")
"""Stems of file names that do not say what is in the file: what stands before them in the address does."""
_DIGITS = re.compile(r"-([0-9a-f]{8,64})$")
"""How torchvision, and packages of its files, end a name before the dot. An author's own name may end in a date."""


class Place(NamedTuple):
    """Weights on this machine.

    Attributes:
        kind: of the place: "shipped", "folder", "package" or "cache".
        path: of the file.
        digits: what its sha256 begins with; "" where nobody says.
        note: what is to be said of it where it is taken, if anything.
    """

    kind: str
    path: Path
    digits: str
    note: str = ""


@dataclass(frozen=True)
class Source:
    """A file of weights that somebody publishes.

    Attributes:
        name: what stands after the colon of the row's `weights`.
        own: whether a third party's row says so: two of them may call different files alike, and one a new file like
            its old one.
    """

    name: str
    own: bool = False
    LICENCE: ClassVar[str] = "not stated by who publishes them: yours to check"
    """Of the weights, where the row says none."""
    SHORT: ClassVar[str] = "not stated"
    """The same in a word or two."""

    @property
    def file(self) -> str:
        """Official name of the file, under which a local folder may hold it."""
        raise NotImplementedError

    @property
    def digits(self) -> str:
        """What its sha256 begins with; "" where it is not published."""
        return ""

    @property
    def kept(self) -> str:
        """Name under which torch's cache holds it: the official one, where no other file can have that."""
        return self.file

    @property
    def address(self) -> str:
        """Where it is downloaded from; "" where it cannot be."""
        raise NotImplementedError

    @property
    def remedy(self) -> str:
        """What to type to have it, where it cannot be downloaded."""
        return ""

    @property
    def to_be_had(self) -> str:
        """Where it is to be had, for people."""
        return self.address

    @property
    def cache(self) -> str:
        """The folder of torch's cache, for people who put it there themselves, and the name if it is another there."""
        return f"{torch_cache()}" + (f" (as {self.kept})" if self.kept != self.file else "")

    def own_places(self) -> Iterator[Place]:
        """Where this kind of source puts its files on a machine; they need not be there."""
        yield Place("cache", torch_cache() / self.kept, self.digits)

    def in_folder(self, folder: Path) -> Iterator[Place]:
        """Where a user's folder, which may be a copy of torch's cache, may hold it."""
        for name in dict.fromkeys((self.kept, self.file)):
            yield Place("folder", folder / name, self.digits)


@dataclass(frozen=True)
class Shipped(Source):
    """A file in this repository, by the encoder's name; its row says the licence."""

    @property
    def file(self) -> str:
        return SHIPPED[self.name][0]

    @property
    def digits(self) -> str:
        return SHIPPED[self.name][1]

    @property
    def address(self) -> str:
        return ""

    def own_places(self) -> Iterator[Place]:
        pretrained = importlib.resources.files("stillsight.encoders.zoo") / "pretrained"
        with importlib.resources.as_file(pretrained) as folder:
            yield Place("shipped", folder / self.file, self.digits)

    def in_folder(self, folder: Path) -> Iterator[Place]:  # noqa: ARG002 - it lies nowhere else
        return iter(())


@dataclass(frozen=True)
class Torchvision(Source):
    """A weights entry of torchvision, say ResNet18_Weights.IMAGENET1K_V1; 8 digits of its sha256 stand in its name."""

    LICENCE: ClassVar[str] = "trained on ImageNet-1k, for research; code and weights file by torchvision, BSD-3-Clause"
    SHORT: ClassVar[str] = "BSD-3-Clause"

    @property
    def file(self) -> str:
        return self.address.rsplit("/", 1)[-1]

    @property
    def digits(self) -> str:
        return _in_name(self.file)

    @property
    def address(self) -> str:
        return torchvision_address(self.name)


@dataclass(frozen=True)
class Address(Source):
    """An author's file by its address."""

    @property
    def file(self) -> str:
        path = PurePosixPath(urlsplit(self.name).path)
        if path.stem in _NAMELESS and path.parent.name:
            return f"{path.parent.name}-{path.name}"
        return path.name

    @property
    def kept(self) -> str:
        return _told_apart(self.file, self.address) if self.own else self.file

    @property
    def address(self) -> str:
        return self.name


@dataclass(frozen=True)
class HuggingFace(Source):
    """A file of a repository of Hugging Face, `OWNER/NAME` or `OWNER/NAME/FILE`; model.safetensors by default."""

    @property
    def repository(self) -> str:
        """OWNER/NAME."""
        return "/".join(self.name.split("/")[:2])

    @property
    def inside(self) -> str:
        """Path of the file in the repository."""
        return "/".join(self.name.split("/")[2:]) or "model.safetensors"

    @property
    def file(self) -> str:
        path = PurePosixPath(self.inside)
        stem = re.sub(r"-\d+-of-\d+$", "", path.stem)  # of a file in several parts
        if stem in _NAMELESS:
            return f"{self.repository.rpartition('/')[2]}{path.stem.removeprefix(stem)}{path.suffix}"
        return path.name

    @property
    def kept(self) -> str:
        # By the repository and not the address: a mirror has the same file.
        return _told_apart(self.file, f"{self.repository}/{self.inside}") if self.own else self.file

    @property
    def address(self) -> str:
        return f"{os.environ.get('HF_ENDPOINT') or HUB}/{self.repository}/resolve/main/{self.inside}"

    @property
    def page(self) -> str:
        """Where a person looks at it, and accepts its terms."""
        return f"{HUB}/{self.repository}"

    @property
    def to_be_had(self) -> str:
        return f"{self.inside} of {self.page}"

    def own_places(self) -> Iterator[Place]:
        yield from self._in_hub(hub_cache(), "cache")
        yield from super().own_places()

    def in_folder(self, folder: Path) -> Iterator[Place]:
        """Under its own name, as its repository lies when it was cloned, or in a copy of Hugging Face's cache."""
        yield from super().in_folder(folder)
        yield Place("folder", folder / self.repository / self.inside, "")
        yield Place("folder", folder / self.repository.rpartition("/")[2] / self.inside, "")
        yield from self._in_hub(folder, "folder")

    def _in_hub(self, cache: Path, kind: str) -> Iterator[Place]:
        """In the layout of huggingface_hub: the snapshot that `main` stands for, then the others, the newest first."""
        root = cache / f"models--{self.repository.replace('/', '--')}"
        snapshots = root / "snapshots"
        try:
            commit = (root / "refs" / "main").read_text().strip()
            others = sorted(snapshots.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        except (OSError, UnicodeDecodeError):
            commit, others = "", sorted(snapshots.iterdir()) if snapshots.is_dir() else []
        # What the file says is a name of a folder there, and no way out of it.
        main = [snapshots / commit] if re.fullmatch(r"[0-9a-f]{6,64}", commit) else []
        for snapshot in [*main, *(path for path in others if path not in main)]:
            path = snapshot / self.inside
            blob = os.path.basename(os.path.realpath(path))  # large files are called after their sha256
            note = ""
            if main and snapshot not in main:
                note = (
                    f"{root / 'refs' / 'main'} names the snapshot {commit}, in which {self.inside} is missing or a "
                    f"link to nothing; that of another snapshot, {snapshot.name}, was taken. For the one of main "
                    f"remove {root}, and it is downloaded again."
                )
            yield Place(kind, path, blob if re.fullmatch(r"[0-9a-f]{64}", blob) else "", note)


@dataclass(frozen=True)
class Timm(HuggingFace):
    """Weights of timm by its own name, NAME.TAG, each a repository of timm's on Hugging Face."""

    @property
    def repository(self) -> str:
        return f"timm/{self.name}"

    @property
    def inside(self) -> str:
        return "model.safetensors"

    @property
    def kept(self) -> str:
        return self.file


@dataclass(frozen=True)
class Package(Source):
    """A file in an installed distribution, `DISTRIBUTION` or `DISTRIBUTION/path/inside.pth`."""

    @property
    def file(self) -> str:
        return packages.official_file(self.name)

    @property
    def digits(self) -> str:
        return _in_name(self.file)

    @property
    def address(self) -> str:
        return ""

    @property
    def remedy(self) -> str:
        return packages.to_install(self.name)

    @property
    def to_be_had(self) -> str:
        return f"https://pypi.org/project/{self.name.partition('/')[0]}"

    def own_places(self) -> Iterator[Place]:
        if (held := packages.find(self.name)) is not None:
            yield Place("package", *held)

    def in_folder(self, folder: Path) -> Iterator[Place]:
        if self.file:
            yield Place("folder", folder / self.file, self.digits)


KINDS: Mapping[str, type[Source]] = {
    "torchvision": Torchvision,
    "timm": Timm,
    "hf": HuggingFace,
    "package": Package,
    "url": Address,
    "shipped": Shipped,
}
"""What a row's `weights` may begin with -> kind of source. Without any of these it is an entry of torchvision."""


def source_of(row: EncoderSpec) -> Source | None:
    """Who publishes the weights of an encoder; None where there are none, or where they are a file or a function's."""
    if row.weights is None or row.weights == "function":
        return None
    if row.weights == "shipped":
        return Shipped(row.name)
    kind, colon, rest = row.weights.partition(":")
    if colon and kind in KINDS:
        return KINDS[kind](rest, row.own)
    return None if row.own else Torchvision(row.weights)


def _in_name(file: str) -> str:
    """What a file's sha256 begins with, by its name; "" where that does not say."""
    match = _DIGITS.search(PurePosixPath(file).stem)
    return match[1] if match else ""


def _told_apart(file: str, origin: str) -> str:
    """`encoder.pth` -> `encoder.3f2a91bc.pth`, by a digest of where it is from."""
    path = PurePosixPath(file)
    return f"{path.stem}.{hashlib.sha256(origin.encode()).hexdigest()[:8]}{path.suffix}"


def locate(row: EncoderSpec, folder: Path | None = None) -> Place | None:
    """Where the weights of an encoder lie on this machine; None where they do not, or nobody publishes any. Nothing is
    read or downloaded.

    Args:
        row: the encoder's record.
        folder: looked into first.

    Raises:
        EncoderError: the package that should hold them is damaged.
    """
    source = source_of(row)
    return None if source is None else on_this_machine(source, folder)


def missing_folder() -> str:
    """The sentence about the folder that the environment variable names, where there is none; else ""."""
    named = os.environ.get(FOLDER_VARIABLE)
    if not named or Path(named).is_dir():
        return ""
    return (
        f"{FOLDER_VARIABLE} is {named}, and there is no such folder. Type: export {FOLDER_VARIABLE}=FOLDER, with a "
        f"folder of weights under their official names, or: unset {FOLDER_VARIABLE}."
    )


def places(source: Source, folder: Path | None = None) -> Iterator[Place]:
    """Where the weights may lie on this machine, the first first: a folder that was named, that of the environment
    variable, then where its kind of source puts them."""
    variable = os.environ.get(FOLDER_VARIABLE)
    for named in (folder, Path(variable) if variable else None):
        if named is not None:
            yield from source.in_folder(named)
    yield from source.own_places()


def on_this_machine(source: Source, folder: Path | None = None) -> Place | None:
    """The first of the `places` where there is a file; None where there is none. Nothing is read."""
    return next((place for place in places(source, folder) if place.path.is_file()), None)


def torch_cache() -> Path:
    """Where torch keeps weights, and where downloads of ours go: `torch.hub.get_dir()`, told without importing it."""
    if (torch := sys.modules.get("torch")) is not None:
        return Path(torch.hub.get_dir()) / "checkpoints"
    home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    return Path(os.path.expanduser(home)) / "hub" / "checkpoints"


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it downloads, by the same environment variables, told without importing it."""
    if named := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    return hub_home() / "hub"


def hub_home() -> Path:
    """Hugging Face's own folder, where its token lies too."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")).expanduser()


@functools.cache
def torchvision_address(entry: str) -> str:
    """The address of a weights entry of torchvision, `ENUM.MEMBER`, read from its source: importing it would take
    seconds and torch.

    Raises:
        EncoderError: there is no such entry.
    """
    enum, _, member = entry.partition(".")
    found = importlib.util.find_spec("torchvision")
    folder = Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else Path()
    for path in sorted((folder / "models").rglob("*.py")):
        text = path.read_text()
        if f"class {enum}(WeightsEnum)" in text:
            return _entry_address(text, enum, member)
    raise EncoderError(
        f"torchvision has no weights entry {entry}. Give the weights with --weights FILE, or another --encoder."
    )


def _entry_address(text: str, enum: str, member: str) -> str:
    """The `url` of `member = Weights(url=..., ...)` in the class `enum` of a module's source."""
    classes = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == enum)
    values = {
        target.id: node.value
        for one in classes
        for node in one.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    value = values.get(member)
    if isinstance(value, ast.Name):  # DEFAULT = IMAGENET1K_V2
        value = values.get(value.id)
    for keyword in value.keywords if isinstance(value, ast.Call) else ():
        if keyword.arg == "url" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    raise EncoderError(
        f"torchvision has no weights entry {enum}.{member}. Give the weights with --weights FILE, or another --encoder."
    )
