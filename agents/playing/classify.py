"""Predictor: the classifier of a finished cifar run, pixels in, probabilities out. Nothing in a folder is executed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillsight.agents.errors import RunError
from stillsight.agents.runs.reader import checkpoint_path, read_summary
from stillsight.agents.runs.trust import Trust, open_run
from stillsight.encoders import device as devices
from stillsight.encoders.building import build
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.errors import DamagedFileError, EncoderError, as_typed
from stillsight.encoders.mode import Mode
from stillsight.encoders.reference_features import REFERENCE, check_reference, reference_features
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.data import picture
from stillsight.encoders.supervised.data.picture import Interpolation
from stillsight.encoders.supervised.heads import kinds
from stillsight.encoders.weights import tensor_file


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
        interpolation: that the run resized an image folder with.
    """

    encoder: Encoder
    head: Callable[[Tensor], Tensor]
    classes: tuple[str, ...]
    size: tuple[int, int]
    summary: dict[str, Any]
    mirrored: bool = False
    precision: devices.Precision = "float32"
    interpolation: Interpolation = "bilinear"

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
        images = torch.as_tensor(pixels)
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise EncoderError(
                f"predict takes pixels 0..255 as uint8 [N, 3, H, W], and got {images.dtype} {list(images.shape)}. "
                "Give, say, image[None] for one image of shape [3, H, W]."
            )

        def classify(part: Tensor) -> Tensor:
            resized = picture.resize(part, self.size, self.interpolation)
            views = (resized, resized.flip(3)) if self.mirrored else (resized,)
            with devices.autocast(resized.device, self.precision):
                return torch.stack([self.head(self.encoder(view)).float() for view in views]).mean(0)

        return devices.encode_in_batches(classify, images, self.encoder.device, progress=progress)


def load(run: Path | str, *, weights: Path | None = None, device: str = "auto", trust: Sequence[str] = ()) -> Predictor:
    """The classifier of a finished cifar run, its encoder and head the ones that its test accuracy was measured with.

    Nothing in the folder is executed, and nothing imported that it names, unless `trust` names it too.

    Args:
        run: the folder.
        weights: where the weights of a frozen encoder lie now, if they have moved; a trained one lies in the folder.
        device: to predict on.
        trust: what the run may ask for that stillsight does not know of itself, say its encoder "my_encoders:tiny".

    Raises:
        RunError: no finished cifar run there, a damaged file, or it asks for what nobody allowed.
        EncoderError: a damaged checkpoint, or an encoder that is not the run's: its weights to the bit, its code
            by what it computes.
    """
    folder = Path(run)
    opened = open_run(folder, Trust(tuple(trust)), device=device)
    if opened.command != "cifar":
        raise RunError(
            f"{folder} is a run of {opened.command!r}, and only cifar runs hold a classifier. Give the folder "
            "of a cifar run; `stillsight list runs` shows them."
        )
    summary = read_summary(folder)
    if summary is None:
        raise RunError(f"{folder} is not finished: type stillsight cifar --resume {as_typed(folder)}.")
    lacking = [key for key in ("classes", "image_size", "encoder_sha256_after") if key not in summary]
    if lacking:
        raise RunError(
            f"{folder / 'summary.json'} lacks {', '.join(lacking)}, which predicting needs. Run it again with this "
            "version: stillsight cifar --out FOLDER."
        )
    run_config = opened.expect(CifarConfig)
    config = _encoder_config(run_config, folder, weights)
    encoder = build(config, pinned=True)
    if encoder.sha256() != summary["encoder_sha256_after"]:
        advice = "Say where the right ones are: --weights FILE." if weights or config.weights != folder else ""
        raise EncoderError(
            f"{folder} ended with {encoder.name} weights with sha256 {summary['encoder_sha256_after'][:12]}, and "
            f"{encoder.provenance.name} gives {encoder.sha256()[:12]}. {advice or 'Its files are not of one run.'}"
        )
    if encoder.learned.pools:
        encoder.learned.load_pooling_state(_tensors(checkpoint_path(folder, "pooling"), encoder))
    classes, (height, width) = tuple(summary["classes"]), summary["image_size"]
    _check_reference(encoder.eval(), (height, width), folder)
    head_file = checkpoint_path(folder, "head")
    trained = run_config.mode.trained
    predictor = Predictor(
        encoder,
        kinds.read(head_file, encoder.device),
        classes,
        (height, width),
        summary,
        mirrored=trained and run_config.tta,
        precision=config.precision if trained else "float32",
        interpolation=summary.get("interpolation", "bilinear"),  # runs that do not say so had no choice
    )
    try:
        fits = predictor.logits(torch.zeros(1, 3, height, width, dtype=torch.uint8)).shape[1] == len(classes)
    except RuntimeError:  # the head takes another number of features
        fits = False
    if not fits:
        raise EncoderError(
            f"{head_file} does not fit the encoder and the {len(classes)} classes of {folder}: its files are not of "
            "one run. Restore them, or start a new run."
        )
    return predictor


def _check_reference(encoder: Encoder, size: tuple[int, int], folder: Path) -> None:
    """Refuse an encoder that computes other features than when the run ended; runs of versions before kept none."""
    path = checkpoint_path(folder, REFERENCE)
    if path.exists():
        kept = _tensors(path, encoder).get("features")
        check_reference(encoder.name, reference_features(encoder.frozen, size, encoder.learned), kept, folder)


def _tensors(path: Path, encoder: Encoder) -> dict[str, Tensor]:
    """What a file of the run holds.

    Raises:
        EncoderError: it is missing or damaged.
    """
    try:
        return tensor_file.read(path, encoder.device, own=True).tensors
    except (DamagedFileError, OSError) as error:
        raise EncoderError(f"{path} cannot be read ({error}). Train the run again.") from error


def _encoder_config(config: CifarConfig, folder: Path, weights: Path | None) -> CifarConfig:
    """The frozen encoder that the run ended with."""
    if weights is not None and config.mode is not Mode.FROZEN:
        raise RunError(
            f"The encoder of {folder} ({config.mode.value}) needs no weights from elsewhere. Drop --weights."
        )
    if config.mode.trained:
        return replace(config.frozen(), weights=folder)
    return replace(config, weights=weights or config.weights)
