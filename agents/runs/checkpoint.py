"""Checkpoints: nested state of tensors and plain values, in one safetensors file, written at once or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stillsight.agents.errors import CheckpointError
from stillsight.encoders.atomic import check_free, replacing, writing

STRUCTURE = "structure"
"""Key of the file's header under which the nesting and the plain values are kept, as JSON."""
ENTRY = 100
"""Bytes that safetensors' header takes for a tensor, about, its name left out."""


def save(path: Path, tree: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write `tree` to `path`, replacing what was there in one step.

    Args:
        path: a .safetensors file.
        tree: nested dicts and lists with tensors, numbers, strings, booleans and None. A flat dict of tensors becomes a
            plain safetensors file that other programs read.
        metadata: further header entries.

    Raises:
        DiskFault: the disk is too full, or cannot be written. What `path` held before is kept.
    """
    tensors: dict[str, Tensor] = {}
    structure = _flatten(tree, "", tensors, {})
    header = {STRUCTURE: json.dumps(structure, allow_nan=False), **(metadata or {})}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    # The header has the texts, and for each tensor its name, type, shape and place.
    texts = sum(len(text) for item in header.items() for text in item) + sum(ENTRY + len(name) for name in tensors)
    check_free(path, sum(tensor.nbytes for tensor in tensors.values()) + texts)
    with replacing(path) as partial, writing(path):
        save_file(tensors, partial, header)
        partial.chmod(0o644)  # safetensors writes for its owner alone


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save` wrote. Nothing in the file is executed.

    Raises:
        CheckpointError: the file is missing, truncated, or no checkpoint.
    """
    try:
        with safe_open(str(path), "pt", device=str(device)) as file:
            structure = json.loads((file.metadata() or {})[STRUCTURE])
            tree: dict[str, Any] = _unflatten(structure, file)
            return tree
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no checkpoint {path}. `stillsight list runs` shows the runs.") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"The checkpoint {path} is damaged or incomplete ({str(error).splitlines()[0]}). Nothing was changed. "
            "Take another one with --checkpoint best or --checkpoint last."
        ) from error


def _flatten(node: Any, path: str, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """Put the tensors below `node` into `tensors`, by path, and return the rest of it with those paths in their places.

    One tensor under several names is written once: SB3's actor-critic policies list a shared features extractor
    three times.
    """
    if isinstance(node, Tensor):
        identity = (node.data_ptr(), node.shape, node.stride(), node.dtype) if node.numel() else path
        if identity not in seen:
            seen[identity] = path
            # A copy: safetensors takes neither tensors that share memory nor views with other strides.
            tensors[path] = node.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"tensor": seen[identity]}
    if isinstance(node, Mapping):
        # Optimizers key their state by integers, which JSON would turn into strings: keep the pairs.
        return {"pairs": [[key, _flatten(value, _join(path, key), tensors, seen)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return {"list": [_flatten(value, _join(path, index), tensors, seen) for index, value in enumerate(node)]}
    if isinstance(node, float) and not math.isfinite(node):
        return {"float": str(node)}  # which JSON does not know
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"{path} holds a {type(node).__name__}, which a checkpoint cannot keep")


def _unflatten(node: Any, file: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if "float" in node:
        return float(node["float"])
    if "tensor" in node:
        return file.get_tensor(node["tensor"])
    if "pairs" in node:
        return {key: _unflatten(value, file) for key, value in node["pairs"]}
    return [_unflatten(value, file) for value in node["list"]]


def _join(path: str, key: object) -> str:
    # Escaped as in a JSON pointer (RFC 6901), integers marked, so that two keys never share a path.
    name = key.replace("~", "~0").replace("/", "~1") if isinstance(key, str) else f"[{key}]"
    return f"{path}/{name}" if path else name
