"""Encode pictures and films: `stillsight encode`."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stillsight.agents.errors import RunError
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.seeing import feature_file, sheet
from stillsight.agents.seeing.encode_config import EncodeConfig
from stillsight.agents.seeing.images import FILMS, Image, Images, find
from stillsight.encoders import device as devices
from stillsight.encoders.building import build
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.supervised.data import picture
from stillsight.encoders.taps.pooling import Pooling, as_map
from stillsight.encoders.taps.tap import check_poolings, stages_of
from stillsight.encoders.zoo.registry import spec

BATCH = 64
"""Images that are encoded at a time, as far as they are of one size."""

TOLD = 1_024
"""Images after which, each time, how many were encoded is said."""


class Encoded(NamedTuple):
    """What came out.

    Attributes:
        names: of the images, in their order.
        features: float32 `[N, D]`.
        smallest: height and width of the image with the smallest side.
    """

    names: list[str]
    features: np.ndarray
    smallest: tuple[int, int]


def encode(places: list[Path], config: EncodeConfig) -> Encoded:
    """Encode the images in `places`, write their features and the sheet, as far as they were asked for, and say so.

    Args:
        places: picture files, films, and folders that are searched for pictures.
        config: the encoder, and what is written.

    Raises:
        EncoderError: no image, a broken one, or images that the encoder cannot take; see `build`.
        RunError: see `EncodeConfig.check`; or --every where there is no film.
        DiskFault: a file cannot be written.
    """
    config.check()
    images, passed = find(places, config.every, config.skip_broken)
    if config.every > 1 and not any(path.suffix.lower() in FILMS for path in images.files):
        raise RunError(f"--every {config.every} is for films, and has no effect on pictures. Drop --every.")
    encoder = build(config).eval()
    if config.sheet is not None and "," in encoder.tap:
        raise RunError(
            f"A sheet shows the map of one tap, and --tap {encoder.tap} names several. Type one, or drop --sheet."
        )
    display = ProgressDisplay()
    traits: Counter[str] = Counter()
    with devices.threads(config.threads):
        encoded = features_of(encoder, images, config, traits, display)
        for note in picture.tell(traits) + ([f"passed over: {passed}"] if str(passed) else []):
            print(f"stillsight: {note}", file=sys.stderr)
        if config.out is not None:
            feature_file.write(config.out, encoded.features, _facts(encoder, encoded.names))
        if config.sheet is not None:
            _draw(config.sheet, encoder, images, encoded)
    display.close()
    source = encoder.provenance
    count, width = encoded.features.shape
    rows = {
        "encoder": f"{encoder.name} to {encoder.tap}, pooling {encoder.pooling}",
        "weights": f"{source.kind}: {source.name} {source.sha256[:12]}",
        "licence": source.licence,
        **({"images": smaller} if (smaller := encoder.smaller_than_made(*encoded.smallest)) else {}),
        "features": f"{count:,} images x {width:,} numbers, computed in {encoder.frozen.computed_in}",
        **({"out": str(config.out)} if config.out is not None else {}),
        **({"sheet": str(config.sheet)} if config.sheet is not None else {}),
    }
    display.card("done", rows)
    return encoded


def features_of(
    encoder: Encoder,
    images: Images,
    config: EncodeConfig,
    traits: Counter[str] | None = None,
    display: ProgressDisplay | None = None,
) -> Encoded:
    """Features of all images, each as it comes or resized by the encoder.

    Raises:
        EncoderError: there is no image, one is too small, or they give features of different widths.
    """
    names: list[str] = []
    parts: list[np.ndarray] = []
    sizes: list[tuple[int, int]] = []
    row = spec(config.encoder)
    places = "flatten" in check_poolings(encoder.pooling)
    for batch in _batches(images.decode(traits=traits)):
        height, width = batch[0].pixels.shape[1:]
        sizes.append((height, width))
        if config.resolution is None:
            try:
                row.check_size((height, width), stages_of(encoder.tap)[-1], "--resolution")
            except EncoderError as error:
                raise EncoderError(f"{batch[0].name}: {error}") from error
        part = devices.encode_in_batches(encoder, _stacked(batch), encoder.device).numpy()
        if parts and part.shape[1] != parts[0].shape[1]:
            raise EncoderError(
                f"{names[0]} gives {parts[0].shape[1]:,} features and {batch[0].name} gives {part.shape[1]:,}, because "
                "they differ in size. Add --resolution 96, or --pooling global."
            )
        if places and sizes[0] != (height, width) and config.resolution is None:
            raise EncoderError(
                f"{names[0]} has {sizes[0][0]} x {sizes[0][1]} px and {batch[0].name} {height} x {width}, and "
                f"--pooling {encoder.pooling} keeps each place of an image: a column would be one place in the one and "
                "another in the other. Add --resolution 96, or take --pooling grid4 or global."
            )
        names += [image.name for image in batch]
        parts.append(part)
        if display is not None and len(names) // TOLD > (len(names) - len(batch)) // TOLD:
            display.note(f"{len(names):,} images encoded")
    if not names:
        raise EncoderError("None of the files can be read as a picture. Give others.")
    return Encoded(names, np.concatenate(parts), min(sizes, key=min))


def _batches(images: Iterator[Image]) -> Iterator[list[Image]]:
    """Images that follow each other and have one size, at most `BATCH` at a time."""
    for _, alike in itertools.groupby(images, key=lambda image: image.pixels.shape):
        while batch := list(itertools.islice(alike, BATCH)):
            yield batch


def _stacked(batch: list[Image]) -> Tensor:
    return torch.from_numpy(np.stack([image.pixels for image in batch]))


def _facts(encoder: Encoder, names: list[str]) -> dict[str, Any]:
    """What a file of features says of itself."""
    return {
        "names": names,
        "encoder": encoder.name,
        "tap": encoder.tap,
        "pooling": encoder.pooling,
        "resolution": encoder.resolution,
        "encoder_sha256": encoder.sha256(),
        "computed_in": encoder.frozen.computed_in,
        "weights": encoder.provenance.name,
        "licence": encoder.provenance.licence,
    }


def _draw(path: Path, encoder: Encoder, images: Images, encoded: Encoded) -> None:
    """Decode once more what the sheet shows, and draw it."""
    names, features, _ = encoded
    shown = sheet.chosen(len(names))
    nearest, _ = sheet.neighbours(features, shown)
    wanted = {names[index] for index in {*shown, *nearest.ravel().tolist()}}
    pixels = {image.name: image.pixels for image in images.decode(wanted)}
    maps = {index: tapped_map(encoder, pixels[names[index]]) for index in shown}
    by = f"nearest by the cosine of {features.shape[1]:,} features"
    title = f"{encoder.name} to {encoder.tap}, pooling {encoder.pooling}; {by}"
    sheet.write(path, names, features, maps, pixels, title=title, tap=encoder.tap)


@torch.inference_mode()
def tapped_map(encoder: Encoder, pixels: np.ndarray) -> np.ndarray:
    """What the stage at the tap hands on for one image, before it is pooled.

    Args:
        encoder: frozen.
        pixels: uint8 `[3, H, W]`.

    Returns:
        float32 `[C, h, w]`: patch tokens laid out as they lie in the image, a vector as a map of 1 x 1.

    Raises:
        RunError: its patch tokens form no grid in the proportions of the image.
    """
    handed: Tensor = torch.from_numpy(pixels)[None].to(encoder.device)
    class_tokens = 0
    with devices.autocast(encoder.device, encoder.frozen.precision):
        for step in encoder.frozen.steps:
            if isinstance(step, Pooling):
                class_tokens = step.class_tokens
                break
            handed = step(handed)
    out = handed.float().cpu()
    if out.dim() == 2:
        return out[0, :, None, None].numpy()
    try:
        return as_map(out, class_tokens, encoder.layout, "global")[0].numpy()
    except EncoderError as error:
        patches = out.shape[1] - class_tokens
        raise RunError(
            f"{encoder.tap} hands on {patches} patches, which lie in no rows and columns of the image. Drop --sheet."
        ) from error
