"""Weights files: safetensors and torch files, told apart by their content and read without running code."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillsight.encoders.device import available_memory
from stillsight.encoders.errors import DamagedFileError, EncoderError, MemoryShortError, first_line, out_of_memory
from stillsight.encoders.system.plain_file import open_plain
from stillsight.encoders.weights import tensor_file

DEPTH = 3
"""How deep a state_dict may lie in what a training script saved."""


FOREIGN: Mapping[bytes, tuple[str, str]] = {
    b"version https://git-lfs": ("a pointer of Git LFS, and not the file that it stands for", "Type: git lfs pull"),
    b"<!doctype html": ("a page of the web, and not the file", "Download the file itself"),
    b"<html": ("a page of the web, and not the file", "Download the file itself"),
    b"\x93numpy": ("an array of NumPy", "Save the tensors by name: torch.save({name: tensor, ...}, FILE)"),
    b"\x89hdf": ("HDF5, as Keras writes it", "Convert it to the network's state_dict, and torch.save that"),
    b"gguf": ("GGUF, of quantised weights", "Give the float32 or float16 weights"),
    b"\x1f\x8b": ("compressed (gzip)", "Unpack it: gunzip FILE, or tar -xzf FILE"),
    b"(\xb5/\xfd": ("compressed (zstd)", "Unpack it: unzstd FILE"),
    b"7z\xbc\xaf": ("compressed (7z)", "Unpack it"),
}
"""How files begin, in lower case, that people take for weights -> what they are, and what to do about it."""
INSIDE: Mapping[str, tuple[str, str]] = {
    "constants.pkl": (
        "a TorchScript archive, which holds code",
        "Save its state_dict alone, by torch.save",
    ),
    ".npy": ("an archive of NumPy (npz)", "Convert it to the network's state_dict, and torch.save that"),
    "keras_metadata.pb": ("a model of Keras", "Convert it to the network's state_dict, and torch.save that"),
    "model.weights.h5": ("a model of Keras", "Convert it to the network's state_dict, and torch.save that"),
}
"""How names of entries end, of zip files that are no state_dict of torch -> the same."""


def is_safetensors(path: Path) -> bool:
    """Whether a file is one by its first bytes, whatever its name: the length of a header, and the header's brace."""
    with open_plain(path) as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and not start.startswith(b"PK")


def metadata(path: Path) -> dict[str, str]:
    """The header that a safetensors file carries about itself; empty for other files.

    Raises:
        EncoderError: the file is damaged.
    """
    if not is_safetensors(path):
        return {}
    try:
        return dict(tensor_file.header(path).metadata)
    except (DamagedFileError, OSError) as error:
        raise damaged(path, error) from error


def read(path: Path, *, own: bool = False) -> dict[str, Any]:
    """Read what a weights file holds: tensors by name, possibly inside other dicts. No code is run.

    Memory is taken for what the file holds: entries that would expand, and tensors that claim more numbers than the
    file has for them, are refused. A file that carries the hash of its content is compared with it.

    Args:
        path: of the file.
        own: a run of ours left it: say where it has no hash.

    Raises:
        EncoderError: the file is damaged, or holds Python objects or no dict of tensors, or would expand.
        MemoryShortError: free memory has no room for it.
    """
    try:
        _refuse_foreign(path)
        if is_safetensors(path):
            return dict(tensor_file.read(path, own=own).tensors)
        _refuse_expanding(path)
        _check_room(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DamagedFileError as error:
        raise damaged(path, error) from error
    except EncoderError:
        raise
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            start = file.read(2)
        if start[:1] != b"\x80" and start != b"PK":  # of a pickle, and of the zip archives that torch saves
            raise EncoderError(
                f"{path} is no weights file, or damaged from its first byte on. Name a safetensors file, or a .pth "
                "with a state_dict: torch.save(model.state_dict(), FILE)."
            ) from error
        raise EncoderError(
            f"{path} is damaged, or holds Python objects and not only tensors, and stillsight runs no code from a "
            "weights file. Save the state_dict alone: torch.save(model.state_dict(), FILE)."
        ) from error
    except Exception as error:  # what torch's unpickler makes of arbitrary bytes: IndexError, EOFError, KeyError ...
        held = path.stat().st_size
        if out_of_memory(error) and _asked(error) <= held:
            raise MemoryShortError(path, f"it has {held:,} bytes, and memory has no room for them") from error
        raise damaged(path, error) from error
    if not any(True for _ in state_dicts(content)):
        raise EncoderError(
            f"{path} holds {type(content).__name__}, not a state_dict of tensors. Save model.state_dict()."
        )
    loaded: dict[str, Any] = content
    return loaded


def _refuse_foreign(path: Path) -> None:
    """Refuse a file of a format that holds weights and is not read here, or that stands in the place of a file.

    Raises:
        EncoderError: what it is, and what to do.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if path.name.endswith(".index.json"):
        raise _shards(path)
    kinds = [told for beginning, told in FOREIGN.items() if start.lstrip()[: len(beginning)].lower() == beginning]
    if start.startswith(b"PK"):
        with contextlib.suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            kinds += [told for end, told in INSIDE.items() if any(name.endswith(end) for name in names)]
    if start[257:262] == b"ustar":
        kinds.append(("an archive (tar)", "Unpack it: tar -xf FILE"))
    if kinds:
        what, remedy = kinds[0]
        raise EncoderError(f"{path} is {what}; weights are read from safetensors and torch files. {remedy}.")


def _shards(path: Path) -> EncoderError:
    """The sentence about the index of weights that lie in several files."""
    try:
        files = sorted({str(file) for file in json.loads(path.read_text())["weight_map"].values()})
        told = f"{len(files)} files ({', '.join(ascii(file)[1:-1] for file in files[:3])})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        told = "several files"
    return EncoderError(
        f"{path} is an index of weights in {told}, and weights are read from one. Join them: from safetensors.torch "
        "import load_file, save_file; save_file(load_file(FIRST) | load_file(SECOND), FILE)."
    )


def _check_room(path: Path) -> None:
    """Refuse a torch file that free memory does not hold.

    Raises:
        MemoryShortError: what it takes and what there is.
    """
    held, free = path.stat().st_size, available_memory()
    if free is not None and held > free:
        raise MemoryShortError(path, f"it has {held:,} bytes, and {free:,} of memory are free")


def _asked(error: Exception) -> int:
    """How many bytes torch asked for that it did not get, as far as it says so: a damaged file may name any number."""
    said = re.search(r"tried to allocate (\d+) bytes", str(error))
    return int(said[1]) if said else 0


def _refuse_expanding(path: Path) -> None:
    """Refuse a zip file, as torch writes them, whose entries hold more than the file does, since torch compresses
    nothing, or are not what was written.

    Raises:
        EncoderError: how much they would come to.
        DamagedFileError: an entry has another checksum.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        held, expanded = path.stat().st_size, sum(entry.file_size for entry in file.infolist())
    if expanded > held:
        raise EncoderError(
            f"{path} has {held:,} bytes and would expand to {expanded:,}, and torch compresses nothing that it saves. "
            "Save the state_dict again: torch.save(model.state_dict(), FILE)."
        )
    with zipfile.ZipFile(path) as file:
        changed = file.testzip()  # torch does not look at the checksums that it writes
    if changed is not None:
        raise DamagedFileError(f"the checksum of {changed} in it is another")


def state_dicts(content: Any, place: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dict of named tensors in what a file holds, with the path of keys that leads there; the outermost first.

    A dict that stands in several places is given once: few bytes of a file can name one a billion times.
    """
    seen = set() if seen is None else seen
    if not isinstance(content, Mapping) or id(content) in seen:
        return
    seen.add(id(content))
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    if place.count("/") + 1 < DEPTH or not place:
        for name, value in content.items():
            if isinstance(name, str) and isinstance(value, Mapping):
                yield from state_dicts(value, f"{place}/{name}" if place else name, seen)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The outermost state_dict of a file, without the prefix that DataParallel or torch.compile gave its names.

    Raises:
        EncoderError: see `read`.
    """
    _, state = next(state_dicts(read(path)))
    return {name.removeprefix("module.").removeprefix("_orig_mod."): tensor for name, tensor in state.items()}


def damaged(path: Path, error: Exception) -> EncoderError:
    """The sentence about a file that cannot be read."""
    reason = first_line(error)
    return EncoderError(f"{path} is damaged or incomplete ({reason}). Get the file again.")
