"""Weights files: safetensors and torch files, told apart by their content and read without running code."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stillsight.encoders.errors import EncoderError

DEPTH = 3
"""How deep a state_dict may lie in what a training script saved."""


def is_safetensors(path: Path) -> bool:
    """Whether a file is one by its first bytes, whatever its name: the length of a header, and the header's brace."""
    with path.open("rb") as file:
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
        with safe_open(str(path), "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from error


def read(path: Path) -> dict[str, Any]:
    """Read what a weights file holds: tensors by name, possibly inside other dicts. No code is run.

    Raises:
        EncoderError: the file is damaged, or holds Python objects or no dict of tensors.
    """
    try:
        if is_safetensors(path):
            with safe_open(str(path), "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"{path} is damaged, or holds Python objects and not only tensors, and stillsight runs no code from a "
            "weights file. Save the state_dict alone: torch.save(model.state_dict(), FILE)."
        ) from error
    except Exception as error:  # what torch's unpickler makes of arbitrary bytes: IndexError, EOFError, KeyError ...
        raise damaged(path, error) from error
    if not any(True for _ in state_dicts(content)):
        raise EncoderError(
            f"{path} holds {type(content).__name__}, not a state_dict of tensors. Save model.state_dict()."
        )
    loaded: dict[str, Any] = content
    return loaded


def state_dicts(content: Any, place: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dict of named tensors in what a file holds, with the path of keys that leads there; the outermost first."""
    if not isinstance(content, Mapping):
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    if place.count("/") + 1 < DEPTH or not place:
        for name, value in content.items():
            if isinstance(name, str) and isinstance(value, Mapping):
                yield from state_dicts(value, f"{place}/{name}" if place else name)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The outermost state_dict of a file, without the prefix that DataParallel or torch.compile gave its names.

    Raises:
        EncoderError: see `read`.
    """
    _, state = next(state_dicts(read(path)))
    return {name.removeprefix("module.").removeprefix("_orig_mod."): tensor for name, tensor in state.items()}


def damaged(path: Path, error: Exception) -> EncoderError:
    """The sentence about a file that cannot be read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return EncoderError(f"{path} is damaged or incomplete ({reason}). Get the file again.")
