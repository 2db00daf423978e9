"""Compute frozen features: each image, and each augmented view of it, is encoded once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from stillsight.encoders.device import encode_in_batches, wants_bf16
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.reference_features import reference_features, same_function
from stillsight.encoders.supervised.data.split import Dataset, digests
from stillsight.encoders.supervised.features.store import Store
from stillsight.encoders.supervised.training.augment import augment, draw
from stillsight.encoders.supervised.training.recipe import Recipe

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
BATCH = 256
"""Images encoded, and rows written, at a time: what a kill can cost."""
TIMED = 40
"""Batches that must lie ahead before engines are timed for them, which takes ten batches and more of each."""

Progress = Callable[[str, int, int], None]


def key(encoder: Encoder, size: tuple[int, int]) -> str:
    """The name under which features are kept: it changes whenever anything but the pixels changes that they depend on.

    Args:
        encoder: weights, tap, pooling, resolution, preprocessing, precision and device count.
        size: height and width of the images, in pixels.
    """
    facts = {
        "encoder": encoder.sha256(),
        "name": encoder.name,
        "tap": encoder.tap,
        "pooling": encoder.pooling,
        "resolution": encoder.resolution,
        "preprocessing": str(encoder.preprocessing),
        "bf16": wants_bf16(encoder.frozen.device, encoder.frozen.precision),
        "device": encoder.frozen.device.type,
        "size": list(size),
        # Features from before bicubic resizing was clamped are others; those of other encoders still hold.
        **({"clamped": True} if encoder.preprocessing.interpolation == "bicubic" else {}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def features(
    encoder: Encoder,
    dataset: Dataset,
    cache: Path,
    progress: Progress,
    views: int = 0,
    seed: int = 0,
    recipe: Recipe | None = None,
    parts: Sequence[Part] = PARTS,
) -> dict[str, Tensor]:
    """Float32 features `[N, D]` of the train, validation and test images; only images not in `cache` are encoded.

    Rows are kept by the digest of the pixels that they came from. So an image is encoded once whatever split, number of
    labels or seed it is used under, an augmented view is an image like another, and no other image is taken for it.

    Args:
        encoder: its frozen part alone is used; it must be cut at the end.
        dataset: the images.
        cache: folder of feature stores, one for each `key`.
        progress: called with (part, images done, images in all).
        views: augmented views of each training image, which follow the training images themselves: `[(1 + views) N,
            D]`.
        seed: of the views.
        recipe: how views are augmented; by default as in training.
        parts: which of them, the training images among them.

    Raises:
        EncoderError: something of the encoder learns, and stands behind its cut; the disk is too full.
    """
    if behind := encoder.learned.names:
        raise EncoderError(
            f"Features are kept as they come out of the frozen part, and of {encoder.name}, tapped at {encoder.tap}, "
            f"{', '.join(behind)} would be left out, behind the cut. Type --mode frozen or random, and a --pooling "
            "that learns nothing, say --pooling grid4."
        )
    height, width = dataset.train.images.shape[2:]
    name = f"{encoder.name.replace(':', '.')}-{key(encoder, (height, width))}"
    with Store(cache / name, encoder.frozen.frame_shape((3, height, width))[0]) as store:
        sets: dict[str, Batches] = {part: Batches(getattr(dataset, part).images) for part in parts}
        recipe = recipe or Recipe()
        sets |= {f"view {view}": View(dataset.train.images, recipe, seed, view) for view in range(1, views + 1)}
        wanted = {part: [image for batch in batches for image in digests(batch)] for part, batches in sets.items()}
        _drop_outdated(store, encoder, (height, width))
        needed = {image for images in wanted.values() for image in images}
        missing = sum(image not in store for image in needed)
        encoder.counter.at_hand += len(needed) - missing
        if missing:
            store.check_room(missing)
            forwards = -(-missing // BATCH)
            long = forwards >= TIMED
            batch, ahead = (BATCH, forwards) if long else (None, 0)
            encoder.frozen.prepare((3, height, width), batch=batch, forwards=ahead, kept=True)
        for part, batches in sets.items():
            if any(image not in store for image in wanted[part]):
                _fill(store, encoder, batches, wanted[part], part, progress)
        rows = {part: store.get(images) for part, images in wanted.items()}
    train = torch.cat([rows["train"], *(rows[f"view {view}"] for view in range(1, views + 1))])
    return {**{part: rows[part] for part in parts}, "train": train}


class Batches:
    """The images of a set, uint8 `[N, 3, H, W]` on the CPU, a batch at a time and the same at each reading."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __iter__(self) -> Iterator[Tensor]:
        return (self[number] for number in range(-(-len(self.images) // BATCH)))

    def __getitem__(self, number: int) -> Tensor:
        return self.images[number * BATCH : (number + 1) * BATCH]


class View(Batches):
    """An augmented view of a set.

    Args:
        images: as they are.
        recipe: how they are augmented.
        seed, number: which view this is.
    """

    def __init__(self, images: Tensor, recipe: Recipe, seed: int, number: int) -> None:
        super().__init__(images)
        self.recipe, self.name = recipe, f"view {number} of seed {seed}"

    def __getitem__(self, number: int) -> Tensor:
        batch = super().__getitem__(number)
        # Each batch has a generator of its own, so that an interrupted view goes on as it began.
        draws = hashlib.sha256(f"batch {number} of {self.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(draws[:8], "little", signed=True))
        height, width = batch.shape[2:]
        return augment(batch, draw(self.recipe, len(batch), (height, width), generator), self.recipe)


def _fill(store: Store, encoder: Encoder, batches: Batches, wanted: list[bytes], part: str, progress: Progress) -> None:
    """Encode what `store` lacks of one set."""
    for number in range(-(-len(wanted) // BATCH)):
        images = wanted[number * BATCH : (number + 1) * BATCH]
        # A dict, because an image may occur twice.
        rows = {image: row for row, image in enumerate(images) if image not in store}
        if rows:
            pixels = batches[number][list(rows.values())]
            store.add(list(rows), encode_in_batches(encoder.frozen, pixels, encoder.frozen.device, BATCH))
        progress(part, number * BATCH + len(images), len(wanted))


def _drop_outdated(store: Store, encoder: Encoder, size: tuple[int, int]) -> None:
    """Drop what `store` holds if it came from a network that computes another function.

    A network is its weights and its code, and the key knows the weights alone: somebody may have changed a stride, or
    how images are resized.
    """
    fresh = reference_features(encoder.frozen, size)
    kept = store.reference()
    if kept is None or not same_function(fresh, kept):
        store.forget()
        store.refer_to(fresh)
