"""What computes: torch itself, GPUs, threads. A program: `python -m stillsight.agents.doctor.accelerator`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from stillsight.agents.doctor.child import tell
from stillsight.agents.doctor.outcome import Outcome
from stillsight.encoders import device as devices
from stillsight.encoders.errors import first_line

DRIVER = Path("/proc/driver/nvidia/version")
"""Tells that a machine has a GPU and its driver."""


def gpu() -> Outcome:
    """Whether there is a GPU, torch sees it, and it computes."""
    if torch.cuda.is_available():
        return _computes()
    if torch.backends.mps.is_available():
        return Outcome("gpu", "ok", "Apple's, through mps")
    if DRIVER.exists() or shutil.which("nvidia-smi"):
        why = _reason()
        if torch.version.cuda is None:
            found = f"there is one, and torch {torch.__version__} is built without CUDA"
            return Outcome("gpu", "wrong", found, "pip install --force-reinstall torch torchvision")
        return Outcome("gpu", "wrong", f"there is one, and torch cannot use it ({why})", "nvidia-smi")
    return Outcome("gpu", "ok", "none; everything runs on the CPU")


def _computes() -> Outcome:
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    try:
        for index in range(torch.cuda.device_count()):
            square = torch.ones(64, 64, device=f"cuda:{index}")
            assert (square @ square).sum().item() == 64.0**3
    except Exception as error:  # a driver too old, a chip too new, a card that is full or broken
        reason = first_line(error)
        return Outcome("gpu", "wrong", f"{', '.join(names)} does not compute ({reason})", "nvidia-smi")
    return Outcome("gpu", "ok", f"{', '.join(names)}, CUDA {torch.version.cuda}")


def _reason() -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return first_line(error)
    return "it does not say why"


def operators() -> Outcome:
    """Whether torchvision's own operators run: where it was built for another torch they are not there."""
    try:
        import torchvision

        kept = torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
        assert kept.tolist() == [0]
    except Exception as error:  # ImportError, RuntimeError, AttributeError, by how far apart the two are
        reason = first_line(error)
        found = f"torchvision does not run beside torch {torch.__version__} ({reason})"
        return Outcome("operators", "wrong", found, "pip install --upgrade torch torchvision")
    return Outcome("operators", "ok", f"those of torchvision {torchvision.__version__} run")


def processor() -> Outcome:
    """The processor and how many threads torch takes, where cores lie idle."""
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    name = devices.processor(torch.device("cpu"))
    found = f"{name}, {cores} cores for this process, {threads} threads in torch"
    limit = os.environ.get("OMP_NUM_THREADS")
    if threads < cores and limit is not None:
        return Outcome("processor", "note", f"{found}, by OMP_NUM_THREADS={limit}", "unset OMP_NUM_THREADS")
    return Outcome("processor", "ok", found)


if __name__ == "__main__":
    tell([gpu(), operators(), processor()])
