"""Measure what a cifar run costs beside the plain way, in turns, so that a busy machine is fair to both."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from rich.console import Console

from stillsight.agents.command_line.json_output import print_json
from stillsight.agents.measure import probe_cost
from stillsight.agents.measure.cifar_throughput_config import CifarThroughputConfig
from stillsight.agents.measure.plain_loop import plain_epochs
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.records import plain
from stillsight.encoders import device as devices
from stillsight.encoders.atomic import to_json
from stillsight.encoders.building import build
from stillsight.encoders.supervised.classifier import Classifier, feature_width
from stillsight.encoders.supervised.data.cifar_facts import SIDE
from stillsight.encoders.supervised.data.split import Split
from stillsight.encoders.supervised.training import finetune
from stillsight.encoders.supervised.training.recipe import Recipe


def cifar_throughput(config: CifarThroughputConfig) -> dict[str, Any]:
    """Measure a cifar run beside the plain way, print the numbers and return them, see `compare`."""
    config.check()
    display = ProgressDisplay(Console(highlight=False, stderr=config.json))

    def shown(number: float) -> str:
        return f"{number:,.0f} images/s" if config.mode.trained else f"{number:,.2f} s"

    measured = compare(config, lambda arm, number: display.console.print(f"{arm}: {shown(number)}", soft_wrap=True))
    if config.json:
        print_json(to_json(plain({"config": config, "machine": machine(), **measured}), indent=2))
        return measured
    rows = {
        name: f"{shown(arm['median'])}  ({shown(arm['least'])} .. {shown(arm['most'])})"
        for name, arm in measured["arms"].items()
    }
    ratios = {
        name: f"{ratio['median']:.2f}x  ({ratio['least']:.2f} .. {ratio['most']:.2f})"
        for name, ratio in measured["ratios"].items()
    }
    facts = {key: str(measured[key]) for key in ("encoder", "resolution", "batch", "device", "threads", "workers")}
    if config.mode.trained:
        title = "cifar training, medians"
    else:
        title = f"{config.epochs} plain epochs and heads on features, medians"
        facts |= {f"engine {precision}": engine for precision, engine in measured["engines"].items()}
    display.card(title, {**facts, **rows, **ratios})
    return measured


def our_epochs(model: Classifier, split: Split, recipe: Recipe, seed: int) -> Iterator[float]:
    """Train epoch after epoch by `finetune.train`, yielding the images/s of each; `model` and `split` on the device."""
    rates: list[float] = []
    tiny = replace(split, images=split.images[:1], labels=split.labels[:1])
    endless = replace(recipe, epochs=1_000_000)
    progress = finetune.start(model, endless, seed)
    for _ in finetune.train(model, split, tiny, endless, progress, lambda row: rates.append(row["images_per_s"])):
        yield rates[-1]


def training_arms(
    config: CifarThroughputConfig, device: torch.device, workers: int
) -> tuple[dict[str, Iterator[float]], dict[str, Classifier]]:
    """Both ways to train in every precision, name -> the images/s of each round; and precision -> network.

    Raises:
        EncoderError: the encoder cannot be built.
    """
    count = (config.updates + 1) * config.batch
    images = torch.randint(0, 256, (count, 3, config.side, config.side), dtype=torch.uint8)
    split = Split(images, torch.randint(config.classes, (count,)))
    encoder = build(config, pinned=False)
    model = Classifier(encoder, config.classes, feature_width(encoder, images), config.dropout).to(device)
    arms: dict[str, Iterator[float]] = {}
    for precision in config.precisions:
        recipe = replace(config, precision=precision).resolved(config.mode.pretrained)
        arms[f"plain {precision}"] = plain_epochs(model, split, recipe, device, workers)
        arms[f"ours {precision}"] = our_epochs(copy.deepcopy(model), split.to(device), recipe, config.seed)
    return arms, dict.fromkeys(config.precisions, model)


def compare(
    config: CifarThroughputConfig,
    show: Callable[[str, float], None] = lambda *_: None,
    left: Callable[[], float] = lambda: math.inf,
) -> dict[str, Any]:
    """Measure both ways in every precision, in turns, so that a busy machine is fair to all.

    Args:
        config: see `CifarThroughputConfig`.
        show: called with the arm's name and its number after each measurement that counts.
        left: seconds until the measurement must be done: no round is begun that would not end by then, but the first.

    Returns:
        `unit`: of the numbers, "images/s" of a training or "seconds" of heads on frozen features; `arms`: name ->
        median, least, most, and the number of each round; `ratios`: how many times cheaper ours is than the plain way,
        computed within each round; and what was measured: parameters that learn, device, workers, and for each
        precision the engine that encoded.

    Raises:
        EncoderError: see `training_arms` and `probe_cost.arms`.
    """
    config.check()
    devices.seed_everything(config.seed)
    devices.use_threads(config.threads)
    devices.fast_math()
    device = devices.pick_device(config.device)
    workers = min(os.cpu_count() or 1, 16) if config.workers is None else config.workers
    arms, models = (training_arms if config.mode.trained else probe_cost.arms)(config, device, workers)
    numbers: dict[str, list[float]] = {name: [] for name in arms}
    longest = 0.0
    for turn in range(config.rounds + 1):
        if turn > 1 and left() < longest:
            break
        began = time.perf_counter()
        for name, arm in arms.items():
            number = next(arm)
            if turn:  # the first one starts workers, compiles, times engines, and lets cuDNN choose its kernels
                numbers[name].append(number)
                show(name, number)
        longest = max(longest, time.perf_counter() - began) if turn else 0.0
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
        "arms": {name: {**_summary(values), "rounds": values} for name, values in numbers.items()},
        "ratios": _ratios(numbers, config.mode.trained),
    }


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "most": max(values)}


def _ratios(numbers: dict[str, list[float]], are_rates: bool) -> dict[str, dict[str, float]]:
    """Ours beside plain within each round, which a change of the machine's load between rounds does not touch.

    Each of ours is compared with the plain way in its own precision and in float32, as torchvision's scripts are run.
    """
    ratios = {}
    for ours in numbers:
        for baseline in dict.fromkeys((f"plain {ours.rsplit(' ', 1)[1]}", "plain float32")):
            if baseline in numbers and not ours.startswith("plain"):
                above, below = (ours, baseline) if are_rates else (baseline, ours)
                pairs = zip(numbers[above], numbers[below], strict=True)
                ratios[f"{above} / {below}"] = _summary([a / b for a, b in pairs])
    return ratios
