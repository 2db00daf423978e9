"""How many images a second train, beside the plain way: measured in turns, so that a busy machine is fair."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from stillsight.encoders.choice import EncoderChoice
from stillsight.encoders.mode import Mode
from stillsight.encoders.registry import EncoderError
from stillsight.encoders.supervised.plain import plain_epochs
from stillsight.encoders.supervised.recipe import Recipe

if TYPE_CHECKING:
    from stillsight.encoders.supervised.classifier import Classifier
    from stillsight.encoders.supervised.dataset import Split

Precise = Literal["float32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class CifarThroughputConfig(EncoderChoice, Recipe):
    """Measure how many images a second train, beside a plain loop with DataLoader workers and per-image transforms.

    Network, resolution, device and recipe are those of `stillsight cifar`. Images are noise of CIFAR's shape: what they
    show does not change what they cost.
    """

    mode: Mode = Mode.SCRATCH
    """finetune or scratch."""
    side: int = 32
    """Side in pixels of the images as they are stored."""
    classes: int = 10
    """Number of classes."""
    updates: int = 10
    """Updates of one measurement."""
    rounds: int = 5
    """Measurements of each arm, in turns; one more before them is thrown away."""
    workers: int | None = None
    """DataLoader processes of the plain loop. By default one a core, up to the 16 of torchvision's scripts."""
    precisions: tuple[Precise, ...] = ("float32", "bf16")
    """Precisions to measure both ways in."""

    def check(self) -> None:
        """Refuse what measures nothing.

        Raises:
            EncoderError: see `check_encoder`, `check_recipe`.
        """
        if not self.mode.trained:
            raise EncoderError(
                f"--mode {self.mode.value} trains no encoder, so there is no training to time. Type --mode scratch or "
                "--mode finetune."
            )
        if min(self.updates, self.rounds) < 1 or (self.workers or 0) < 0 or not self.precisions:
            raise EncoderError(
                "--updates and --rounds must be 1 or more, --workers 0 or more, and --precisions name one. Type, say: "
                "--updates 10 --rounds 5."
            )
        self.check_encoder(self.side)
        self.check_recipe(self.side)


def our_epochs(model: Classifier, split: Split, recipe: Recipe, seed: int) -> Iterator[float]:
    """Train epoch after epoch by `finetune.train`, yielding the images/s of each; `model` and `split` on the device."""
    from stillsight.encoders.supervised import finetune

    rates: list[float] = []
    tiny = replace(split, images=split.images[:1], labels=split.labels[:1])
    endless = replace(recipe, epochs=1_000_000)
    progress = finetune.start(model, endless, seed)
    for _ in finetune.train(model, split, tiny, endless, progress, lambda row: rates.append(row["images_per_s"])):
        yield rates[-1]


def compare(config: CifarThroughputConfig, show: Callable[[str, float], None] = lambda *_: None) -> dict[str, Any]:
    """Measure both ways in every precision, in turns, so that a busy machine is fair to all.

    Args:
        config: see `CifarThroughputConfig`.
        show: called with the arm's name and its images/s after each measurement that counts.

    Returns:
        `arms`: name -> median, least and most images/s; `ratios` of ours to plain, computed within each round; and what
        was measured: parameters, device, workers.

    Raises:
        EncoderError: the encoder cannot be built.
    """
    import torch

    from stillsight.encoders import device as devices
    from stillsight.encoders.supervised.classifier import Classifier
    from stillsight.encoders.supervised.dataset import Split

    config.check()
    devices.seed_everything(config.seed)
    devices.use_threads(config.threads)
    devices.fast_math()
    device = devices.pick_device(config.device)
    workers = min(os.cpu_count() or 1, 16) if config.workers is None else config.workers
    count = (config.updates + 1) * config.batch
    images = torch.randint(0, 256, (count, 3, config.side, config.side), dtype=torch.uint8)
    split = Split(images, torch.randint(config.classes, (count,)))
    encoder = config.build_encoder(pinned=False)
    with torch.no_grad():
        width = encoder.eval()(images[:2].to(device)).shape[1]
    model = Classifier(encoder, config.classes, width, config.dropout).to(device)
    arms: dict[str, Iterator[float]] = {}
    for precision in config.precisions:
        recipe = replace(config, precision=precision).resolved(config.mode.pretrained)
        arms[f"plain {precision}"] = plain_epochs(model, split, recipe, device, workers)
        arms[f"ours {precision}"] = our_epochs(copy.deepcopy(model), split.to(device), recipe, config.seed)
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(config.rounds + 1):
        for name, arm in arms.items():
            speed = next(arm)
            if turn:  # the first one starts workers, compiles, and lets cuDNN choose its kernels
                rates[name].append(speed)
                show(name, speed)
    return {
        "encoder": encoder.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "resolution": config.resolution or config.side,
        "batch": config.batch,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "workers": workers,
        "arms": {name: _summary(found) for name, found in rates.items()},
        "ratios": _ratios(rates, config.precisions),
    }


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "most": max(values)}


def _ratios(rates: dict[str, list[float]], precisions: tuple[Precise, ...]) -> dict[str, dict[str, float]]:
    """Ours over plain within each round, which a change of the machine's load between rounds does not touch."""
    pairs = [(f"ours {precision}", f"plain {precision}") for precision in precisions]
    if len(precisions) > 1:
        pairs.append(("ours bf16", "plain float32"))
    return {
        f"{one} / {other}": _summary([a / b for a, b in zip(rates[one], rates[other], strict=True)])
        for one, other in pairs
    }
