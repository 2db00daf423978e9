"""One CIFAR run, read from top to bottom. What does not learn is computed once and cached; what learns is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stillsight.encoders import device as devices
from stillsight.encoders.building import build
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.reference_features import REFERENCE, reference_features
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.classifier import feature_width
from stillsight.encoders.supervised.data import dataset as datasets
from stillsight.encoders.supervised.data.picture import Interpolation
from stillsight.encoders.supervised.data.split import Dataset
from stillsight.encoders.supervised.data.subset import Subset
from stillsight.encoders.supervised.heads import kinds
from stillsight.encoders.supervised.probe import probe
from stillsight.encoders.supervised.recorder import Recorder
from stillsight.encoders.supervised.report import report
from stillsight.encoders.supervised.training.distributed import World, current
from stillsight.encoders.supervised.tune import tune
from stillsight.encoders.system.allocator import reuse_freed_memory


def learn(config: CifarConfig, run: Recorder, cache: Path, world: World | None = None) -> dict[str, Any]:
    """Run `config` and return its summary; everything it produces goes into `run`.

    Args:
        config: what to do.
        run: the run folder.
        cache: folder for frozen features.
        world: the processes that make this run together; by default those that have joined.

    Raises:
        EncoderError: see `CifarConfig.check`, `building.build`, `load_dataset` and `features`.
    """
    world = current() if world is None else world
    config = config.resolve_batchnorm()
    devices.seed_everything(config.seed)
    devices.use_threads(config.threads)
    devices.fast_math()
    reuse_freed_memory()
    encoder = build(config, pinned=False)
    device = devices.pick_device(config.device)
    before = encoder.sha256()
    with world.main_process_first():
        interpolation = encoder.preprocessing.interpolation
        dataset = load_dataset(config, interpolation, lambda what, done, total: run.progress(what, done, total))
    asked, config = config.batch, config.fitting(len(dataset.train), world.size)
    width = feature_width(encoder, dataset.train.images)
    trainable = kinds.parameters(config.head, width, len(dataset.classes))
    trainable += sum(parameter.numel() for parameter in encoder.learned.parameters())
    card = _card(config, encoder, dataset, width, trainable, device)
    if config.mode.trained:
        recipe = config.resolved(config.mode.pretrained, warm=config.warm_start)
        card["rate"] = f"{recipe.lr:g} at most, {recipe.optimizer}"
    if config.batch != asked:
        card["batch"] = f"{config.batch:,}, not {asked:,}: there are no more training images"
    run.card(f"cifar · {config.mode.value} · seed {config.seed}", card)
    with devices.stopwatch(device) as seconds:
        if config.mode.trained:
            results, logits = tune(config, encoder, dataset, run, device, cache, world)
        else:
            results, logits = probe(config, encoder, dataset, run, device, cache)
        wall_seconds = seconds() + results.pop("seconds_before", 0.0)
    headline = {}
    if world.is_main:
        seen = reference_features(encoder.frozen, dataset.test.images.shape[2:], encoder.learned)
        run.save(REFERENCE, {"features": seen})
        test = dataset.test
        headline = report.write(run.place("report"), logits, test.labels, test.images, dataset.classes)
    summary = {
        **results,
        **{f"test_{name}": value for name, value in headline.items()},
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256(),
        "train_images": len(dataset.train),
        "validation_images": len(dataset.validation),
        "test_images": len(dataset.test),
        "classes": list(dataset.classes),
        "image_size": list(dataset.train.images.shape[2:]),
        "interpolation": interpolation,
        "notes": list(dataset.notes),
        "encoder": encoder.name,
        "mode": config.mode.value,
        "tap": encoder.tap,
        "pooling": encoder.pooling,
        "resolution": encoder.resolution,
        "device": device.type,
        "computed_in": encoder.computed_in(device),
        "engine": encoder.frozen.engine.name if len(encoder.frozen.steps) else None,
        "weights_source": encoder.provenance.kind,
        "weights_name": encoder.provenance.name,
        "weights_sha256": encoder.provenance.sha256,
        "weights_licence": encoder.provenance.licence,
        "encoder_sha256_before": before,
        "encoder_sha256_after": encoder.sha256(),
        "trainable_parameters": trainable,
        "wall_seconds": wall_seconds,
        "peak_memory_bytes": devices.peak_memory(device),
    }
    run.write_json("summary.json", summary)
    return summary


def load_dataset(
    config: CifarConfig, interpolation: Interpolation, progress: Callable[[str, int, int], None] | None = None
) -> Dataset:
    """Load the images of a run, and check that it can be made with them.

    Args:
        config: what to load.
        interpolation: to resize an image folder with, that of the recipe of the encoder's weights.
        progress: of an image folder, see `image_folder.read`.

    Raises:
        EncoderError: see `dataset.load` and `CifarConfig.check_images`.
    """
    dataset = datasets.load(
        config.dataset,
        config.data,
        validation=config.validation,
        subset=Subset(shots=config.shots, fraction=config.fraction, seed=config.seed),
        side=config.resolution,
        skip_broken=config.skip_broken,
        cache=config.cache,
        progress=progress,
        interpolation=interpolation,
    )
    config.check_images(len(dataset.train), len(dataset.validation), min(dataset.train.images.shape[2:]))
    return dataset


def _card(
    config: CifarConfig, encoder: Encoder, dataset: Dataset, width: int, trainable: int, device: torch.device
) -> dict[str, str]:
    """What will happen, as facts by name."""
    counts = (f"{len(getattr(dataset, part)):,} {part}" for part in ("train", "validation", "test"))
    rows = {
        "data": f"{dataset.name}, {', '.join(counts)} images",
        "encoder": f"{encoder.name} to {encoder.tap}, pooling {encoder.pooling}, {width:,} features",
        "weights": f"{encoder.provenance.kind}: {encoder.provenance.name} {encoder.provenance.sha256[:12]}",
        "licence": encoder.provenance.licence,
        **({"images": smaller} if (smaller := encoder.smaller_than_made(*dataset.train.images.shape[2:])) else {}),
        "learns": f"{trainable:,} parameters" + (f", head {config.head}" if config.head != "linear" else ""),
        "device": str(device),
    }
    return rows | ({"note": "; ".join(dataset.notes)} if dataset.notes else {})
