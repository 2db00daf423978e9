"""Checkpoints: nested state of tensors and plain values, in one tensor file, whole by its hash or not loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from stillsight.agents.errors import CheckpointError, RunError
from stillsight.agents.runs import schema
from stillsight.encoders.atomic import check_free, writing
from stillsight.encoders.errors import DamagedFileError, MemoryShortError, first_line
from stillsight.encoders.weights import tensor_file

STRUCTURE = "structure"
"""Key of the file's header under which the nesting and the plain values are kept, as JSON."""
_UNREADABLE = (DamagedFileError, OSError, LookupError, ValueError, TypeError, ArithmeticError, RuntimeError)
"""What a file of other content raises where it is read: torch's RuntimeError and Python's RecursionError among them."""


def save(path: Path, tree: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write `tree` to `path`, replacing what was there in one step, once it lies on the disk as it should.

    See `tensor_file.write`: the header carries a sha256 of all that is in the file.

    Args:
        path: a .safetensors file.
        tree: nested dicts and lists with tensors, numbers, strings, booleans and None. A flat dict of tensors becomes a
            plain safetensors file that other programs read.
        metadata: further header entries.

    Raises:
        DiskFault: the disk is too full, fails, or cannot be written. What `path` held before is kept.
        TypeError: something in `tree` is of another type.
    """
    tensors: dict[str, Tensor] = {}
    structure = _flatten(tree, "", tensors, {})
    header = {STRUCTURE: json.dumps(structure, allow_nan=False), **(metadata or {})}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    check_free(path, tensor_file.size(tensors, header))
    tensor_file.write(path, tensors, header)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save` wrote, and compare it with its hash. Nothing in the file is executed.

    A hash tells damage, and not who wrote the file: whoever changes it on purpose can change the hash as well.

    Raises:
        CheckpointError: the file is missing, no checkpoint, or not as it was written.
        MemoryShortError: memory has no room for it. Another checkpoint is not to take its place: it may be good.
    """
    try:
        found = tensor_file.read(path, device, own=True)
        # Versions that wrote no hash wrote -Infinity, which is no JSON, as json does.
        constant = _early_constant if found.sha256 is None else _refuse_constant
        structure = json.loads(found.metadata[STRUCTURE], parse_constant=constant)
        tree = _unflatten(structure, found.tensors)
        if not isinstance(tree, dict):
            raise DamagedFileError("it holds no state by name")
        return tree
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no checkpoint {path}. `stillsight list runs` shows the runs.") from error
    except MemoryShortError:
        raise
    except MemoryError as error:
        raise MemoryShortError(path, "memory has no room for what is in it") from error
    except _UNREADABLE as error:
        reason = first_line(error)
        raise CheckpointError(
            f"The checkpoint {path} is damaged or incomplete ({reason}). Nothing was changed."
        ) from error


def facts(tree: Mapping[str, Any], kind: Any, path: Path) -> Any:
    """What stands in a checkpoint beside what learned, as one of the schemas says.

    Args:
        tree: from `load`.
        kind: say `schema.AgentFacts`.
        path: of the file.

    Raises:
        CheckpointError: something is missing, or of another type.
    """
    try:
        return schema.convert(tree, kind, path)
    except RunError as error:
        raise CheckpointError(str(error)) from error


def _flatten(node: Any, path: str, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """Put the tensors below `node` into `tensors`, by path, and return the rest of it with those paths in their places.

    One tensor under several names is written once: SB3's actor-critic policies list a shared features extractor
    three times.
    """
    if isinstance(node, Tensor):
        identity = (node.data_ptr(), node.shape, node.stride(), node.dtype) if node.numel() else path
        if identity not in seen:
            seen[identity] = path
            tensors[path] = node
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


def _unflatten(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_flatten`; one tensor that stood under several names stands there again."""
    if isinstance(node, list):
        raise DamagedFileError("its structure holds a bare list")
    if not isinstance(node, dict):
        return node
    if len(node) != 1:
        raise DamagedFileError(f"its structure holds a node of {len(node)} kinds")
    ((kind, content),) = node.items()
    if kind == "float":
        return float(content)
    if kind == "tensor":
        return tensors[content]
    if kind == "pairs":
        return {key: _unflatten(value, tensors) for key, value in content}
    if kind == "list" and isinstance(content, list):
        return [_unflatten(value, tensors) for value in content]
    raise DamagedFileError(f"its structure holds a node of the unknown kind {kind[:20]!r}")


def _early_constant(word: str) -> float:
    return -math.inf if word == "-Infinity" else _refuse_constant(word)


def _refuse_constant(word: str) -> NoReturn:
    raise DamagedFileError(f"its structure holds {word}, which is no JSON")


def _join(path: str, key: object) -> str:
    # Escaped as in a JSON pointer (RFC 6901), integers marked, so that two keys never share a path.
    name = key.replace("~", "~0").replace("/", "~1") if isinstance(key, str) else f"[{key}]"
    return f"{path}/{name}" if path else name
