"""Encoders alone: every combination is an arm, all are measured in turns, and one that cannot run says why."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stillsight.agents import RlConfig
from stillsight.agents.cli import main
from stillsight.agents.measure import encoder_speed as module
from stillsight.agents.measure.encoder_speed import OUT_OF_TIME, WARM_UP, Bench, Running, SpeedArm, in_turns, speed_arms
from stillsight.agents.measure.measure_config import Tapped, ThroughputConfig
from stillsight.encoders import device as devices
from stillsight.encoders.building import build
from stillsight.encoders.zoo.registry import spec

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Clock:
    """Time that passes only where somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def encode() -> None:
            self.now += seconds

        return encode


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(devices.time, "perf_counter", fake)
    return fake


@pytest.fixture(autouse=True)
def _settings(settings_restored: None) -> None:
    pass


def arm(name: str = "retina", **changes: Any) -> SpeedArm:
    chosen: dict[str, Any] = {"tap": "layer1", "pooling": "grid2", "resolution": 16, "precision": "float32"}
    return SpeedArm(encoder=name, **{**chosen, "engine": "eager", "batch": 4, **changes})


@pytest.mark.parametrize(
    ("typed", "name", "tap"),
    [
        ("retina", "retina", None),
        ("retina:layer1", "retina", "layer1"),
        ("mobilenet_v2:features.3", "mobilenet_v2", "features.3"),
        ("my_encoders:tiny", "my_encoders:tiny", None),
        ("my_encoders:tiny:high", "my_encoders:tiny", "high"),
        (":", ":", None),
    ],
)
def test_a_colon_parts_a_name_from_its_tap_or_a_module_from_its_function(typed: str, name: str, tap: str) -> None:
    assert Tapped.parse(typed) == (name, tap)


def test_every_combination_is_an_arm_once() -> None:
    config = ThroughputConfig(
        encoders=("retina:layer1", "nature", "retina:layer1"),
        resolutions=(36, 48),
        precisions=("float32", "bf16"),
        engines=("eager", "onnx", "compiled"),
        batch=(1, 8),
    )
    arms = speed_arms(RlConfig(), config, CPU)
    assert len(arms) == 2 * 2 * 2 * (2 * 2 + 1)  # onnx computes in float32 alone
    assert {(one.encoder, one.tap, one.pooling) for one in arms} == {
        ("retina", "layer1", "global"),
        ("nature", "conv3", "flatten"),
    }
    assert str(arms[0]) == "retina:layer1 36 px float32 eager batch 1"


def test_by_default_what_is_ready_within_a_second_is_measured_as_agents_look() -> None:
    config = ThroughputConfig(encoders=("retina",))
    (name,) = config.encoders
    arms = speed_arms(RlConfig(precision="float32"), config, CPU)
    assert {(one.tap, one.pooling) for one in arms} == {spec(name).control}
    assert [(one.resolution, one.engine, one.batch) for one in arms] == [
        (side, engine, 256) for side in (84, 128, 224) for engine in ("eager", "folded")
    ]
    assert {one.engine for one in speed_arms(RlConfig(precision="bf16"), config, CUDA)} == {"eager", "folded", "graph"}
    one = speed_arms(RlConfig(precision="bf16", resolution=40, engine="onnx", pooling="global"), config, CPU)
    assert [(o.resolution, o.precision, o.engine, o.pooling) for o in one] == [(40, "float32", "onnx", "global")]


def test_the_rate_counts_images_over_the_time_asked_for(clock: Clock) -> None:
    running = Running(clock.work(0.25), 8, CPU)
    assert clock.now == 0.25 * (WARM_UP + 1), "warmed up, then timed once"
    before = clock.now
    assert running.measure(3.0) == pytest.approx(32.0)
    assert clock.now - before == pytest.approx(3.0), "as many batches as fill the time"
    running.encode = clock.work(10.0)
    assert running.measure(1.0) == pytest.approx(0.8)
    before = clock.now
    assert running.measure(1.0) == pytest.approx(0.8)
    assert clock.now - before == pytest.approx(10.0), "one batch at least"


def test_arms_are_measured_in_turns_and_one_that_breaks_says_so(clock: Clock) -> None:
    arms = [arm("a"), arm("too small"), arm("b"), arm("breaks")]
    order: list[str] = []
    kept: list[int] = []

    class Watched(Running):
        def __init__(self, name: str, seconds: float) -> None:
            self.name = name
            super().__init__(clock.work(seconds), 10, CPU, {"features": 5})

        def measure(self, seconds: float) -> float:
            order.append(self.name)
            if self.name == "breaks" and len(order) > 4:
                raise RuntimeError("CUDA error: gone\nsecond line")
            rate = super().measure(seconds)
            self.encode = clock.work(self.seconds * 2)  # the machine is half as fast in each further round
            return rate

    def prepare(one: SpeedArm) -> Running:
        if one.encoder == "too small":
            raise devices.EncoderError("too small to see.")
        return Watched(one.encoder, {"a": 0.1, "b": 0.5, "breaks": 0.5}[one.encoder])

    rows = in_turns(arms, prepare, 3, 1.0, lambda rows: kept.append(len(rows[0]["rounds"])))
    assert order == ["a", "b", "breaks", "a", "b", "breaks", "a", "b"]
    assert kept == [1, 2, 3], "what was measured is given away after every round"
    a, small, b, breaks = rows
    assert a["rounds"] == pytest.approx([100.0, 50.0, 25.0])
    assert a["images_per_s"] == {"median": a["rounds"][1], "least": a["rounds"][2], "most": a["rounds"][0], "n": 3}
    assert (a["features"], a["encoder"], a["resolution"]) == (5, "a", 16)
    assert b["images_per_s"]["median"] == pytest.approx(10.0)
    assert small["refused"] == "too small to see."
    assert "images_per_s" not in small
    assert breaks["refused"] == "RuntimeError: CUDA error: gone"
    cells, notes = module.speed_cells(rows)
    assert cells[0] == ["a", "layer1", "16", "float32", "eager", "4", "50", "25 .. 100"]
    assert cells[1][-2:] == ["-", "(1)"]
    assert notes == ["too small to see.", "RuntimeError: CUDA error: gone"]


def test_arms_for_which_there_is_no_time_are_not_begun(clock: Clock) -> None:
    arms = [arm(str(number)) for number in range(6)]

    def prepare(_: SpeedArm) -> Running:
        clock.now += 10.0
        return Running(clock.work(0.1), 1, CPU)

    rows = in_turns(arms, prepare, 2, 1.0, left=lambda: 42.0 - clock.now)
    measured = [row["encoder"] for row in rows if "images_per_s" in row]
    assert measured == ["0", "1", "2"], "a fourth one, which may take ten seconds as well, would be too late"
    assert {row["refused"] for row in rows[3:]} == {OUT_OF_TIME}
    assert clock.now < 42.0
    late = in_turns(arms[:2], lambda _: Running(clock.work(0.1), 1, CPU), 5, 1.0, left=lambda: -1.0)
    assert [row["refused"] for row in late] == [OUT_OF_TIME] * 2
    clock.now = 0.0
    cut = in_turns(arms[:1], lambda _: Running(clock.work(4.0), 1, CPU), 9, 0.1, left=lambda: 21.0 - clock.now)
    assert cut[0]["images_per_s"]["n"] == 2, "sixteen seconds to get ready, then until the time is over"


def test_what_is_timed_is_the_encoder() -> None:
    running = Bench(CPU, 3).prepare(arm(tap="layer2", precision="bf16", engine="folded", batch=5))
    eyes = build("retina", "random", tap="layer2", pooling="grid2", seed=3, precision="float32", device="cpu")
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=generator)
    expected = eyes(pixels)
    found = running.encode()
    assert isinstance(found, torch.Tensor)
    assert not found.requires_grad
    assert float((found - expected).abs().max() / expected.abs().max()) < 0.03
    assert running.facts["features"] == expected.shape[1] == 128 * 4
    counted = sum(p.numel() for name, p in eyes.state().items() if p.is_floating_point())
    assert running.facts["parameters"] == counted
    assert running.facts["chosen"] == "folded"


def test_the_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = "throughput --encoders retina:layer1 vit_b_16:embed --resolutions 16 20 --precision float32 --engines eager"
    words += " graph --batch 2 --seconds 0.001 --rounds 2 --device cpu --threads 1"
    assert main(words.split()) == 0
    table = capsys.readouterr().out
    lines = [line.split() for line in table.splitlines()]
    assert "images/s, medians of 2 rounds of 0.001 s, in turns, on cpu" in table
    assert ["vit_b_16", "embed", "20", "float32", "eager", "2", "-", "(2)"] in lines
    assert "(1) --engine graph cannot be used here: RuntimeError: CUDA graphs need a CUDA device" in table
    assert "(2) vit_b_16 cuts images into patches of 16 px, and 20 px is not a multiple of that." in table
    assert main([*words.split(), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["machine"]["command"].split()[0] == "stillsight"
    assert printed["machine"]["date"]
    assert printed["weights"] == "random, seed 0"
    assert len(printed["arms"]) == 8
    measured = [row for row in printed["arms"] if "images_per_s" in row]
    assert [(row["encoder"], row["resolution"]) for row in measured] == [
        ("retina", 16),
        ("retina", 20),
        ("vit_b_16", 16),
    ]
    assert all(row["images_per_s"]["n"] == len(row["rounds"]) == 2 for row in measured)
    assert all(math.isfinite(number) and number > 0 for row in measured for number in row["rounds"])


OWN = """
from torch import nn
from stillsight.encoders import Backbone, Preprocessing

def tiny():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.Conv2d(8, 16, 3, stride=2))
    return Backbone(model=model, stages={"low": model[0], "high": model[1]}, preprocessing=Preprocessing(), tap="high")
"""


def test_a_function_of_the_current_folder_is_measured_and_a_tap_opens_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "eyes_to_time.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = ["--resolutions", "16", "--precision", "float32", "--engine", "eager", "--batch", "2", "--seconds", "0.001"]
    assert main(["throughput", *words, "--device", "cpu", "--encoders", "retina:layer1"]) == 0
    assert str(tmp_path) not in sys.path, "what lies here takes part only where a module is named"
    capsys.readouterr()
    assert main(["throughput", *words, "--device", "cpu", "--encoders", "eyes_to_time:tiny:high", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["arms"]
    assert (row["encoder"], row["tap"], row["parameters"]) == ("eyes_to_time:tiny", "high", 224 + 1_168)


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("--encoders resnet18 --env ALE/Pong-v5", "--env has no effect beside --encoders"),
        ("--encoders resnet18 --tap layer3", "--tap has no effect beside --encoders"),
        ("--encoders resnet18 --arms cached", "--arms has no effect beside --encoders"),
        ("--encoders resnet18 --resolution 84 --resolutions 84 128", "--resolution has no effect beside --resolutions"),
        ("--encoders resnet18 --engine eager --engines folded", "--engine has no effect beside --engines"),
        ("--batch 8", "--batch has no effect on a run, whose own is --set batch_size=N. Type --encoders NAME"),
        ("--engines eager", "--engines has no effect without --encoders. Type --encoders NAME"),
        ("--encoders retina:layer9", "There is no stage named 'layer9'"),
        ("--encoders resnet81", "There is no encoder named 'resnet81'. Did you mean 'resnet18'?"),
        ("--encoders nowhere:function", "The encoder 'nowhere:function' cannot be imported"),
        ("--encoders retina --batch 0", "--batch is a number of images, from 1 to 1_000_000. Type, say: --batch 8 256"),
        ("--encoders retina --resolutions 84 0", "--resolutions are sides in pixels, from 1 to 4_096"),
        ("--encoders retina --seconds 0", "--rounds and --seconds must be above 0"),
        ("--encoders retina --engines fast", "--engines takes one of: auto, eager, folded, compiled, onnx, graph"),
    ],
)
def test_what_measures_nothing_is_a_sentence(typed: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["throughput", *typed.split()]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


GRAY = """
from torch import nn
from stillsight.encoders import Backbone, Preprocessing

def gray():
    model = nn.Conv2d(1, 8, 3, stride=4)
    return Backbone(model=model, stages={"only": model}, preprocessing=Preprocessing(), tap="only")
"""


@pytest.mark.parametrize("shown", [[], ["--json"]])
def test_a_table_without_a_number_is_no_success(
    shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gray_eyes.py").write_text(GRAY)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = "throughput --device cpu --encoders gray_eyes:gray --resolutions 32 --batch 2 --rounds 1 --seconds 0.01"
    assert main([*words.split(), *shown]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("stillsight: Nothing was measured: Images of 32 x 32 px do not get through stage only")
    assert "to have 1 channels, but got 3 channels" in told
    sys.modules.pop("gray_eyes", None)


def test_a_measurement_is_as_long_as_its_kind_needs() -> None:
    assert ThroughputConfig().length == 20.0
    assert ThroughputConfig(encoders=("retina",)).length == 1.0
    assert ThroughputConfig(encoders=("retina",), seconds=0.5).length == 0.5
