"""The trained way: encoder and head learn together, a stopped training goes on, and what is tested is what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stillsight.encoders.adapt import merge
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.data.dataset import Dataset
from stillsight.encoders.supervised.probe import warm_start
from stillsight.encoders.supervised.training import distributed, finetune

if TYPE_CHECKING:
    from stillsight.encoders.supervised.learn import Recorder


def tune(
    config: CifarConfig, encoder: Encoder, dataset: Dataset, run: Recorder, device: torch.device, cache: Path
) -> tuple[dict[str, Any], Tensor]:
    """Train, save, and return what came out and the logits of the test images, `[N, classes]`."""
    recipe = config.resolved(config.mode.pretrained)
    width = encoder_width(encoder, dataset)
    model = finetune.Classifier(encoder, len(dataset.classes), width, config.dropout).to(device)
    stored = distributed.shared(run.load("last", device))
    # A row is written before its checkpoint: the stopped run may have logged an epoch that it had not saved.
    run.rewind(0 if stored is None else int(stored["epoch"]), "epoch")
    facts: dict[str, Any] = {}
    if stored is not None:
        facts = stored.pop("facts")
    elif config.warm_start:
        head, facts = warm_start(config, dataset, run, device, cache)
        with torch.no_grad():
            for parameter, tensor in zip((model.head.weight, model.head.bias), head.folded(), strict=True):
                parameter.copy_(tensor)
    progress = finetune.start(model, recipe, config.seed)
    if stored is not None:
        progress.restore(model, stored)
    last: dict[str, Any] = {}

    def report(row: dict[str, Any]) -> None:
        last.update(row)
        run.log("metrics", row)
        run.progress("epoch", row["epoch"], recipe.epochs, **{k: v for k, v in row.items() if k != "epoch"})

    splits = (dataset.train.to(device), dataset.validation.to(device))
    for _ in finetune.train(model, *splits, recipe, progress, report):
        run.save("last", progress.state(model) | {"facts": facts})
    _save(config, encoder, dataset, run)
    run.save("head", {"weight": model.head.weight, "bias": model.head.bias}, {"head": "linear"})
    test = dataset.test.to(device)
    logits = finetune.logits(model, test.images, recipe.precision, tta=recipe.tta)
    found = {
        "validation_accuracy": finetune.evaluate(model, splits[1], recipe.precision, tta=recipe.tta),
        "epochs": progress.epoch,
        "averaged": progress.averaged_is_better,
    }
    return {key: value for key, value in last.items() if key == "train_accuracy"} | facts | found, logits


def encoder_width(encoder: Encoder, dataset: Dataset) -> int:
    """Number of features that one image of `dataset` becomes."""
    with torch.no_grad(), encoder.counter.paused():
        encoder.eval()
        width: int = encoder(dataset.train.images[:2].to(encoder.device)).shape[1]
        return width


def _save(config: CifarConfig, encoder: Encoder, dataset: Dataset, run: Recorder) -> None:
    """Save the encoder, with what it learned rounded to what is saved, in memory as well."""
    merge(encoder.learned)
    rounded = {}
    with torch.no_grad():
        for name, tensor in encoder.learned.state().items():
            small = tensor.is_floating_point() and config.save_dtype == "float16"
            rounded[name] = tensor.half() if small else tensor
            tensor.copy_(rounded[name])
    cited = f" ({dataset.origin})" if dataset.origin else ""
    licence = f"{encoder.provenance.licence}; trained here on {dataset.name}{cited}"
    facts = {"encoder": encoder.name, "dataset": dataset.name, "license": licence.removeprefix("none needed; ")}
    run.save("encoder", encoder.frozen.state() | rounded, facts)
