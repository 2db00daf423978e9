"""The GPU utilities that both tracks share. Each has a meaning on a CPU too, so one code path is tested everywhere."""

from __future__ import annotations

import contextlib
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from stillsight.encoders.errors import EncoderError, first_line

Precision = Literal["auto", "float32", "bf16"]


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        EncoderError: the device does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(
            f"There is no device {name!r} on this machine ({first_line(error)}). Elsewhere there may be cuda, cuda:N "
            "or mps; here type --device auto or --device cpu."
        ) from error
    return device


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices) with one number."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def use_threads(count: int | None) -> None:
    """Let torch use `count` CPU threads in this process; None leaves its own choice, which is one a core."""
    if count is not None:
        if count < 1:
            raise EncoderError(f"--threads {count} computes nothing. Type a number from 1, or leave it out.")
        torch.set_num_threads(count)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute on `count` CPU threads inside, None for as many as before."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fast_math(enabled: bool = True) -> None:
    """Allow TF32 and let cuDNN choose its kernels by timing. Without it float32 on a GPU is exact, and slower."""
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    torch.backends.cudnn.allow_tf32 = enabled
    torch.backends.cudnn.benchmark = enabled


@contextlib.contextmanager
def exact_math() -> Iterator[None]:
    """Compute in full float32, and by the same kernels each time, whatever `fast_math` allows."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def has_bf16(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 in hardware; emulated bfloat16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16"))
    return False


def processor(device: torch.device) -> str:
    """What computes there, as it calls itself, with the vector instructions that torch uses of a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.cpu.get_capabilities().get('cpu_name', '')} {torch.backends.cpu.get_cpu_capability()}".strip()


def wants_bf16(device: torch.device, precision: Precision) -> bool:
    """Whether `precision` means bfloat16 here (`auto`: where the hardware has it)."""
    return precision == "bf16" or (precision == "auto" and has_bf16(device))


def computed_in(device: torch.device, precision: Precision) -> Literal["bf16", "float32"]:
    """What `precision` comes to on this device, in which convolutions and matrix products run."""
    return "bf16" if wants_bf16(device, precision) else "float32"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context in which convolutions and matrix products run in `precision`."""
    bf16 = wants_bf16(device, precision)
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()


def channels_last(module: nn.Module, device: torch.device) -> nn.Module:
    """Lay convolution weights out as NHWC, which the convolution kernels of CUDA and oneDNN prefer. In place."""
    return module if device.type == "mps" else module.to(memory_format=torch.channels_last)


@torch.inference_mode()
def encode_in_batches(
    encode: Callable[[Tensor], Tensor],
    pixels: Tensor,
    device: torch.device,
    batch: int = 256,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Encode `[N, 3, H, W]` uint8 pixels that need not fit on the device at once.

    Args:
        encode: pixels `[n, 3, H, W]` on `device` -> features `[n, ...]`.
        pixels: uint8, on any device.
        device: where to encode.
        batch: images at a time.
        progress: called with the number of images done after each batch.

    Returns:
        float32 features `[N, ...]` on the CPU.
    """
    parts: list[Tensor] = []
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch]
        if device.type == "cuda" and part.device.type == "cpu":
            part = part.pin_memory()  # the only memory from which a copy to the GPU overlaps with its work
        features = encode(part.to(device, non_blocking=True)).float()
        if parts:  # fetched only now, with the next batch under way
            parts[-1] = parts[-1].cpu()
        parts.append(features)
        if progress is not None:
            progress(min(start + batch, len(pixels)))
    parts[-1] = parts[-1].cpu()
    return torch.cat(parts)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it, so that a clock read afterwards is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def stopwatch(device: torch.device) -> Iterator[Callable[[], float]]:
    """Yield a function that gives the seconds since the start, with the device's queue drained."""
    synchronize(device)
    start = time.perf_counter()

    def read() -> float:
        synchronize(device)
        return time.perf_counter() - start

    yield read


def peak_memory(device: torch.device) -> int:
    """Largest memory so far in bytes: of this process on a CPU (resident), of torch's allocator on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def available_memory() -> int | None:
    """Memory in bytes that this machine could give to a process now, where it says so (Linux); None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
