"""Tune: encoder and head learn together, a stopped training goes on, and what is tested is what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillsight.encoders.adapt import merge
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.classifier import Classifier, evaluate, feature_width, logits
from stillsight.encoders.supervised.data.split import Dataset
from stillsight.encoders.supervised.probe import warm_start
from stillsight.encoders.supervised.recorder import Recorder
from stillsight.encoders.supervised.training import finetune
from stillsight.encoders.supervised.training.distributed import World


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
    recipe = config.resolved(config.mode.pretrained)
    width = feature_width(encoder, dataset.train.images)
    model = Classifier(encoder, len(dataset.classes), width, config.dropout).to(device)
    stored = world.broadcast(run.load("last", device))
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
        progress.restore(model, stored, world)
    last_row: dict[str, Any] = {}

    def report(row: dict[str, Any]) -> None:
        last_row.update(row)
        run.log("metrics", row)
        run.progress("epoch", row["epoch"], recipe.epochs, **{k: v for k, v in row.items() if k != "epoch"})

    train, validation = dataset.train.to(device), dataset.validation.to(device)
    for _ in finetune.train(model, train, validation, recipe, progress, report, world=world):
        run.save("last", progress.state(model) | {"facts": facts})
    _save(config, encoder, dataset, run)
    run.save("head", {"weight": model.head.weight, "bias": model.head.bias}, {"head": "linear"})
    test_logits = logits(model, dataset.test.to(device).images, recipe.precision, tta=recipe.tta)
    results = {
        "validation_accuracy": evaluate(model, validation, recipe.precision, tta=recipe.tta),
        "epochs": progress.epoch,
        "averaged": progress.averaged_is_better,
    }
    trained = {key: value for key, value in last_row.items() if key == "train_accuracy"}
    return trained | facts | results, test_logits


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
