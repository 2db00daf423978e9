"""Naming what is on pictures, with the classifier of a cifar run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillsight.encoders.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor

    from stillsight.agents.playing.classify import Predictor

BATCH = 256
"""Pictures that are held decoded at a time; a folder may have more than fit into memory."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Say what is on pictures, with the classifier that a cifar run trained."""

    top: int = 5
    """How many classes to name for each picture, the most probable first."""
    json: bool = False
    """Print one JSON object a picture and a line, for programs."""
    skip_broken: bool = False
    """Go on after files that are no picture, and name them; without this they end the command."""
    weights: Path | None = None
    """The weights of a frozen encoder, if they are not any more where the run found them."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def predict(run: Path, places: list[Path], config: PredictConfig) -> list[dict[str, Any]]:
    """Print and return what is on each picture: {"image": path, "predictions": [{"class", "probability"}, ...]}.

    Args:
        run: folder of a cifar run.
        places: picture files, and folders that are searched for pictures.
        config: how to tell.

    Raises:
        EncoderError: see `predictor.load` and `picture.find`; a broken picture, unless they are skipped; nothing left.
    """
    from stillsight.agents.playing.classify import load
    from stillsight.encoders.supervised.data import picture

    if config.top < 1:
        raise EncoderError(f"--top {config.top} names nothing. Type a number from 1.")
    if not places:
        raise EncoderError("There is no picture to look at. Type: stillsight predict RUN IMAGE [IMAGE ...].")
    paths = picture.find(places)
    predictor = load(run, weights=config.weights, device=config.device)
    told = []
    for names, pixels in _batches(paths, predictor, config.skip_broken):
        for name, row in zip(names, predictor.predict(pixels), strict=True):
            values, indices = row.topk(min(config.top, len(predictor.classes)))
            best = [
                {"class": predictor.classes[index], "probability": value}
                for index, value in zip(indices.tolist(), values.tolist(), strict=True)
            ]
            told.append({"image": str(name), "predictions": best})
            print(json.dumps(told[-1]) if config.json else _line(told[-1]), flush=True)
    if not told:
        raise EncoderError(f"None of the {len(paths):,} files can be read as a picture. Give others.")
    return told


def _batches(paths: list[Path], predictor: Predictor, skip: bool) -> Iterator[tuple[list[Path], Tensor]]:
    """Paths and pixels uint8 `[n, 3, H, W]` of the size that the run saw, in batches."""
    import torch

    from stillsight.encoders.supervised.data import picture

    names: list[Path] = []
    pixels: list[Tensor] = []
    for number, path in enumerate(paths, 1):
        try:
            decoded = torch.from_numpy(picture.read(path))[None]
        except EncoderError as error:
            if not skip:
                raise EncoderError(f"{error} Leave it out, or type --skip-broken.") from error
            print(f"stillsight: skipped. {error}", file=sys.stderr)
        else:
            names.append(path)
            pixels.append(picture.resize(decoded, predictor.size))
        if names and (len(names) == BATCH or number == len(paths)):
            yield names, torch.cat(pixels)
            names, pixels = [], []


def _line(told: dict[str, Any]) -> str:
    best = ", ".join(f"{one['class']} {one['probability']:.1%}" for one in told["predictions"])
    return f"{told['image']}: {best}"
