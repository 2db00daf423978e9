"""Where weights come from: an explicit path, a local folder, an installed package, torch's and Hugging Face's caches, a
download; checked before use. Never random ones in their place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stillsight.encoders.errors import EncoderError, MemoryShortError, say_once
from stillsight.encoders.weights import first_use, licences, packages
from stillsight.encoders.weights.download import DownloadError, RefusedError, download
from stillsight.encoders.weights.file_hash import check_hash, file_hash
from stillsight.encoders.weights.provenance import Provenance
from stillsight.encoders.weights.published import (
    FOLDER_VARIABLE,
    HuggingFace,
    Package,
    Place,
    Shipped,
    Source,
    hub_home,
    locate,
    missing_folder,
    on_this_machine,
    source_of,
    torch_cache,
)
from stillsight.encoders.weights.weights_file import metadata, read, state_dicts
from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.registry import ENCODERS

ENCODER_FILE = "checkpoints/encoder.safetensors"
"""Where a run folder keeps the encoder that it trained; this is what makes a run folder usable as `--weights`."""

MOST_AT_HAND = 3
"""Encoders with weights on this machine that a sentence names."""


@dataclass(frozen=True)
class Found:
    """Weights on this machine.

    Attributes:
        content: what the file holds, see `weights_file.read`.
        provenance: where it came from.
        encoder: which network a run of ours says that they are of; "" where nobody says.
        by_order: their tensors may have other names than the network's, in the same order.
    """

    content: Mapping[str, Any]
    provenance: Provenance
    encoder: str = ""
    by_order: bool = False


def find(row: EncoderSpec, weights: Path | None = None, folder: Path | None = None, *, accept: bool = False) -> Found:
    """Find, check and read pretrained weights.

    The first that exists is taken: `weights` (a file or a run folder); the file of official name in `folder`, or in the
    folder that the environment variable STILLSIGHT_WEIGHTS names; the shipped file, or the one in an installed package;
    torch's cache and Hugging Face's; a download.

    Args:
        row: the encoder's record.
        weights: explicit path.
        folder: local folder of weight files under their official names.
        accept: the user accepts the licence of the weights, which is remembered.

    Raises:
        EncoderError: nothing found, a licence that nobody accepted, a damaged file, a wrong hash, no network.
        MemoryShortError: free memory has no room for them. What was downloaded is kept.
    """
    source = source_of(row)
    if weights is not None:
        found = _explicit(weights)
        return _as_packaged(found, source) if isinstance(source, Package) else found
    if row.weights is None:
        raise EncoderError(row.without_weights)
    if source is None:
        return _explicit(Path(row.weights), row.licence)
    licences.check(row, accept)
    if folder is not None and not folder.is_dir() and not isinstance(source, Shipped):
        raise EncoderError(f"There is no folder {folder}. Give --weights-folder a folder that holds {source.file}.")
    if (told := missing_folder()) and not isinstance(source, Shipped):
        raise EncoderError(told)
    place = on_this_machine(source, folder) or _downloaded(row, source)
    if place.note:
        say_once(place.note)
    if place.kind == "download":
        content, provenance = _read_new(row, source, place)
    else:
        provenance = _provenance(place.kind, place.path, licence=row.licence, otherwise=source.LICENCE)
        check_hash(place.path, provenance.sha256, place.digits)
        content = read(place.path)
        if not place.digits:
            first_use.compare(place.path, provenance.sha256)
    if accept:
        licences.accept(row)
    return Found(content, provenance, by_order=isinstance(source, Package))


def _as_packaged(found: Found, source: Package) -> Found:
    """A file of somebody's is matched in its order only where it has the names of the package's."""
    _, state = next(state_dicts(found.content), ("", {}))
    try:
        held = packages.find(source.name)
        _, packaged = ("", None) if held is None else next(state_dicts(read(held[0])), ("", {}))
    except EncoderError:  # --weights FILE is what is advised where the package is damaged
        packaged = None
    ordered = packages.as_packaged(state, packaged, source.name)
    return found if ordered is None else replace(found, content=ordered, by_order=True)


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


def _downloaded(row: EncoderSpec, source: Source) -> Place:
    """Download weights that nothing on this machine holds into torch's cache."""
    if not source.address:
        raise EncoderError(_missing(row, source))
    hub = isinstance(source, HuggingFace)
    path = torch_cache() / source.kept
    try:
        return Place("download", path, download(source.address, path, source.digits, _token() if hub else ""))
    except RefusedError as error:
        if not isinstance(source, HuggingFace):
            raise EncoderError(_missing(row, source, str(error))) from error
        raise EncoderError(
            f"The weights {source.file} are gated ({error}). Open {source.page}, accept the terms there, make a token "
            "on https://huggingface.co/settings/tokens and type: export HF_TOKEN=TOKEN. Or put the file, got "
            f"elsewhere, into {source.cache}, or take an encoder whose weights are at hand: {_at_hand(row)}."
        ) from error
    except (DownloadError, OSError) as error:
        raise EncoderError(_missing(row, source, str(error))) from error


def _read_new(row: EncoderSpec, source: Source, place: Place) -> tuple[dict[str, Any], Provenance]:
    """Read what has just been downloaded; what is no weights file is not kept, so that it is asked for again."""
    path = place.path
    try:
        provenance = _provenance(place.kind, path, licence=row.licence, otherwise=source.LICENCE)
        check_hash(path, provenance.sha256, place.digits)
        content = read(path)
    except MemoryShortError:
        _note(source, path)
        raise
    except EncoderError as error:
        path.unlink(missing_ok=True)
        raise EncoderError(_missing(row, source, f"what came is not kept: {error}".rstrip("."))) from error
    _note(source, path, provenance.sha256)
    return content, provenance


def _note(source: Source, path: Path, sha256: str = "") -> None:
    """Note the hash of what is kept of a download: the server may have said one, which nobody says again."""
    if not source.digits:
        first_use.keep(path, sha256 or file_hash(path))


def _missing(row: EncoderSpec, source: Source, reason: str = "") -> str:
    """The sentence about weights that are nowhere: which file, where it is to be had, where to put it, and what else
    there is."""
    first = "Put"
    if reason:
        told = f"The weights {source.file} are not on this machine and could not be downloaded ({reason})."
    else:
        told = f"The weights of {row.name}, {source.file or 'in a package'}, are not on this machine."
        first = f"Type: {source.remedy}. Or put"
    return (
        f"{told} {first} the file ({source.to_be_had}) into {source.cache}, or into a folder of yours and give "
        f"--weights-folder FOLDER (or set {FOLDER_VARIABLE}), give --weights FILE, or take an encoder whose weights "
        f"are at hand: {_at_hand(row)}."
    )


def _at_hand(row: EncoderSpec) -> str:
    """What to type for another encoder whose weights are on this machine."""
    names = [other.name for other in ENCODERS.values() if other.name != row.name and _is_at_hand(other)]
    first, *others = names[:MOST_AT_HAND] or ["retina"]
    return f"--encoder {first}" + (f" (or {', '.join(others)})" if others else "")


def _is_at_hand(row: EncoderSpec) -> bool:
    try:
        licences.check(row)
        return locate(row) is not None
    except EncoderError:
        return False


def _token() -> str:
    """The user's token of Hugging Face, from the environment or from where its own tools keep it; "" without one."""
    if token := os.environ.get("HF_TOKEN"):
        return token.strip()
    try:
        return (hub_home() / "token").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _provenance(kind: str, path: Path, *, name: str = "", licence: str = "", otherwise: str = "") -> Provenance:
    sha256 = file_hash(path)
    unknown = otherwise or "not stated in the file: yours to check"
    licence = licence or metadata(path).get("license", unknown)
    return Provenance(kind=kind, name=name or path.name, sha256=sha256, licence=licence)
