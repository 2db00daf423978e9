"""Probe: every image is encoded once by the frozen encoder, and a head is fitted to the features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillsight.encoders.building import build
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.data.split import Dataset
from stillsight.encoders.supervised.features.frozen_features import PARTS, Part, features
from stillsight.encoders.supervised.heads import kinds
from stillsight.encoders.supervised.heads.head import accuracy
from stillsight.encoders.supervised.heads.linear import LinearHead
from stillsight.encoders.supervised.recorder import Recorder


def probe(
    config: CifarConfig, encoder: Encoder, dataset: Dataset, run: Recorder, device: torch.device, cache: Path
) -> tuple[dict[str, Any], Tensor]:
    """Fit the head, save it, and return what came out and the logits of the test images, `[N, classes]`."""
    run.rewind(0, "epoch")  # a stopped run may have logged its row and not have ended
    encoded = _features(config, encoder, dataset, run, cache)
    parts = {name: tensor.to(device) for name, tensor in encoded.items()}
    labels = dataset.train.labels.repeat(1 + config.views).to(device)
    train = (parts["train"], labels)
    validation = (parts["validation"], dataset.validation.labels.to(device))
    fitted = kinds.fit(config.head, train, validation, len(dataset.classes), refit=config.refit, seed=config.seed)
    logits = fitted.head(parts["test"])
    # Each training image is its own nearest neighbour: for k-NN this number would be dear and say nothing.
    trained = {} if config.head == "knn" else {"train_accuracy": accuracy(fitted.head(train[0]), labels)}
    row = {
        **trained,
        "validation_accuracy": fitted.validation_accuracy if len(dataset.validation) else None,
        **fitted.chosen,
    }
    run.log("metrics", row)
    run.save("head", fitted.head.state(), {"head": config.head})
    facts = {
        "head": config.head,
        "refit": fitted.refit,
        "views": config.views,
        "images_encoded": encoder.counter.images,
        "images_at_hand": encoder.counter.at_hand,
        "engine": encoder.frozen.engine.name,
    }
    return row | facts, logits


def warm_start(
    config: CifarConfig,
    dataset: Dataset,
    run: Recorder,
    device: torch.device,
    cache: Path,
    *,
    refit: bool = False,
) -> tuple[LinearHead, dict[str, Any]]:
    """Fit the linear head to the features as they are before fine-tuning; return it and what it reaches.

    Unless `refit` is given, it is not fitted to the validation images, which training chooses by. Test images are not
    encoded: what training takes is told beside its epochs.
    """
    encoder = build(config.frozen(), pinned=True)
    encoded = _features(config, encoder, dataset, run, cache, ("train", "validation"))
    train = (encoded["train"].to(device), dataset.train.labels.repeat(1 + config.views).to(device))
    validation = (encoded["validation"].to(device), dataset.validation.labels.to(device))
    fitted = kinds.fit("linear", train, validation, len(dataset.classes), refit=refit)
    assert isinstance(fitted.head, LinearHead)
    facts = {
        "warm_start_validation_accuracy": fitted.validation_accuracy,
        "warm_start_penalty": fitted.chosen["penalty"],
    }
    counted = {"images_encoded": encoder.counter.images, "images_at_hand": encoder.counter.at_hand}
    return fitted.head, facts | counted


def _features(
    config: CifarConfig,
    encoder: Encoder,
    dataset: Dataset,
    run: Recorder,
    cache: Path,
    parts: Sequence[Part] = PARTS,
) -> dict[str, Tensor]:
    def progress(part: str, done: int, total: int) -> None:
        run.progress(f"encode {part}", done, total)

    return features(encoder, dataset, cache, progress, config.views, config.seed, config, parts)
