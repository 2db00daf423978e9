"""Encoders on a GPU: whatever runs them, and however pixels get there, the features are the network's own, in order."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stillsight.encoders import device as devices
from stillsight.encoders.building import build
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.engines.engine import AGREE, Name

SHAPE = (3, 32, 32)
NETWORKS = {"retina": "layer3", "mobilenet_v2": "features.6", "vit_b_16": "block1"}
"""Encoder -> tap: folded BatchNorm, depthwise convolutions, attention."""
ROUNDING = 1e-3
"""Largest difference, as a share of the largest value, that float32 on two devices may make: kernels that transform
their inputs (Winograd's) round by some 1e-4, and whatever is wrong is wrong by more."""
ON_CUDA = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Full float32, the same kernels each time, and no engine that was chosen before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with devices.exact_math():
        yield


def encoder(device: torch.device, name: str = "retina", precision: devices.Precision = "float32") -> Encoder:
    return build(name, "random", tap=NETWORKS[name], pooling="grid2", precision=precision, device=str(device))


def images(count: int, side: int = SHAPE[1]) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    return float((found.cpu() - expected.cpu()).abs().max() / expected.abs().max())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    ("where", "engine"),
    [
        ("cpu", "folded"),
        pytest.param("cuda", "folded", marks=ON_CUDA),
        pytest.param("cuda", "graph", marks=ON_CUDA),
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_engine_computes_what_the_cpu_computes(
    name: str, where: str, engine: Name, precision: devices.Precision
) -> None:
    reference = encoder(torch.device("cpu"), name)
    expected = {count: reference(images(count)) for count in (1, 4, 7, 9)}
    frozen = encoder(torch.device(where), name, precision).frozen
    assert frozen.prepare(SHAPE, wanted=engine, batch=4).name == engine
    for count, features in expected.items():
        found = frozen(images(count).to(where))
        assert found.device.type == where
        assert apart(found, features) < (ROUNDING if precision == "float32" else AGREE), count


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["onnx", "compiled"])
def test_engines_that_compile_compute_what_the_cpu_computes(engine: Name) -> None:
    if engine == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    eyes = encoder(torch.device("cuda"))
    before = eyes.sha256()
    assert eyes.frozen.prepare(SHAPE, wanted=engine, batch=4).name == engine
    for count in (4, 9):
        found = eyes.frozen(images(count).cuda())
        assert found.is_cuda
        assert apart(found, encoder(torch.device("cpu"))(images(count))) < ROUNDING
    assert eyes.sha256() == before
    assert {tensor.device.type for tensor in eyes.frozen.state().values()} == {"cuda"}, "an export moves a copy"


@pytest.mark.gpu
def test_a_graph_gives_each_batch_its_own_features_and_keeps_none_of_them() -> None:
    frozen = encoder(torch.device("cuda")).frozen
    frozen.prepare(SHAPE, wanted="folded")
    batches = [images(8 + turn)[:8].cuda() for turn in range(4)]
    expected = [frozen(batch) for batch in batches]
    frozen.prepare(SHAPE, wanted="graph", batch=8)
    found = [frozen(batch) for batch in batches]  # kept, as a rollout keeps them
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    assert not torch.equal(found[0], found[1])
    assert all(not mine.is_inference() for mine in found), "what learns may build a graph on them"


@pytest.mark.gpu
def test_auto_takes_the_graph_where_it_is_the_fastest_and_says_what_it_measured() -> None:
    frozen = encoder(torch.device("cuda")).frozen
    chosen = frozen.prepare(SHAPE, batch=8, forwards=10_000_000)
    assert set(chosen.seconds) == {"folded", "graph"}
    assert chosen.name == min(chosen.seconds, key=chosen.seconds.__getitem__)
    assert not chosen.dropped


def test_copies_that_nobody_waits_for_bring_every_row_in_order(device: torch.device) -> None:
    numbers = torch.arange(1_500)
    pixels = torch.zeros(len(numbers), *SHAPE, dtype=torch.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = (numbers // 256).to(torch.uint8), (numbers % 256).to(torch.uint8)
    busy = torch.zeros(1_024, 1_024, device=device)
    done: list[int] = []

    def encode(part: Tensor) -> Tensor:
        work = busy
        for _ in range(10):  # the copies are asked for long before their images are looked at
            work = work @ busy
        return part[:, 0, 0, :2].float() + work[0, 0]

    def meanwhile(count: int) -> None:
        done.append(count)
        if device.type == "cuda":  # pinned memory that was given back too early would be written over here
            torch.full((128, *SHAPE), 255, dtype=torch.uint8).pin_memory()

    for there in (pixels, pixels.to(device)):  # images that lie on the device already are not copied to it again
        done.clear()
        found = devices.encode_in_batches(encode, there, device, 128, meanwhile)
        assert found.device.type == "cpu"
        assert torch.equal(found[:, 0] * 256 + found[:, 1], numbers.float())
        assert done == [*range(128, 1_500, 128), 1_500]


@pytest.mark.parametrize(("where", "engine"), [("cpu", "folded"), pytest.param("cuda", "graph", marks=ON_CUDA)])
def test_frames_from_an_environment_are_encoded_as_the_device_encodes_them(where: str, engine: Name) -> None:
    frozen = encoder(torch.device(where)).frozen
    expected = frozen(images(300).to(where)).cpu()
    frozen.prepare(SHAPE, wanted=engine, batch=16)
    before = frozen.counter.images
    found = frozen.encode(np.ascontiguousarray(images(300).numpy()), batch=64)
    assert frozen.counter.images == before + 300
    assert found.dtype == np.float32
    assert apart(torch.from_numpy(found), expected) < ROUNDING


def test_bf16_on_the_device_stays_within_its_rounding(device: torch.device) -> None:
    expected = encoder(device)(images(16).to(device))
    found = encoder(device, precision="bf16")(images(16).to(device))
    assert 0 < apart(found, expected) < 0.03


@pytest.mark.gpu
def test_auto_means_what_the_hardware_has() -> None:
    cuda = torch.device("cuda")
    assert devices.wants_bf16(cuda, "auto") == (torch.cuda.get_device_capability()[0] >= 8)
    assert torch.cuda.get_device_name() in devices.processor(cuda)


def test_moving_an_encoder_changes_no_bit_of_it(device: torch.device) -> None:
    eyes = encoder(torch.device("cpu"))
    before = eyes.sha256()
    assert eyes.to(device).sha256() == before
    assert eyes.frozen.device.type == device.type
    eyes.frozen.prepare(SHAPE, wanted="folded")
    eyes.frozen(images(3).to(device))
    assert eyes.to("cpu").sha256() == before


@pytest.mark.gpu
def test_a_stopwatch_waits_for_what_was_asked_of_the_device() -> None:
    cuda = torch.device("cuda")
    square = torch.ones(4_096, 4_096, device=cuda)
    square @ square
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with devices.stopwatch(cuda) as read:
        began.record()
        for _ in range(20):
            square @ square
        ended.record()
        seconds = read()
    assert seconds >= began.elapsed_time(ended) / 1e3
    assert devices.peak_memory(cuda) >= 2 * 4 * 4_096**2, "the square and a product of it"


BESIDE = """
import sys, time
from pathlib import Path
import torch
from stillsight.encoders import device as devices
from stillsight.encoders.building import build

where, engine, mine, other = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
eyes = build("mobilenet_v2", "random", tap="features.6", pooling="grid2", precision="float32", device=where)
pixels = torch.load(mine.with_name("pixels.pt")).to(where)
with devices.exact_math():
    eyes.frozen.prepare((3, 32, 32), wanted=engine, batch=16)
    mine.with_suffix(".ready").touch()
    until = time.monotonic() + 60
    while not other.with_suffix(".ready").exists() and time.monotonic() < until:
        time.sleep(0.01)
    first = eyes.frozen(pixels)
    for _ in range(int(sys.argv[5])):
        assert torch.equal(eyes.frozen(pixels), first), "the same bits, whoever else computes there"
    torch.save(first.cpu(), mine)
"""


@pytest.mark.parametrize(
    ("where", "engine", "times"), [("cpu", "folded", 2), pytest.param("cuda", "graph", 500, marks=ON_CUDA)]
)
def test_two_processes_share_a_device(where: str, engine: str, times: int, tmp_path: Path) -> None:
    torch.save(images(16), tmp_path / "pixels.pt")
    files = [tmp_path / "one.pt", tmp_path / "other.pt"]
    pairs = [(files[0], files[1]), (files[1], files[0])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", BESIDE, where, engine, *map(str, pair), str(times)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for pair in pairs
    ]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    one, other = map(torch.load, files)
    assert torch.equal(one, other)
    assert apart(one, encoder(torch.device("cpu"), "mobilenet_v2")(images(16))) < ROUNDING
