"""Heads on features beside the plain way: what is inside the clock, and what is made of the seconds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stillsight.agents.cli import main
from stillsight.agents.measure import cifar_throughput as throughput
from stillsight.agents.measure import probe_cost as cost
from stillsight.agents.measure.cifar_throughput_config import CifarThroughputConfig
from stillsight.encoders import EncoderError, Mode, build
from stillsight.encoders.supervised.data import dataset as datasets
from stillsight.encoders.supervised.data.split import Dataset

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"mode": Mode.RANDOM, "tap": "layer1", "images": 40, "batch": 8, "device": "cpu", "threads": 1}


pytestmark = pytest.mark.usefixtures("settings_restored")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each probe that is timed comes to."""
    rows: list[dict[str, Any]] = []

    def spied(*arguments: Any) -> Any:
        rows.append((found := probe(*arguments))[0])
        return found

    probe: Callable[..., Any] = cost.probe
    monkeypatch.setattr(cost, "probe", spied)
    return rows


def test_each_round_encodes_every_image_once_and_the_next_heads_encode_none(
    colours: Dataset, told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    encoder = build("retina", "random", tap="layer2", precision="float32", device="cpu")
    small = replace(colours, test=colours.test.take(torch.arange(0)))
    seconds = cost.our_heads(encoder, small, ("linear", "mlp", "ncm"), CPU, 0)
    spent = []
    for turn in (1, 2):
        spent += [next(seconds) for _ in range(3)]
        (folder,) = tmp_path.iterdir()
        (store,) = folder.iterdir()
        assert (store / "rows.f32").stat().st_size == 51 * 128 * 4, "features are on disk"
        assert [row["images_encoded"] for row in told[-3:]] == [51 * turn + 2 * seen for seen in (0, 0, 0)]
    assert [row["head"] for row in told] == ["linear", "mlp", "ncm"] * 2
    assert all(row["refit"] and row["validation_accuracy"] == 1.0 for row in told)
    assert min(spent) > 0
    seconds.close()  # type: ignore[attr-defined] # a generator
    assert not list(tmp_path.iterdir()), "and nothing is left of them"


def test_seconds_are_those_of_all_epochs_and_ratios_say_how_many_times_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([1.0, 40.0, 20.0, 1.0, 80.0, 40.0])  # images/s: float32 and bf16 ask in turns

    def plain(_: Any, split: Any, *__: Any) -> Iterator[float]:
        assert len(split) == 40, "all images, those to choose with too"
        own = [next(rates) for _ in range(3)]
        yield from own

    heads = {"float32": [9.0, 9.0, 2.0, 0.5, 4.0, 1.0], "bf16": [9.0, 9.0, 1.0, 0.5, 1.0, 0.5]}
    monkeypatch.setattr(cost, "plain_epochs", plain)
    monkeypatch.setattr(cost, "our_heads", lambda encoder, *_: iter(heads[encoder.frozen.precision]))
    config = CifarThroughputConfig(**SMALL, rounds=2, epochs=10, others=("ncm", "ncm"))
    shown: list[tuple[str, float]] = []
    found = throughput.compare(config, lambda name, number: shown.append((name, number)))
    assert {name: arm["rounds"] for name, arm in found["arms"].items()} == {
        "plain float32": [10.0, 20.0],  # 10 epochs of 40 images
        "first head linear float32": [2.0, 4.0],
        "another head ncm float32": [0.5, 1.0],
        "plain bf16": [5.0, 10.0],
        "first head linear bf16": [1.0, 1.0],
        "another head ncm bf16": [0.5, 0.5],
    }
    assert shown[:3] == [("plain float32", 10.0), ("first head linear float32", 2.0), ("another head ncm float32", 0.5)]
    assert found["arms"]["plain bf16"] == {"median": 7.5, "least": 5.0, "most": 10.0, "rounds": [5.0, 10.0]}
    assert {name: (ratio["least"], ratio["most"]) for name, ratio in found["ratios"].items()} == {
        "plain float32 / first head linear float32": (5.0, 5.0),
        "plain float32 / another head ncm float32": (20.0, 20.0),
        "plain bf16 / first head linear bf16": (5.0, 10.0),
        "plain float32 / first head linear bf16": (10.0, 20.0),
        "plain bf16 / another head ncm bf16": (10.0, 20.0),
        "plain float32 / another head ncm bf16": (20.0, 40.0),
    }
    assert (found["unit"], found["parameters"], found["resolution"]) == ("seconds", 10 * 65, 32)


def test_a_round_that_would_end_too_late_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "plain_epochs", lambda *_: iter([1.0, 40.0, 20.0, 10.0]))
    monkeypatch.setattr(cost, "our_heads", lambda *_: iter([9.0, 9.0, 2.0, 0.5, 4.0, 1.0, 5.0, 2.0]))
    config = CifarThroughputConfig(**{**SMALL, "precisions": ("float32",)}, rounds=3, others=("ncm",))
    found = throughput.compare(config, left=lambda: -1.0)
    assert {len(arm["rounds"]) for arm in found["arms"].values()} == {1}, "the first one that counts always is"
    assert found["arms"]["first head linear float32"]["rounds"] == [2.0]


def test_the_command_measures_and_gives_its_raw_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    few = {"mode": "random", "rounds": 2, "epochs": 3, "workers": 0, "precisions": "float32", "others": "knn"}
    flags = SMALL | few
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert main(["cifar-throughput", *words]) == 0
    shown = capsys.readouterr().out
    assert "3 plain epochs and heads on features, medians" in shown
    assert "plain float32 / another head knn float32" in shown
    assert "folded" in shown, "the engine that encoded"
    assert main(["cifar-throughput", *words, "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert list(found["arms"]) == ["plain float32", "first head linear float32", "another head knn float32"]
    assert all(len(arm["rounds"]) == 2 and arm["least"] > 0 for arm in found["arms"].values())
    assert (found["config"]["images"], found["engines"]) == (40, {"float32": "folded"})
    assert found["machine"]["cores"] >= 1
    assert told.err.count("first head linear float32: ") == 2, "what is shown meanwhile does not spoil the JSON"


# Images ---------------------------------------------------------------------------------------------------------------


def test_noise_has_a_tint_for_each_class() -> None:
    found = cost.images(CifarThroughputConfig(images=50, classes=5, side=24))
    assert [len(getattr(found, part)) for part in ("train", "validation", "test")] == [45, 5, 0]
    assert found.train.images.shape == (45, 3, 24, 24)
    assert found.train.labels.bincount().tolist() == [9] * 5
    means = found.train.images.float().mean((2, 3))
    within = torch.stack([means[found.train.labels == label].std(0) for label in range(5)])
    between = torch.stack([means[found.train.labels == label].mean(0) for label in range(5)]).std(0)
    assert (between > 5 * within.max()).all(), "classes can be told apart"
    assert found.sha256() == cost.images(CifarThroughputConfig(images=50, classes=5, side=24)).sha256()


def test_real_images_are_taken_where_they_lie(colours: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, folder: Path, validation: int) -> Dataset:
        asked.append((name, folder, validation))
        return replace(colours, validation=colours.validation.take(torch.arange(validation)))

    monkeypatch.setattr(datasets, "load", load)
    config = CifarThroughputConfig(**SMALL, dataset="cifar100", data=Path("here"))
    found = cost.images(config)
    assert asked == [("cifar100", Path("here"), 4)]
    assert torch.equal(found.train.images, colours.train.images)
    assert torch.equal(found.validation.labels, colours.validation.labels[:4])
    assert len(found.test) == 0
    with pytest.raises(EncoderError, match=r"^--images 50 is more than cifar100 has\. Type a number up to 41\.$"):
        cost.images(replace(config, images=50))


def test_too_few_images_to_time_are_refused() -> None:
    config = CifarThroughputConfig(mode=Mode.RANDOM, images=16, batch=8)
    config.check()
    with pytest.raises(EncoderError, match=r"^--images 15 is too few to time\. Type 16 or more, or a smaller --batch"):
        replace(config, images=15).check()
    replace(config, mode=Mode.SCRATCH, images=15).check()
