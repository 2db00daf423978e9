"""One CIFAR run, read from top to bottom. What does not learn is computed once and cached; what learns is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stillsight.encoders.building import build
from stillsight.encoders.supervised.cifar_config import CifarConfig

if TYPE_CHECKING:
    import torch

    from stillsight.encoders.encoder import Encoder
    from stillsight.encoders.supervised.data.dataset import Dataset

__all__ = ["CifarConfig", "Recorder", "learn"]


class Recorder(Protocol):
    """What a run folder must offer; stillsight.agents.runs.folder.Run does."""

    folder: Path

    def card(self, title: str, rows: dict[str, str]) -> None: ...
    def rewind(self, last: int, counted: str) -> None: ...
    def log(self, stream: str, row: dict[str, Any]) -> None: ...
    def progress(self, what: str, done: int, total: int, **facts: object) -> None: ...
    def write_json(self, name: str, content: dict[str, Any]) -> None: ...
    def save(self, name: str, tree: dict[str, Any], metadata: dict[str, str] | None = None) -> None: ...
    def load(self, name: str, device: torch.device) -> dict[str, Any] | None: ...


def learn(config: CifarConfig, run: Recorder, cache: Path) -> dict[str, Any]:
    """Run `config` and return its summary; everything it produces goes into `run`.

    Args:
        config: what to do.
        run: the run folder.
        cache: folder for frozen features.

    Raises:
        EncoderError: see `CifarConfig.check`, `recipe.build`, `dataset.load` and `features.features`.
    """
    from stillsight.encoders import device as devices
    from stillsight.encoders.supervised.probe import probe
    from stillsight.encoders.supervised.report import report
    from stillsight.encoders.supervised.training import distributed
    from stillsight.encoders.supervised.tune import tune

    config = config.settled()
    devices.seed_everything(config.seed)
    devices.use_threads(config.threads)
    devices.fast_math()
    encoder = build(config, pinned=False)
    device = devices.pick_device(config.device)
    before = encoder.sha256()
    with distributed.in_turn():
        dataset = config.load_dataset(lambda what, done, total: run.progress(what, done, total))
    trained = _learns(config, encoder, dataset)
    run.card(f"cifar · {config.mode.value} · seed {config.seed}", _card(config, encoder, dataset, trained, device))
    way = tune if config.mode.trained else probe
    with devices.stopwatch(device) as seconds:
        results, logits = way(config, encoder, dataset, run, device, cache)
        spent = seconds()
    headline = {}
    if distributed.world().first:
        test = dataset.test
        headline = report.write(run.folder / "report", logits, test.labels, test.images, dataset.classes)
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
        "notes": list(dataset.notes),
        "encoder": encoder.name,
        "mode": config.mode.value,
        "tap": encoder.tap,
        "pooling": encoder.pooling,
        "resolution": encoder.resolution,
        "weights_source": encoder.provenance.kind,
        "weights_name": encoder.provenance.name,
        "weights_sha256": encoder.provenance.sha256,
        "weights_licence": encoder.provenance.licence,
        "encoder_sha256_before": before,
        "encoder_sha256_after": encoder.sha256(),
        "trainable_parameters": trained,
        "wall_seconds": spent,
        "peak_memory_bytes": devices.peak_memory(device),
    }
    run.write_json("summary.json", summary)
    return summary


def _learns(config: CifarConfig, encoder: Encoder, dataset: Dataset) -> int:
    """Number of parameters that this run fits."""
    from stillsight.encoders.supervised.heads.head import parameters
    from stillsight.encoders.supervised.tune import encoder_width

    head = parameters(config.head, encoder_width(encoder, dataset), len(dataset.classes))
    return head + sum(parameter.numel() for parameter in encoder.learned.parameters())


def _card(
    config: CifarConfig, encoder: Encoder, dataset: Dataset, trained: int, device: torch.device
) -> dict[str, str]:
    from stillsight.encoders.supervised.tune import encoder_width

    counts = (f"{len(getattr(dataset, part)):,} {part}" for part in ("train", "validation", "test"))
    width = encoder_width(encoder, dataset)
    rows = {
        "data": f"{dataset.name}, {', '.join(counts)} images",
        "encoder": f"{encoder.name} to {encoder.tap}, pooling {encoder.pooling}, {width:,} features",
        "weights": f"{encoder.provenance.kind}: {encoder.provenance.name} {encoder.provenance.sha256[:12]}",
        "licence": encoder.provenance.licence,
        "learns": f"{trained:,} parameters" + (f", head {config.head}" if config.head != "linear" else ""),
        "device": str(device),
    }
    return rows | ({"note": "; ".join(dataset.notes)} if dataset.notes else {})
