"""One CIFAR run, read from top to bottom. What does not learn is computed once and cached; what learns is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from stillsight.encoders.choice import EncoderChoice
from stillsight.encoders.registry import EncoderError

if TYPE_CHECKING:
    import torch

    from stillsight.encoders.encoder import Encoder
    from stillsight.encoders.supervised.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class CifarConfig(EncoderChoice):
    """Train a classifier on CIFAR: a linear head on frozen features, or the encoder as well."""

    dataset: Literal["cifar10", "cifar100"] = "cifar10"
    """Which images."""
    data: Path = Path("data")
    """Folder with cifar-10-batches-py or cifar-100-python; downloaded there if missing."""
    epochs: int = 30
    """Passes over the training images, where the encoder learns."""
    batch: int = 256
    """Images an update, where the encoder learns."""
    lr: float | None = None
    """Highest learning rate; 0.2 from scratch and 0.02 from pretrained weights."""
    weight_decay: float = 5e-4
    """Weight decay of convolutions and matrices (He et al. 2016 use 1e-4, most CIFAR recipes since 5e-4)."""
    label_smoothing: float = 0.1
    """Share of each label spread over all classes (Szegedy et al. 2016)."""
    validation: int = 5000
    """Training images held out to choose with; the test images are used once, at the end."""
    save_dtype: Literal["float32", "float16"] = "float32"
    """Rounding of the saved encoder. The test accuracy is measured after it."""
    out: Path | None = None
    """The run folder; results/runs/<name> by default."""
    resume: Path | None = None
    """Continue the stopped run in this folder; every other flag is read from it."""

    @property
    def run_name(self) -> str:
        """Default name of the run folder."""
        return f"{self.dataset}-{self.encoder.replace(':', '.')}-{self.mode.value}-seed{self.seed}"

    def check(self) -> None:
        """Refuse names and combinations that cannot work, before torch is imported."""
        self.check_encoder(32)
        for flag in ("epochs", "batch", "validation"):
            if getattr(self, flag) < 1:
                raise EncoderError(f"--{flag} {getattr(self, flag)} makes no run. Type a number from 1.")


class Recorder(Protocol):
    """What a run folder must offer; stillsight.agents.runs.Run does."""

    folder: Path

    def card(self, title: str, rows: dict[str, str]) -> None: ...
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
        EncoderError: see `CifarConfig.check`, `recipe.build` and `dataset.load`.
    """
    from stillsight.encoders import device as devices
    from stillsight.encoders.supervised.dataset import load

    devices.seed_everything(config.seed)
    devices.use_threads(config.threads)
    devices.fast_math()
    encoder = config.build_encoder(pinned=False)
    device = devices.pick_device(config.device)
    before = encoder.sha256()
    dataset = load(config.dataset, config.data, config.validation)
    if config.mode.trained and config.batch > len(dataset.train):
        raise EncoderError(
            f"--batch {config.batch} is larger than the {len(dataset.train):,} training images. Type --batch 256, or "
            "hold fewer out (--validation)."
        )
    width = encoder_width(encoder, dataset)
    trained = sum(p.numel() for p in encoder.learned.parameters()) + (width + 1) * len(dataset.classes)
    run.card(
        f"cifar · {config.mode.value} · seed {config.seed}",
        {
            "data": f"{dataset.name}, {len(dataset.train):,} train, {len(dataset.validation):,} validation, "
            f"{len(dataset.test):,} test images",
            "encoder": f"{encoder.name} to {encoder.tap}, pooling {encoder.pooling}, {width:,} features",
            "weights": f"{encoder.provenance.kind}: {encoder.provenance.name} {encoder.provenance.sha256[:12]}",
            "licence": encoder.provenance.licence,
            "learns": f"{trained:,} parameters",
            "device": str(device),
        },
    )
    with devices.stopwatch(device) as seconds:
        if config.mode.trained:
            results = _train(config, encoder, dataset, width, run, device)
        else:
            results = _probe(encoder, dataset, run, device, cache)
        spent = seconds()
    summary = {
        **results,
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256(),
        "encoder": encoder.name,
        "mode": config.mode.value,
        "tap": encoder.tap,
        "pooling": encoder.pooling,
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


def encoder_width(encoder: Encoder, dataset: Dataset) -> int:
    """Number of features that one image of `dataset` becomes."""
    import torch

    with torch.no_grad(), encoder.counter.paused():
        encoder.eval()
        width: int = encoder(dataset.train.images[:2].to(encoder.device)).shape[1]
        return width


def _probe(encoder: Encoder, dataset: Dataset, run: Recorder, device: torch.device, cache: Path) -> dict[str, float]:
    """Encode every image once and fit a linear head on the features."""
    from stillsight.encoders.supervised import head as heads
    from stillsight.encoders.supervised.features import features

    found = features(encoder, dataset, cache, lambda part, done, total: run.progress(f"encode {part}", done, total))
    parts = {name: tensor.to(device) for name, tensor in found.items()}
    train = (parts["train"], dataset.train.labels.to(device))
    validation = (parts["validation"], dataset.validation.labels.to(device))
    head = heads.fit(train, validation, len(dataset.classes))
    row = {
        "train_accuracy": heads.accuracy(head(train[0]), train[1]),
        "validation_accuracy": head.validation_accuracy,
        "penalty": head.penalty,
    }
    run.log("metrics", row)
    fitted = {"mean": head.mean, "std": head.std, "weight": head.weight, "bias": head.bias}
    run.save("head", fitted)
    return row | {
        "test_accuracy": heads.accuracy(head(parts["test"]), dataset.test.labels.to(device)),
        "images_encoded": encoder.counter.images,
    }


def _train(
    config: CifarConfig, encoder: Encoder, dataset: Dataset, width: int, run: Recorder, device: torch.device
) -> dict[str, float]:
    """Train encoder and head together, save after each epoch, and test once at the end."""
    from stillsight.encoders import device as devices
    from stillsight.encoders.adapt import merge
    from stillsight.encoders.supervised import finetune

    recipe = finetune.Recipe(
        epochs=config.epochs,
        batch=config.batch,
        lr=config.lr or (0.02 if config.mode.pretrained else 0.2),
        weight_decay=config.weight_decay,
        label_smoothing=config.label_smoothing,
        warmup=0.15,
        precision=config.precision,
    )
    model = finetune.Classifier(encoder, len(dataset.classes), width).to(device)
    devices.channels_last(model, device)
    progress = finetune.start(model, recipe, config.seed)
    stored = run.load("last", device)
    if stored is not None:
        model.load_state_dict(stored["model"])
        progress.optimizer.load_state_dict(stored["optimizer"])
        progress.generator.set_state(stored["generator"].cpu())
        progress.epoch = stored["epoch"]
    last: dict[str, Any] = {}

    def report(row: dict[str, Any]) -> None:
        last.update(row)
        run.log("metrics", row)
        run.progress("epoch", row["epoch"], recipe.epochs, **{k: v for k, v in row.items() if k != "epoch"})

    splits = (dataset.train.to(device), dataset.validation.to(device))
    for epoch in finetune.train(model, *splits, recipe, progress, report):
        state = {"model": model.state_dict(), "optimizer": progress.optimizer.state_dict(), "epoch": epoch}
        run.save("last", state | {"generator": progress.generator.get_state()})
    merge(encoder.learned)
    _round(encoder, config.save_dtype)
    rounded = {name: tensor.to(_dtype(config.save_dtype, tensor)) for name, tensor in encoder.learned.state().items()}
    saved = encoder.frozen.state() | rounded
    licence = f"{encoder.provenance.licence}; trained here on {dataset.name} (Krizhevsky 2009)"
    facts = {"encoder": encoder.name, "dataset": dataset.name, "license": licence.removeprefix("none needed; ")}
    run.save("encoder", saved, facts)
    run.save("head", {"weight": model.head.weight, "bias": model.head.bias})
    return {
        "train_accuracy": last.get("train_accuracy", float("nan")),
        "validation_accuracy": finetune.evaluate(model, splits[1], recipe.precision),
        "test_accuracy": finetune.evaluate(model, dataset.test.to(device), recipe.precision),
        "epochs": progress.epoch,
    }


def _dtype(name: str, tensor: torch.Tensor) -> torch.dtype:
    import torch

    return {"float16": torch.float16, "float32": torch.float32}[name] if tensor.is_floating_point() else tensor.dtype


def _round(encoder: Encoder, name: str) -> None:
    """Round what was trained to what will be saved, so that what is tested is what is saved."""
    import torch

    with torch.no_grad():
        for tensor in encoder.learned.state().values():
            tensor.copy_(tensor.to(_dtype(name, tensor)))
