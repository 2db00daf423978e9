"""A finished run as something that predicts: pixels in, probabilities out. Nothing in the folder is executed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillsight.encoders import device as devices
from stillsight.encoders.building import build
from stillsight.encoders.config import EncoderConfig
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.mode import Mode
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.data import picture
from stillsight.encoders.supervised.heads import head as heads


@dataclass(frozen=True)
class Predictor:
    """A classifier from a run folder; get one from `load`.

    Attributes:
        encoder: frozen, with the weights that the run ended with.
        head: features `[N, D]` -> logits `[N, classes]`.
        classes: their names.
        size: height and width in pixels of the images that the run saw; others are resized to it first, so that the
            network sees what it was trained on.
        summary: summary.json of the run.
        mirrored: look at each image and its mirror image and average the logits, as a run with --tta was tested.
        precision: in which the head computes, as it did when it was tested; see `device.autocast`.
    """

    encoder: Encoder
    head: Callable[[Tensor], Tensor]
    classes: tuple[str, ...]
    size: tuple[int, int]
    summary: dict[str, Any]
    mirrored: bool = False
    precision: devices.Precision = "float32"

    def predict(self, pixels: np.ndarray | Tensor) -> Tensor:
        """Probabilities, float32 `[N, classes]` on the CPU; each row sums to one.

        Args:
            pixels: uint8 `[N, 3, H, W]` RGB, of any size, on any device.

        Raises:
            EncoderError: they are something else.
        """
        return torch.softmax(self.logits(pixels), 1)

    def logits(self, pixels: np.ndarray | Tensor, progress: Callable[[int], object] | None = None) -> Tensor:
        """Logits, float32 `[N, classes]` on the CPU; see `predict`.

        Args:
            pixels: as `predict` takes them.
            progress: called with the number of images done after each batch.
        """
        given = torch.as_tensor(pixels)
        if given.dtype != torch.uint8 or given.dim() != 4 or given.shape[1] != 3:
            raise EncoderError(
                f"predict takes pixels 0..255 as uint8 [N, 3, H, W], and got {given.dtype} {list(given.shape)}. "
                "Give, say, image[None] for one image of shape [3, H, W]."
            )

        def classify(part: Tensor) -> Tensor:
            images = picture.resize(part, self.size)
            views = (images, images.flip(3)) if self.mirrored else (images,)
            with devices.autocast(images.device, self.precision):
                return torch.stack([self.head(self.encoder(view)).float() for view in views]).mean(0)

        return devices.encode_in_batches(classify, given, self.encoder.device, progress=progress)


def load(run: Path | str, *, weights: Path | None = None, device: str = "auto") -> Predictor:
    """The classifier of a finished cifar run, its encoder and head the ones that its test accuracy was measured with.

    Args:
        run: the folder.
        weights: where the weights of a frozen encoder lie now, if they have moved; a trained one lies in the folder.
        device: to predict on.

    Raises:
        EncoderError: no finished cifar run there, a damaged file, or an encoder that is not, to the bit, the run's.
    """
    folder = Path(run)
    record = _json(folder / "config.json", f"{folder} is no run folder. `stillsight list runs` shows the runs.")
    if record.get("command") != "cifar":
        raise EncoderError(
            f"{folder} is a run of {record.get('command')!r}, and only cifar runs hold a classifier. Give the folder "
            "of a cifar run; `stillsight list runs` shows them."
        )
    unfinished = f"{folder} is not finished: type stillsight cifar --resume {folder}."
    summary = _json(folder / "summary.json", unfinished)
    lacking = [key for key in ("classes", "image_size", "encoder_sha256_after") if key not in summary]
    if lacking:
        raise EncoderError(
            f"{folder / 'summary.json'} lacks {', '.join(lacking)}, which predicting needs. Run it again with this "
            "version: stillsight cifar --out FOLDER."
        )
    choice = _choice(record, folder, weights, device)
    encoder = build(choice, pinned=True)
    if encoder.sha256() != summary["encoder_sha256_after"]:
        advice = "Say where the right ones are: --weights FILE." if weights or choice.weights != folder else ""
        raise EncoderError(
            f"{folder} ended with {encoder.name} weights with sha256 {summary['encoder_sha256_after'][:12]}, and "
            f"{encoder.provenance.name} gives {encoder.sha256()[:12]}. {advice or 'Its files are not of one run.'}"
        )
    classes, (height, width) = tuple(summary["classes"]), summary["image_size"]
    head = heads.read(folder / heads.HEAD_FILE, encoder.device)
    trained = Mode(record["mode"]).trained
    predictor = Predictor(
        encoder.eval(),
        head,
        classes,
        (height, width),
        summary,
        mirrored=trained and bool(record.get("tta")),
        precision=choice.precision if trained else "float32",
    )
    try:
        told = predictor.logits(torch.zeros(1, 3, height, width, dtype=torch.uint8)).shape[1]
    except RuntimeError:  # the head takes another number of features
        told = 0
    if told != len(classes):
        raise EncoderError(
            f"{folder / heads.HEAD_FILE} does not fit the encoder and the {len(classes)} classes of {folder}: its "
            "files are not of one run. Restore them, or start a new run."
        )
    return predictor


def _choice(record: dict[str, Any], folder: Path, weights: Path | None, device: str) -> EncoderConfig:
    """The frozen encoder that the run ended with."""
    found = {field.name: record[field.name] for field in fields(EncoderConfig) if field.name in record}
    paths = {key: Path(found[key]) for key in ("weights", "weights_folder") if found.get(key) is not None}
    choice = CifarConfig(**(found | paths | {"mode": Mode(found["mode"]), "device": device}))
    if weights is not None and choice.mode is not Mode.FROZEN:
        raise EncoderError(
            f"The encoder of {folder} ({choice.mode.value}) needs no weights from elsewhere. Drop --weights."
        )
    if choice.mode.trained:
        return replace(choice.frozen(), weights=folder)
    return replace(choice, weights=weights or choice.weights)


def _json(path: Path, missing: str) -> dict[str, Any]:
    if not path.is_file():
        raise EncoderError(missing)
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise EncoderError(f"{path} is damaged ({error}). Restore it, or start a new run.") from error
    return content
