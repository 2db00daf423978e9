"""What a cifar run costs beside the plain way: measured in turns, so that a busy machine is fair."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from stillsight.agents.measure.plain_loop import plain_epochs
from stillsight.encoders.building import build
from stillsight.encoders.config import EncoderConfig
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.mode import Mode
from stillsight.encoders.supervised.cifar_config import SIDE
from stillsight.encoders.supervised.training.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from stillsight.encoders.supervised.classifier import Classifier
    from stillsight.encoders.supervised.data.dataset import Split

Precise = Literal["float32", "bf16"]
Kind = Literal["linear", "mlp", "knn", "ncm"]


@dataclass(frozen=True, kw_only=True)
class CifarThroughputConfig(EncoderConfig, Recipe):
    """Measure what a cifar run costs, beside a plain loop with DataLoader workers and per-image transforms.

    In finetune and scratch: images/s of training. Network, resolution, device and recipe are those of `stillsight
    cifar`. Images are noise of CIFAR's shape: what they show does not change what they cost.

    In frozen and random: seconds of heads on features that are encoded once, beside --epochs epochs of the plain way,
    which encodes every image in every epoch. See `cost.arms` for what is inside. On both sides the program has started,
    the images are in memory and the network is built; no image is augmented.
    """

    mode: Mode = Mode.SCRATCH
    """What is trained, as in cifar: see above for what is measured."""
    side: int = SIDE
    """Side in pixels of the noise images as they are stored."""
    classes: int = 10
    """Number of classes of the noise images."""
    updates: int = 10
    """In finetune and scratch: updates of one measurement."""
    images: int = 10_000
    """In frozen and random: how many images, a tenth of them to choose the head's setting with."""
    epochs: int = 10
    """In frozen and random: epochs of the plain way. One is measured in each round, and counted so often."""
    head: Kind = "linear"
    """In frozen and random: the head that is fitted when the features have just been encoded."""
    others: tuple[Kind, ...] = ("linear", "mlp", "knn", "ncm")
    """In frozen and random: heads that are fitted after it, each to the features that are there then; the same kind
    too, as with another seed or fewer labels."""
    dataset: Literal["cifar10", "cifar100"] = "cifar10"
    """In frozen and random: what lies in --data."""
    data: Path | None = None
    """In frozen and random: folder with real images, as in cifar. Without it they are noise with a tint for each class,
    on which a head takes about as long to fit."""
    rounds: int = 5
    """Measurements of each arm, in turns; one more before them is thrown away."""
    workers: int | None = None
    """DataLoader processes of the plain loop. By default one a core, up to the 16 of torchvision's scripts."""
    precisions: tuple[Precise, ...] = ("float32", "bf16")
    """Precisions to measure both ways in."""
    json: bool = False
    """Print one JSON object instead of tables."""

    def check(self) -> None:
        """Refuse what measures nothing.

        Raises:
            EncoderError: see `check_encoder`, `check_recipe`.
        """
        if min(self.updates, self.rounds) < 1 or (self.workers or 0) < 0 or not self.precisions:
            raise EncoderError(
                "--updates and --rounds must be 1 or more, --workers 0 or more, and --precisions name one. Type, say: "
                "--updates 10 --rounds 5."
            )
        side = SIDE if self.data is not None else self.side
        self.check_encoder(side)
        self.check_recipe(side)
        fewest = max(2 * self.batch, 10)  # the plain loop's clock starts at its second batch
        if not self.mode.trained and self.images < fewest:
            raise EncoderError(
                f"--images {self.images} is too few to time. Type {fewest} or more, or a smaller --batch."
            )
        if self.mode.trained and self.data is not None:
            raise EncoderError(
                f"--mode {self.mode.value} is timed on noise, and --data is for heads on frozen features. Type --mode "
                "frozen, or drop --data."
            )


def our_epochs(model: Classifier, split: Split, recipe: Recipe, seed: int) -> Iterator[float]:
    """Train epoch after epoch by `finetune.train`, yielding the images/s of each; `model` and `split` on the device."""
    from stillsight.encoders.supervised.training import finetune

    rates: list[float] = []
    tiny = replace(split, images=split.images[:1], labels=split.labels[:1])
    endless = replace(recipe, epochs=1_000_000)
    progress = finetune.start(model, endless, seed)
    for _ in finetune.train(model, split, tiny, endless, progress, lambda row: rates.append(row["images_per_s"])):
        yield rates[-1]


def training(
    config: CifarThroughputConfig, device: torch.device, workers: int
) -> tuple[dict[str, Iterator[float]], dict[str, Classifier]]:
    """Both ways to train in every precision, name -> the images/s of each round; and precision -> network.

    Raises:
        EncoderError: the encoder cannot be built.
    """
    import torch

    from stillsight.encoders.supervised.classifier import Classifier
    from stillsight.encoders.supervised.data.dataset import Split

    count = (config.updates + 1) * config.batch
    images = torch.randint(0, 256, (count, 3, config.side, config.side), dtype=torch.uint8)
    split = Split(images, torch.randint(config.classes, (count,)))
    encoder = build(config, pinned=False)
    with torch.no_grad():
        width = encoder.eval()(images[:2].to(device)).shape[1]
    model = Classifier(encoder, config.classes, width, config.dropout).to(device)
    arms: dict[str, Iterator[float]] = {}
    for precision in config.precisions:
        recipe = replace(config, precision=precision).resolved(config.mode.pretrained)
        arms[f"plain {precision}"] = plain_epochs(model, split, recipe, device, workers)
        arms[f"ours {precision}"] = our_epochs(copy.deepcopy(model), split.to(device), recipe, config.seed)
    return arms, dict.fromkeys(config.precisions, model)


def compare(config: CifarThroughputConfig, show: Callable[[str, float], None] = lambda *_: None) -> dict[str, Any]:
    """Measure both ways in every precision, in turns, so that a busy machine is fair to all.

    Args:
        config: see `CifarThroughputConfig`.
        show: called with the arm's name and its number after each measurement that counts.

    Returns:
        `unit`: of the numbers, "images/s" of a training or "seconds" of heads on frozen features; `arms`: name ->
        median, least, most, and the number of each round; `ratios`: how many times cheaper ours is than the plain way,
        computed within each round; and what was measured: parameters that learn, device, workers, and for each
        precision the engine that encoded.

    Raises:
        EncoderError: see `training` and `cost.arms`.
    """
    import torch

    from stillsight.agents.measure import probe_cost as cost
    from stillsight.encoders import device as devices

    config.check()
    devices.seed_everything(config.seed)
    devices.use_threads(config.threads)
    devices.fast_math()
    device = devices.pick_device(config.device)
    workers = min(os.cpu_count() or 1, 16) if config.workers is None else config.workers
    arms, models = (training if config.mode.trained else cost.arms)(config, device, workers)
    found: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(config.rounds + 1):
        for name, arm in arms.items():
            number = next(arm)
            if turn:  # the first one starts workers, compiles, times engines, and lets cuDNN choose its kernels
                found[name].append(number)
                show(name, number)
    model = models[config.precisions[0]]
    return {
        "unit": "images/s" if config.mode.trained else "seconds",
        "encoder": model.encoder.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "resolution": config.resolution or (SIDE if config.data is not None else config.side),
        "batch": config.batch,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "workers": workers,
        "engines": {precision: str(each.encoder.frozen.engine) for precision, each in models.items()},
        "arms": {name: {**_summary(values), "rounds": values} for name, values in found.items()},
        "ratios": _ratios(found, config.mode.trained),
    }


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "most": max(values)}


def _ratios(found: dict[str, list[float]], rates: bool) -> dict[str, dict[str, float]]:
    """Ours beside plain within each round, which a change of the machine's load between rounds does not touch.

    Each of ours is compared with the plain way in its own precision and in float32, as torchvision's scripts are run.
    """
    ratios = {}
    for ours in found:
        for plain in dict.fromkeys((f"plain {ours.rsplit(' ', 1)[1]}", "plain float32")):
            if plain in found and not ours.startswith("plain"):
                one, other = (ours, plain) if rates else (plain, ours)
                pairs = zip(found[one], found[other], strict=True)
                ratios[f"{one} / {other}"] = _summary([a / b for a, b in pairs])
    return ratios
