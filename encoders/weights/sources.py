"""Where weights come from: an explicit path, a local folder, torch's cache, then a download; checked before use."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch

from stillsight.encoders.encoder import Provenance
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.system.plain_file import open_plain
from stillsight.encoders.weights.weights_file import metadata, read
from stillsight.encoders.zoo.encoder_spec import EncoderSpec

FOLDER_VARIABLE = "STILLSIGHT_WEIGHTS"
"""Environment variable that names a folder of weight files under their official names."""

SHIPPED = {"retina": ("retina.safetensors", "162ded15")}
"""Encoder -> file in encoders/zoo/pretrained/ and the first digits of its sha256."""

ENCODER_FILE = "checkpoints/encoder.safetensors"
"""Where a run folder keeps the encoder that it trained; this is what makes a run folder usable as `--weights`."""

_TORCHVISION = "trained on ImageNet-1k, for research; code and weights file by torchvision, BSD-3-Clause"


@dataclass(frozen=True)
class Found:
    """Weights on this machine.

    Attributes:
        content: what the file holds, see `weights_file.read`.
        provenance: where it came from.
        encoder: which network a run of ours says that they are of; "" where nobody says.
    """

    content: Mapping[str, Any]
    provenance: Provenance
    encoder: str = ""


def find(row: EncoderSpec, weights: Path | None = None, folder: Path | None = None) -> Found:
    """Find, check and read pretrained weights.

    The first that exists is taken: `weights` (a file or a run folder), the shipped file, the file of official name in
    `folder` or in the folder that the environment variable STILLSIGHT_WEIGHTS names, torch's cache, a download.

    Args:
        row: the encoder's record.
        weights: explicit path.
        folder: local folder of weight files under their official names.

    Raises:
        EncoderError: nothing found, a damaged file, a wrong hash, no network.
    """
    if weights is not None:
        return _explicit(weights)
    if row.weights == "shipped":
        place = locate(row)
        assert place is not None
        _, path, prefix = place
        provenance = _provenance("shipped", path)
        check_hash(path, provenance.sha256, prefix)
        return Found(read(path), provenance)
    if row.weights is None:
        raise EncoderError(
            f"{row.name} has no pretrained weights. Use --mode scratch or --mode random, or --weights FILE."
        )
    if row.own:
        return _explicit(Path(row.weights), row.licence)
    return _official(row, folder)


def _explicit(path: Path, licence: str = "") -> Found:
    if path.is_dir():
        file = path / ENCODER_FILE
        if not file.is_file():
            raise EncoderError(
                f"{path} holds no trained encoder ({ENCODER_FILE} is missing). Give --weights a safetensors or .pth "
                "file, or the folder of a run that trained its encoder (--mode finetune or scratch)."
            )
        return Found(read(file, own=True), _provenance("run", file, name=str(path)), metadata(file).get("encoder", ""))
    if not path.is_file():
        raise EncoderError(f"There is no file {path}. Give --weights a safetensors or .pth file, or a run folder.")
    return Found(read(path), _provenance("file", path, licence=licence))


def locate(row: EncoderSpec, folder: Path | None = None) -> tuple[str, Path, str] | None:
    """Where the weights of a registered encoder lie on this machine: kind of place, file, and what its sha256 begins
    with; None where they do not, or nobody publishes any. Nothing is read or downloaded.

    Args:
        row: the encoder's record.
        folder: looked into first.
    """
    if row.weights == "shipped":
        name, prefix = SHIPPED[row.name]
        pretrained = importlib.resources.files("stillsight.encoders.zoo") / "pretrained"
        with importlib.resources.as_file(pretrained) as shipped:
            return "shipped", shipped / name, prefix
    if row.weights is None or row.own:
        return None
    name, prefix, _ = official_file(row)
    variable = os.environ.get(FOLDER_VARIABLE)
    places = [("folder", folder), ("folder", Path(variable) if variable else None), ("cache", _cache())]
    there = ((kind, place / name, prefix) for kind, place in places if place is not None)
    return next((found for found in there if found[1].is_file()), None)


def official_file(row: EncoderSpec) -> tuple[str, str, str]:
    """Name of the file that torchvision publishes for a row, what its sha256 begins with, and its address."""
    from torchvision.models import get_weight

    url = str(get_weight(row.weights).url)
    name = url.rsplit("/", 1)[-1]
    return name, name.rsplit("-", 1)[-1].removesuffix(".pth"), url  # 8 digits of the sha256 stand in the name


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _official(row: EncoderSpec, folder: Path | None) -> Found:
    """Weights by torchvision's entry name, e.g. "ResNet18_Weights.IMAGENET1K_V1"."""
    name, prefix, url = official_file(row)
    if folder is not None and not folder.is_dir():
        raise EncoderError(f"There is no folder {folder}. Give --weights-folder a folder that holds {name}.")
    if (place := locate(row, folder)) is not None:
        kind, path, _ = place
        provenance = _provenance(kind, path, licence=_TORCHVISION)
        check_hash(path, provenance.sha256, prefix)
        return Found(read(path), provenance)
    path = _cache() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=True)
    except (URLError, OSError, RuntimeError) as error:
        raise EncoderError(
            f"The weights {name} are not on this machine and could not be downloaded ({error}). Put the file into a "
            f"folder and give --weights-folder FOLDER (or set {FOLDER_VARIABLE}), give --weights FILE, or take an "
            "encoder that needs no download: --encoder retina."
        ) from error
    return Found(read(path), _provenance("download", path, licence=_TORCHVISION))


def check_hash(path: Path, sha256: str, prefix: str) -> None:
    """Raise `EncoderError` unless `sha256` begins with the official `prefix`."""
    if not sha256.startswith(prefix):
        raise EncoderError(
            f"{path} is damaged or not the official file: its sha256 begins with {sha256[: len(prefix)]}, and it "
            f"should be {prefix}. Delete it, or give your own weights with --weights FILE."
        )


def _provenance(kind: str, path: Path, *, name: str = "", licence: str = "") -> Provenance:
    sha256 = file_hash(path)
    licence = licence or metadata(path).get("license", "not stated in the file: yours to check")
    return Provenance(kind=kind, name=name or path.name, sha256=sha256, licence=licence)


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
