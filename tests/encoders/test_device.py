"""The GPU utilities mean something on a CPU too, and that meaning is tested here."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stillsight.encoders import EncoderError
from stillsight.encoders import device as devices

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def settings_restored() -> Iterator[None]:
    """What these functions switch is global to the process, and other tests must not see it."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    tf32, benchmark = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = tf32, benchmark


def test_devices_that_exist_are_taken() -> None:
    assert devices.pick_device("cpu") == CPU
    best = devices.pick_device("auto")
    assert best == devices.pick_device()
    assert torch.zeros(1, device=best).sum() == 0


@pytest.mark.parametrize("name", ["cuda:99", "banana", "", "gpu", "cpu:x"])
def test_devices_that_do_not_exist_are_one_sentence(name: str) -> None:
    with pytest.raises(EncoderError) as caught:
        devices.pick_device(name)
    message = str(caught.value)
    assert message.startswith(f"There is no device {name!r} on this machine (")
    assert message.endswith("Elsewhere there may be cuda, cuda:N or mps; here type --device auto or --device cpu.")
    assert "\n" not in message


def test_one_seed_seeds_all_three_generators() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    devices.seed_everything(3)
    first = draw()
    assert draw() != first
    devices.seed_everything(3)
    assert draw() == first
    devices.seed_everything(4)
    assert all(one != other for one, other in zip(draw(), first, strict=True))


def test_threads_are_set_and_none_leaves_them() -> None:
    devices.use_threads(2)
    assert torch.get_num_threads() == 2
    devices.use_threads(None)
    assert torch.get_num_threads() == 2
    with pytest.raises(EncoderError, match=r"--threads 0 computes nothing\. Type a number from 1"):
        devices.use_threads(0)


def test_fast_math_can_be_switched_both_ways() -> None:
    for enabled, name in ((True, "high"), (False, "highest")):
        devices.fast_math(enabled)
        assert torch.get_float32_matmul_precision() == name
        assert torch.backends.cudnn.allow_tf32 is enabled


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_in_what_was_asked_for(precision: devices.Precision, dtype: torch.dtype) -> None:
    with devices.autocast(CPU, precision):
        assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == dtype
    assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == torch.float32


def test_auto_takes_bf16_only_where_the_hardware_has_it() -> None:
    with devices.autocast(CPU, "auto"):
        found = nn.Linear(4, 4)(torch.ones(1, 4)).dtype
    assert found == (torch.bfloat16 if devices.has_bf16(CPU) else torch.float32)
    assert devices.has_bf16(torch.device("meta")) is False


def test_channels_last_changes_the_layout_and_no_value() -> None:
    layer = nn.Conv2d(3, 4, 3)
    before = layer.weight.clone()
    assert devices.channels_last(layer, CPU) is layer
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer.weight, before)


def halve(images: Tensor) -> Tensor:
    return images.to(torch.float64).flatten(1) / 2


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 30), batch=st.integers(1, 40))
def test_batches_give_what_one_pass_gives(count: int, batch: int) -> None:
    pixels = torch.arange(count * 12).remainder(256).to(torch.uint8).reshape(count, 3, 2, 2)
    done: list[int] = []
    sizes: list[int] = []

    def encode(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return halve(images)

    found = devices.encode_in_batches(encode, pixels, CPU, batch, done.append)
    assert found.dtype == torch.float32
    assert torch.equal(found, halve(pixels).float())
    assert sum(sizes) == count
    assert max(sizes) <= batch
    assert done == list(np.cumsum(sizes))
    assert not found.requires_grad


def test_encoded_features_can_be_trained_on() -> None:
    # They are made in inference mode, whose tensors refuse to enter a graph unless they are used with care.
    features = devices.encode_in_batches(halve, torch.ones(4, 3, 2, 2, dtype=torch.uint8), CPU)
    head = nn.Linear(12, 1)
    head(features - 0.0).sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.tolist() == [[2.0] * 12]


def test_the_watch_runs_forwards_and_goes_on_after_it_is_read() -> None:
    with devices.stopwatch(CPU) as seconds:
        first = seconds()
        second = seconds()
    assert 0 <= first <= second


def test_peak_memory_is_what_the_kernel_counts() -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the kernel's own count is in /proc, which only Linux has")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    assert devices.peak_memory(CPU) == pytest.approx(int(line.split()[1]) * 1024, rel=0.05)
    assert devices.peak_memory(CPU) > 50 * 2**20, "bytes: torch alone takes more than 50 MiB"


def test_available_memory_is_in_bytes_where_the_machine_says_it() -> None:
    found = devices.available_memory()
    if not Path("/proc/meminfo").exists():
        assert found is None
        return
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    assert found is not None
    assert 2**20 < found <= int(facts["MemTotal"].split()[0]) * 1024
