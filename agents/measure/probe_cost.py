"""Measure what a head on frozen features costs, beside encoding every image in every epoch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from stillsight.agents.measure.cifar_throughput_config import CifarThroughputConfig
from stillsight.agents.measure.plain_loop import plain_epochs
from stillsight.encoders.building import build
from stillsight.encoders.device import stopwatch
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.supervised.cifar_config import CifarConfig, HeadKind
from stillsight.encoders.supervised.classifier import Classifier, feature_width
from stillsight.encoders.supervised.data import dataset as datasets
from stillsight.encoders.supervised.data.split import Dataset, Split
from stillsight.encoders.supervised.probe import probe
from stillsight.encoders.supervised.recorder import NullRecorder


def arms(
    config: CifarThroughputConfig, device: torch.device, workers: int
) -> tuple[dict[str, Iterator[float]], dict[str, Classifier]]:
    """Both ways in every precision, name -> the seconds of each round; and precision -> network.

    plain: `CifarThroughputConfig.epochs` epochs, of which one is measured, since each costs the same. No image is
    augmented, and none is held out to choose with.
    first head: what `stillsight cifar --mode frozen` does with an empty cache: every image is hashed, encoded and
    written to disk, and the head is fitted, its setting chosen on a tenth of the images, and fitted again to all.
    another head: the same for the next head, which finds the features there, hashes the images and checks the rows.

    The arms of one precision share a store, so they must be asked in the order in which they are listed.

    Raises:
        EncoderError: the encoder cannot be built, or there are fewer images than were asked for.
    """
    dataset = images(config)
    both = (dataset.train, dataset.validation)
    whole = Split(torch.cat([part.images for part in both]), torch.cat([part.labels for part in both]))
    still = replace(config, crop=0, flip=False, rotation=0.0, randaugment=0, erasing=0.0, mixup=0.0, cutmix=0.0)
    heads = (config.head, *dict.fromkeys(config.others))
    rounds: dict[str, Iterator[float]] = {}
    models: dict[str, Classifier] = {}
    for precision in config.precisions:
        recipe = replace(still, precision=precision).resolved(config.mode.pretrained)
        encoder = build(recipe, pinned=True)
        models[precision] = Classifier(encoder, len(dataset.classes), feature_width(encoder, whole.images)).to(device)
        rates = plain_epochs(models[precision], whole, recipe, device, workers)
        rounds[f"plain {precision}"] = (config.epochs * len(whole) / rate for rate in rates)
        ours = our_heads(encoder, dataset, heads, device, config.seed)
        rounds |= {
            f"{'another' if number else 'first'} head {head} {precision}": ours for number, head in enumerate(heads)
        }
    return rounds, models


def our_heads(
    encoder: Encoder, dataset: Dataset, heads: Sequence[HeadKind], device: torch.device, seed: int
) -> Iterator[float]:
    """Yield the seconds of each head in turn, over and over; the first of each turn begins with an empty store."""
    while True:
        with tempfile.TemporaryDirectory(prefix="stillsight-") as name:
            folder = Path(name)
            for head in heads:
                with stopwatch(device) as seconds:
                    probe(CifarConfig(head=head, seed=seed), encoder, dataset, NullRecorder(folder), device, folder)
                    passed = seconds()
                yield passed


def images(config: CifarThroughputConfig) -> Dataset:
    """The images to encode, the last tenth of them to choose with, and none to test on.

    Raises:
        EncoderError: there are fewer images than were asked for.
    """
    validation = config.images // 10
    train = config.images - validation
    if config.data is None:
        whole = noise(config.images, config.classes, config.side, config.seed)
        names = tuple(map(str, range(config.classes)))
        return Dataset("noise", _rows(whole, 0, train), _rows(whole, train, None), _rows(whole, 0, 0), names)
    dataset = datasets.load(config.dataset, config.data, validation=validation)
    if train > len(dataset.train):
        raise EncoderError(
            f"--images {config.images} is more than {config.dataset} has. Type a number up to "
            f"{len(dataset.train) + validation}."
        )
    return replace(dataset, train=_rows(dataset.train, 0, train), test=_rows(dataset.test, 0, 0))


def noise(count: int, classes: int, side: int, seed: int) -> Split:
    """Noise that has a tint, one for each class.

    What images show does not change what encoding costs, but it does change what fitting costs: of 4,000 images through
    MobileNetV2, the linear head looked 283 times at CIFAR-10, 231 times at this, and 507 times at noise alone.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 128, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    tints = torch.randint(0, 128, (classes, 3, 1, 1), dtype=torch.uint8, generator=generator)
    return Split(pixels + tints[labels], labels)


def _rows(split: Split, first: int, end: int | None) -> Split:
    return Split(split.images[first:end], split.labels[first:end])
