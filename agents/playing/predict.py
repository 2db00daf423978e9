"""Predict what is on pictures, with the classifier of a cifar run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillsight.agents.command_line.json_output import print_json
from stillsight.agents.playing.classify import Predictor, load
from stillsight.agents.playing.predict_config import PredictConfig
from stillsight.encoders.atomic import to_json
from stillsight.encoders.errors import EncoderError, printable
from stillsight.encoders.supervised.data import picture, search

BATCH = 256
"""Pictures that are held decoded at a time; a folder may have more than fit into memory."""


def predict(run: Path, places: list[Path], config: PredictConfig) -> list[dict[str, Any]]:
    """Print and return what is on each picture: {"image": path, "predictions": [{"class", "probability"}, ...]}.

    What was passed over in folders, and seen otherwise than it lies in the file, is counted on the error stream.

    Args:
        run: folder of a cifar run.
        places: picture files, and folders that are searched for pictures.
        config: how to tell.

    Raises:
        EncoderError: see `classify.load` and `search.find`; a broken picture, unless they are skipped; nothing left.
    """
    if config.top < 1:
        raise EncoderError(f"--top {config.top} names nothing. Type a number from 1.")
    if not places:
        raise EncoderError("There is no picture to look at. Type: stillsight predict RUN IMAGE [IMAGE ...].")
    paths, passed = search.find(places)
    predictor = load(run, weights=config.weights, device=config.device, trust=config.trust)
    results: list[dict[str, Any]] = []
    traits: Counter[str] = Counter()
    for names, pixels in _batches(paths, predictor, config.skip_broken, traits):
        for name, row in zip(names, predictor.predict(pixels), strict=True):
            values, indices = row.topk(min(config.top, len(predictor.classes)))
            best = [
                {"class": predictor.classes[index], "probability": value}
                for index, value in zip(indices.tolist(), values.tolist(), strict=True)
            ]
            results.append({"image": str(name), "predictions": best})
            if config.json:
                print_json(to_json(results[-1]))
            else:
                print(_line(results[-1]), flush=True)
    notes = picture.tell(traits) + ([f"passed over: {passed}"] if str(passed) else [])
    for note in notes:
        print(f"stillsight: {note}", file=sys.stderr)
    if not results:
        raise EncoderError(f"None of the {len(paths):,} files can be read as a picture. Give others.")
    return results


def _batches(
    paths: list[Path], predictor: Predictor, skip: bool, traits: Counter[str]
) -> Iterator[tuple[list[Path], Tensor]]:
    """Paths and pixels uint8 `[n, 3, H, W]` of the size that the run saw, in batches; `traits` counts as it goes on."""
    names: list[Path] = []
    pixels: list[Tensor] = []
    for number, path in enumerate(paths, 1):
        try:
            decoded = picture.decode(path)
        except EncoderError as error:
            if not skip:
                raise EncoderError(f"{error} Leave it out, or type --skip-broken.") from error
            print(f"stillsight: skipped. {error}", file=sys.stderr)
        else:
            names.append(path)
            traits.update(decoded.traits)
            whole = torch.from_numpy(decoded.pixels)[None]
            pixels.append(picture.resize(whole, predictor.size, predictor.interpolation))
        if names and (len(names) == BATCH or number == len(paths)):
            yield names, torch.cat(pixels)
            names, pixels = [], []


def _line(result: dict[str, Any]) -> str:
    best = ", ".join(f"{printable(one['class'])} {one['probability']:.1%}" for one in result["predictions"])
    return f"{printable(result['image'])}: {best}"
