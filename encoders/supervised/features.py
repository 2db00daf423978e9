"""Frozen features, computed once for each image and kept on disk for the next head."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stillsight.encoders.device import encode_in_batches
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.supervised.dataset import Dataset

PARTS = ("train", "validation", "test")


def key(encoder: Encoder, dataset: Dataset) -> str:
    """The name under which features are kept: it changes whenever anything that they depend on changes."""
    facts = {
        "encoder": encoder.sha256(),
        "name": encoder.name,
        "tap": encoder.tap,
        "pooling": encoder.pooling,
        "resolution": encoder.resolution,
        "preprocessing": str(encoder.preprocessing),
        "precision": encoder.frozen.precision,
        "device": encoder.frozen.device.type,
        "data": dataset.sha256(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def features(
    encoder: Encoder, dataset: Dataset, cache: Path, progress: Callable[[str, int, int], None]
) -> dict[str, Tensor]:
    """Float32 features `[N, D]` of the train, validation and test images, from `cache` if they are there.

    A cache file that cannot be read is computed again. Files are written beside their place and then renamed, so a
    killed run leaves no half file under the final name.

    Args:
        encoder: its frozen part alone is used; it must be cut at the end.
        dataset: the images.
        cache: folder of feature files.
        progress: called with (part, images done, images in all).
    """
    path = cache / f"{encoder.name}-{dataset.name}-{key(encoder, dataset)}.safetensors"
    if path.is_file():
        try:
            return load_file(path)
        except SafetensorError:
            path.unlink()
    found = {}
    for part in PARTS:
        images = getattr(dataset, part).images

        def done(count: int, part: str = part, total: int = len(images)) -> None:
            progress(part, count, total)

        found[part] = encode_in_batches(encoder.frozen, images, encoder.frozen.device, progress=done)
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    save_file(found, partial)
    partial.replace(path)
    return found
