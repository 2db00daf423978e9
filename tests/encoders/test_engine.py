"""Engines: whichever runs, the features are the network's own, each image is counted once, the choice is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillsight.encoders.backbone import Backbone, Preprocessing
from stillsight.encoders.building import build
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.engines import engine as engines
from stillsight.encoders.engines import engine_cache
from stillsight.encoders.engines.engine import Inference
from stillsight.encoders.errors import EncoderError

SHAPE = (3, 32, 32)


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder instead of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "stillsight" / "engines.json"


def encoder(name: str = "retina", **choices: str) -> Encoder:
    return build(name, "random", device="cpu", **{"precision": "float32", **choices})  # type: ignore[arg-type]


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("name", ["folded", "onnx", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("unfreeze", [None, "layer2"])
def test_every_engine_computes_what_the_network_computes(name: engines.Name, unfreeze: str | None) -> None:
    if name == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    frozen = build("retina", "finetune" if unfreeze else "frozen", unfreeze=unfreeze, precision="float32").frozen
    expected = {count: frozen(images(count)) for count in (1, 4, 7, 9)}
    before = frozen.counter.images
    assert frozen.prepare(SHAPE, wanted=name, batch=4).name == name
    assert frozen.counter.images == before, "what is tried at the start is no image of the run"
    for count, features in expected.items():
        torch.testing.assert_close(frozen(images(count)), features, atol=1e-4, rtol=1e-4)
    assert frozen.counter.images == before + 1 + 4 + 7 + 9


def test_bfloat16_stays_within_its_rounding() -> None:
    twin = encoder(precision="bf16")
    expected = twin.frozen(images(8))
    twin.frozen.prepare(SHAPE, wanted="folded")
    found = twin.frozen(images(8))
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max() / expected.abs().max()) < 0.03


def test_the_weights_themselves_are_never_touched() -> None:
    eyes = encoder()
    before = eyes.sha256()
    eyes.frozen.prepare(SHAPE, wanted="folded")
    eyes.frozen(images(3))
    assert eyes.sha256() == before
    assert "bn1.weight" in " ".join(eyes.state()), "under their official names, BatchNorm included"


class Record:
    """Stands for a compiled program, which takes one number of images alone."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, pixels: Tensor) -> Tensor:
        self.sizes.append(len(pixels))
        return pixels.float().mean((2, 3))


@pytest.mark.parametrize(
    ("count", "whole", "rest"),
    [(8, [8], []), (9, [8], [1]), (16, [8, 8], []), (13, [8, 8], []), (4, [8], []), (3, [], [3])],
)
def test_a_fixed_batch_is_filled_up_and_a_small_rest_goes_another_way(
    count: int, whole: list[int], rest: list[int]
) -> None:
    fixed, free = Record(), Record()
    pixels = images(count)
    features = engines.Engine("fixed", fixed, batch=8, rest=free)(pixels)
    torch.testing.assert_close(features, pixels.float().mean((2, 3)))
    assert (fixed.sizes, free.sizes) == (whole, rest)


def test_auto_times_only_what_the_work_ahead_repays(monkeypatch: pytest.MonkeyPatch, memory: Path) -> None:
    tried: list[str] = []
    original = engines._Workshop.engine

    def watch(self: engines._Workshop, name: str) -> engines.Engine | None:
        tried.append(name)
        if name in ("onnx", "compiled"):
            return engines.Engine(name, self.folded)
        return original(self, name)

    def seconds(several: Mapping[str, object], _: Tensor) -> dict[str, float]:
        return {name: {"folded": 0.01, "onnx": 0.02, "compiled": 0.004}[name] for name in several}

    monkeypatch.setattr(engines._Workshop, "engine", watch)
    monkeypatch.setattr(engines, "_seconds", seconds)
    frozen = encoder().frozen
    assert frozen.prepare(SHAPE, batch=4).name == "folded"
    assert frozen.prepare(SHAPE, batch=4, forwards=1_000).name == "folded"  # ten seconds of work
    assert tried == ["folded", "folded"]
    assert frozen.prepare(SHAPE, batch=4, forwards=3_000).name == "folded"  # thirty: ONNX Runtime is tried, and slower
    assert tried[2:] == ["folded", "onnx"]
    chosen = frozen.prepare(SHAPE, batch=4, forwards=1_000_000)
    assert tried[4:] == ["folded", "onnx", "compiled"], "what a shorter run chose does not bind a longer one"
    assert chosen.name == "compiled"
    assert str(chosen) == "compiled (folded 10.0 ms, onnx 20.0 ms, compiled 4.0 ms a batch)"
    assert list(json.loads(memory.read_text()).values()) == [{"folded": 0.01, "onnx": 0.02, "compiled": 0.004}]

    def elsewise(*_: object) -> dict[str, float]:
        raise AssertionError("a choice that was made is not made again: the run would not be the same run")

    monkeypatch.setattr(engines, "_seconds", elsewise)
    assert encoder().frozen.prepare(SHAPE, batch=4, forwards=1_000_000).name == "compiled"
    tried.clear()
    assert encoder().frozen.prepare(SHAPE, batch=4, forwards=1_000).name == "folded"
    assert tried == ["folded"], "a short run does not wait for the compiler because a long one did"
    memory.write_text("damaged")
    with pytest.raises(AssertionError, match="not be the same run"):
        encoder().frozen.prepare(SHAPE, batch=4, forwards=1_000_000)


def test_timings_are_those_of_a_network_and_of_the_images_that_it_sees(
    monkeypatch: pytest.MonkeyPatch, memory: Path
) -> None:
    monkeypatch.setattr(engines, "_seconds", lambda several, _: dict.fromkeys(several, 0.01))

    def prepared(**options: Any) -> int:
        eyes = build("retina", "random", **{"tap": "layer1", "precision": "float32", "device": "cpu"} | options)
        eyes.frozen.prepare(SHAPE, batch=4, forwards=10)
        return len(json.loads(memory.read_text()))

    assert [prepared(), prepared()] == [1, 1]
    assert [prepared(resolution=64), prepared(resolution=96), prepared(resolution=64)] == [2, 3, 3]
    assert [prepared(tap="layer2"), prepared(tap="stem,layer1"), prepared(seed=1)] == [4, 5, 5]

    def key(*layers: nn.Module) -> str:
        module = nn.Sequential(*layers)
        return engine_cache.key({"first": module}, module, torch.device("cpu"), images(4))

    # As many parameters each, and other work.
    networks = [[nn.Conv2d(3, 8, 1)], [nn.Conv2d(3, 8, 1), nn.SiLU()], [nn.Conv2d(7, 4, 1)], [nn.Linear(31, 1)]]
    assert len({key(*layers) for layers in networks}) == 4


def test_an_engine_that_failed_is_not_tried_again_by_every_run(monkeypatch: pytest.MonkeyPatch, memory: Path) -> None:
    tried: list[str] = []

    def fails(*_: object) -> engines.Run:
        tried.append("compiled")
        raise RuntimeError("no compiler")

    monkeypatch.setattr(engines._Workshop, "_compiled", fails)
    monkeypatch.setattr(engines, "WORTH", {"compiled": 0.0, "onnx": 1e9})
    first = encoder().frozen.prepare(SHAPE, batch=4, forwards=10)
    assert (first.name, first.dropped) == ("folded", {"compiled": "RuntimeError: no compiler."})
    assert [seconds["compiled"] for seconds in json.loads(memory.read_text()).values()] == [None]
    assert encoder().frozen.prepare(SHAPE, batch=4, forwards=10).name == "folded"
    assert tried == ["compiled"]


@pytest.mark.parametrize(
    "content",
    ["[1, 2]", "{", "7", '{"key": 5}', '{"key": "onnx"}', '{"key": {"folded": "fast"}}', "[" * 100_000, "\xff"],
)
def test_a_damaged_memory_costs_a_measurement_and_no_run(memory: Path, content: str) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_bytes(content.encode("latin-1"))
    assert engine_cache.recall("key") == {}
    engine_cache.remember("key", {"folded": 0.02, "onnx": math.inf})
    assert engine_cache.recall("key") == {"folded": 0.02, "onnx": math.inf}


def test_an_engine_that_is_not_to_be_had_is_a_sentence() -> None:
    with pytest.raises(EncoderError, match=r"--engine graph cannot be used here: .*CUDA.*Type --engine auto\."):
        encoder().frozen.prepare(SHAPE, wanted="graph")


class Wrong(nn.Module):
    """An inference copy that computes something else, as a broken compiler's would."""

    dtype = torch.float32

    def __init__(self, *_: object) -> None:
        super().__init__()

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float().mean((2, 3)).repeat(1, 1000)[:, :256]


def test_an_engine_that_computes_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "Inference", Wrong)
    frozen = encoder().frozen
    expected = frozen(images(2))
    with pytest.raises(EncoderError, match=r"its features differ from the network's own by \d"):
        frozen.prepare(SHAPE, wanted="folded")
    assert frozen.prepare(SHAPE).name == "eager"
    assert torch.equal(frozen(images(2)), expected)


class Off(Inference):
    """An inference copy that is off by 15%."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels) * 1.15


def test_in_bfloat16_an_engine_may_round_as_far_as_the_network_itself_does_and_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The failure it prevents: a deep network's folded copy is refused for its rounding, by luck of the images."""
    monkeypatch.setattr(engines, "AGREE", 1e-6)  # less than any rounding
    assert encoder(precision="bf16").frozen.prepare(SHAPE, wanted="folded").name == "folded"
    monkeypatch.setattr(engines, "Inference", Off)
    for precision in ("bf16", "float32"):
        with pytest.raises(EncoderError, match=r"differ from the network's own by 1[3456]"):
            encoder(precision=precision).frozen.prepare(SHAPE, wanted="folded")


def test_preparing_draws_nothing_from_the_generator_of_a_run() -> None:
    """The failure it prevents: a seed is another run where another engine is asked for."""
    frozen = encoder().frozen
    state = torch.get_rng_state()
    frozen.prepare(SHAPE, wanted="folded")
    frozen.prepare(SHAPE)
    assert torch.equal(torch.get_rng_state(), state)


class OnlyFloat32(nn.Module):
    """Gives nothing in bfloat16, as a layer may whose author thought of float32 alone."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps * 0 if maps.dtype == torch.bfloat16 else maps


def only_float32() -> Encoder:
    torch.manual_seed(0)
    stage = nn.Sequential(nn.Flatten(2), OnlyFloat32(), nn.Unflatten(2, SHAPE[1:]))
    return Encoder(
        Backbone(model=stage, stages={"only": stage}, preprocessing=Preprocessing(), tap="only"),
        precision="bf16",
        pooling="grid2",
    )


def test_what_is_less_than_a_batch_is_taken_by_nothing_that_computes_something_else() -> None:
    """The failure it prevents: the last images of a set come out of a copy that was refused as an engine."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    frozen = only_float32().frozen
    expected = frozen(images(11))
    with pytest.raises(EncoderError, match=r"differ from the network's own by 100"):
        frozen.prepare(SHAPE, wanted="folded")
    assert frozen.prepare(SHAPE, wanted="onnx", batch=8).name == "onnx"
    torch.testing.assert_close(frozen(images(11)), expected, atol=1e-4, rtol=0)


def test_it_is_told_in_what_an_engine_computes(monkeypatch: pytest.MonkeyPatch, memory: Path) -> None:  # noqa: ARG001
    """The failure it prevents: features in float32 are recorded, pinned and kept as bf16."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = encoder(precision="bf16").frozen
    assert network.computed_in == "bf16"
    monkeypatch.setattr(engines, "_seconds", lambda tried, _: {name: 1.0 - (name == "onnx") / 2 for name in tried})
    monkeypatch.setattr(engines._Workshop, "_compiled", lambda self: self.folded_copy)
    ahead = {"batch": 4, "forwards": 10**9}
    assert (network.prepare(SHAPE, **ahead).name, network.computed_in) == ("onnx", "float32")
    assert (network.prepare(SHAPE, kept=True, **ahead).name, network.computed_in) == ("folded", "bf16")
    plain = encoder(precision="float32").frozen
    assert (plain.prepare(SHAPE, kept=True, **ahead).name, plain.computed_in) == ("onnx", "float32")


class Uncopied(nn.Conv2d):
    """Its author forbids copies."""

    def __deepcopy__(self, memo: object) -> Uncopied:
        raise TypeError("there is one of me")


def test_stages_that_cannot_be_copied_run_as_they_are_and_it_is_said() -> None:
    stage = Uncopied(3, 8, 3, 4)
    frozen = Encoder(
        Backbone(model=stage, stages={"only": stage}, preprocessing=Preprocessing(), tap="only"), precision="float32"
    ).frozen
    expected = frozen(images(2))
    engine = frozen.prepare(SHAPE, batch=2, forwards=10**9)
    assert (engine.name, engine.dropped) == ("eager", {"folded": "TypeError: there is one of me."})
    assert torch.equal(frozen(images(2)), expected)
    with pytest.raises(
        EncoderError, match=r"--engine folded cannot be used here: TypeError: there is one of me\. Type"
    ):
        frozen.prepare(SHAPE, wanted="folded")


def test_moved_weights_ask_for_a_new_engine() -> None:
    eyes = encoder()
    eyes.frozen.prepare(SHAPE, wanted="folded")
    assert eyes.frozen.prepared
    eyes.to("cpu")
    assert not eyes.frozen.prepared


def test_where_nothing_is_frozen_nothing_is_prepared() -> None:
    frozen = build("retina", "scratch", device="cpu").frozen
    assert frozen.prepare(SHAPE, wanted="compiled").name == "eager"
    assert frozen(images(2)).dtype == torch.uint8
