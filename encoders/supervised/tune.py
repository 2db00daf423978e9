"""Tune: encoder and head learn together, a stopped training goes on, and what is tested is what is saved."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillsight.encoders import device as devices
from stillsight.encoders.adapt import merge
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.reference_features import REFERENCE, check_reference, reference_features
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.classifier import Classifier, evaluate, feature_width, logits
from stillsight.encoders.supervised.data.split import Dataset
from stillsight.encoders.supervised.heads.linear import LinearHead
from stillsight.encoders.supervised.probe import warm_start
from stillsight.encoders.supervised.recorder import Recorder
from stillsight.encoders.supervised.training import finetune
from stillsight.encoders.supervised.training.distributed import World
from stillsight.encoders.system import stopping


def tune(
    config: CifarConfig,
    encoder: Encoder,
    dataset: Dataset,
    run: Recorder,
    device: torch.device,
    cache: Path,
    world: World,
) -> tuple[dict[str, Any], Tensor]:
    """Train, save, and return what came out and the logits of the test images, `[N, classes]`."""
    recipe = config.resolved(config.mode.pretrained, warm=config.warm_start)
    width = feature_width(encoder, dataset.train.images)
    model = Classifier(encoder, len(dataset.classes), width, config.dropout).to(device)
    train, validation = dataset.train.to(device), dataset.validation.to(device)
    finetune.check_batchnorm(model, train, recipe, world)
    stored = world.broadcast(run.load("last", device))
    # A row is written before its checkpoint: the stopped run may have logged an epoch that it had not saved.
    run.rewind(0 if stored is None else int(stored["epoch"]), "epoch")
    began, before = time.perf_counter(), 0.0 if stored is None else stored.get("seconds", 0.0)
    facts: dict[str, Any] = {}
    fitting = 0.0
    if stored is not None:
        facts = stored["facts"]
    elif config.warm_start:
        with devices.stopwatch(device) as seconds:
            head, facts = warm_start(config, dataset, run, device, cache)
            _set_head(model, head)
            fitting = seconds()

    def seen() -> Tensor:
        return reference_features(encoder.frozen, train.images.shape[2:], encoder.learned)

    progress = finetune.start(model, recipe, config.seed)
    progress.train_seconds = fitting  # a head that is fitted before the first update has been trained as well
    if stored is not None:
        progress.restore(model, stored, world)
        if REFERENCE in stored:
            check_reference(encoder.name, seen(), stored[REFERENCE], run.folder)
    elif config.warm_start:
        finetune.keep_start(model, validation, recipe, progress, world)
    last_row: dict[str, Any] = {} if stored is None else stored.get("row", {})

    def report(row: dict[str, Any]) -> None:
        last_row.update(row)
        run.log("metrics", row)
        run.progress("epoch", row["epoch"], recipe.epochs, **{k: v for k, v in row.items() if k != "epoch"})

    with stopping.answering(deferred=True):
        for _ in finetune.train(model, train, validation, recipe, progress, report, world=world):
            taken = before + time.perf_counter() - began
            state = progress.state(model) | {"facts": facts, "row": last_row, "seconds": taken}
            run.save("last", state | {REFERENCE: seen()})
    at_start = config.warm_start and progress.best_epoch == 0
    if at_start and config.refit:
        # Nothing is left to choose: the head is fitted to all labels, as `probe` does.
        _set_head(model, warm_start(config, dataset, run, device, cache, refit=True)[0])
    kept_whole = _save(config, encoder, dataset, run)
    run.save("head", {"weight": model.head.weight, "bias": model.head.bias}, {"head": "linear"})
    test_logits = logits(model, dataset.test.to(device).images, recipe.precision, tta=recipe.tta)
    results = {
        # Of a head that has learned the validation images the accuracy on them says nothing.
        "validation_accuracy": progress.best
        if at_start
        else evaluate(model, validation, recipe.precision, tta=recipe.tta),
        "epochs": progress.epoch,
        "averaged": progress.averaged_is_better,
        "batch": recipe.batch,
        "seconds_before": before,
        **({"best_epoch": progress.best_epoch} if progress.kept is not None else {}),
        **({"refit": config.refit} if at_start else {}),
        **({"saved_in_float32": kept_whole} if kept_whole else {}),
    }
    if progress.kept is None or progress.best_epoch == progress.epoch:  # else it is that of other weights
        facts |= {key: value for key, value in last_row.items() if key == "train_accuracy"}
    return facts | results, test_logits


def _set_head(model: Classifier, head: LinearHead) -> None:
    """Copy a head on standardised features into the network's last layer."""
    with torch.no_grad():
        for parameter, tensor in zip((model.head.weight, model.head.bias), head.folded(), strict=True):
            parameter.copy_(tensor)


def _save(config: CifarConfig, encoder: Encoder, dataset: Dataset, run: Recorder) -> list[str]:
    """Save the encoder, with what it learned rounded to what is saved, in memory as well.

    Returns:
        Names of the tensors that float16 was asked for and cannot hold: they stay as they are.
    """
    merge(encoder.learned)
    rounded = {}
    kept_whole = []
    with torch.no_grad():
        for name, tensor in encoder.learned.state().items():
            rounded[name] = tensor
            if tensor.is_floating_point() and config.save_dtype == "float16":
                if _fits_float16(tensor):
                    rounded[name] = tensor.half()
                    tensor.copy_(rounded[name])
                else:
                    kept_whole.append(name)
    cited = f" ({dataset.origin})" if dataset.origin else ""
    licence = f"{encoder.provenance.licence}; trained here on {dataset.name}{cited}"
    facts = {"encoder": encoder.name, "dataset": dataset.name, "license": licence.removeprefix("none needed; ")}
    run.save("encoder", encoder.frozen.state() | rounded, facts)
    if encoder.learned.pools:
        run.save("pooling", encoder.learned.pooling_state(), {"pooling": encoder.pooling})
    return kept_whole


def _fits_float16(tensor: Tensor) -> bool:
    """Whether float16, whose numbers end at 65,504 and thin out below 6e-5, holds `tensor` to 11 bits of its largest.

    BatchNorm's statistics of a network that takes pixels as 0..255 are too large for it, weights of a network whose
    activations nearly vanish too small.
    """
    largest = tensor.abs().max() if tensor.numel() else tensor.new_zeros(())
    # A difference that is not a number is not small either.
    return bool(((tensor.half().to(tensor.dtype) - tensor).abs() <= 2.0**-11 * largest).all())
