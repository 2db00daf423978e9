"""Which engine was the fastest for which network, shape and machine: choices that are kept between runs."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from stillsight.encoders import device as devices
from stillsight.encoders.atomic import to_json, write_atomically, writing
from stillsight.encoders.errors import DiskFault, say_once
from stillsight.encoders.system.plain_file import read_plain

LARGEST = 2**24
"""Bytes of the file of choices, each of which takes about two hundred."""


def memory() -> Path:
    """The file in which choices are kept: stillsight/engines.json in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stillsight" / "engines.json"


def key(module: nn.Module, device: torch.device, sample: Tensor) -> str:
    """What a choice depends on: the processor, the versions, the network's size and precision, the shape of a batch."""
    size = sum(parameter.numel() for parameter in module.parameters())
    processor = devices.processor(device)
    shape = "x".join(map(str, sample.shape))
    dtype = next((str(p.dtype) for p in module.parameters()), "none")
    onnx = "onnx" if find_spec("onnxruntime") else "no onnx"
    return f"{torch.__version__} {processor} {torch.get_num_threads()} threads, {onnx}: {size} {dtype} {shape}"


def recall(key: str) -> str | None:
    """The engine that was chosen under `key`, or None."""
    known = _known().get(key)
    return known if isinstance(known, str) else None


def remember(key: str, name: str) -> None:
    """Keep that `name` was chosen under `key`, where the disk allows it; where it does not, that is said once."""
    known = _known()
    try:
        with writing(memory()):
            memory().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory(), to_json({**known, key: name}, indent=1))
    except DiskFault as fault:  # a cache that cannot be kept costs the next run a measurement, no more
        say_once(f"the fastest engine could not be kept in {memory()} ({fault.cause}): the next run measures again.")


def _known() -> dict[str, object]:
    """What the file holds; nothing where it is missing or damaged, which costs a measurement."""
    try:
        known = json.loads(read_plain(memory(), LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
