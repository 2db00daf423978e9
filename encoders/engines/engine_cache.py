"""How long engines took for which network, shape and machine: timings that are kept between runs."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from stillsight.encoders import device as devices
from stillsight.encoders.atomic import to_json, write_atomically, writing
from stillsight.encoders.errors import DiskFault, say_once
from stillsight.encoders.preprocess import Preprocess
from stillsight.encoders.system.plain_file import read_plain

LARGEST = 2**24
"""Bytes of the file of timings; those under one key take about two hundred."""


def memory() -> Path:
    """The file in which timings are kept: stillsight/engines.json in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stillsight" / "engines.json"


def key(steps: Mapping[str, nn.Module], module: nn.Module, device: torch.device, sample: Tensor) -> str:
    """What timings depend on: the processor, the versions, the network, its size and precision, the shape of a batch
    and the resolution that it is brought to.

    Args:
        steps: the stages by name, up to the tap, a `Preprocess` first.
        module: the same as they are run.
        device: where.
        sample: a batch of pixels as they come.
    """
    size = sum(parameter.numel() for parameter in module.parameters())
    processor = devices.processor(device)
    shape = "x".join(map(str, sample.shape))
    pixels = steps.get("pixels")
    resized = f" to {pixels.resolution}" if isinstance(pixels, Preprocess) and pixels.resolution is not None else ""
    # Two networks may have as many parameters, and layers without any differ in what they cost, too.
    parts = [*steps, *(f"{path} {type(part).__name__}" for path, part in module.named_modules())]
    parts += [f"{name} {tuple(tensor.shape)}" for name, tensor in module.state_dict().items()]
    network = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    dtype = next((str(p.dtype) for p in module.parameters()), "none")
    onnx = "onnx" if find_spec("onnxruntime") else "no onnx"
    machine = f"{torch.__version__} {processor} {torch.get_num_threads()} threads, {onnx}"
    return f"{machine}: {network} {size} {dtype} {shape}{resized}"


def recall(key: str) -> dict[str, float]:
    """Seconds that a batch took under `key`, by engine; infinitely many with an engine that is not to be had."""
    known = _known().get(key)
    if not isinstance(known, dict):  # none yet, or damaged
        return {}
    seconds = {name: math.inf if value is None else value for name, value in known.items()}
    return seconds if all(isinstance(value, float) and value > 0 for value in seconds.values()) else {}


def remember(key: str, seconds: Mapping[str, float]) -> None:
    """Keep what a batch took under `key`, where the disk allows it; where it does not, that is said once."""
    kept = {name: value if value < math.inf else None for name, value in seconds.items()}
    try:
        with writing(memory()):
            memory().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory(), to_json({**_known(), key: kept}, indent=1))
    except DiskFault as fault:  # a cache that cannot be kept costs the next run a measurement, no more
        say_once(f"timings of engines could not be kept in {memory()} ({fault.cause}): the next run measures again.")


def _known() -> dict[str, object]:
    """What the file holds; nothing where it is missing or damaged, which costs a measurement."""
    try:
        known = json.loads(read_plain(memory(), LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
