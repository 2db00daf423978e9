"""Training on several GPUs or machines: torchrun starts one process for each, and they share every batch."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stillsight.encoders.errors import EncoderError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """One of `size` processes that train one network together, the `rank`-th from 0."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and talks."""
        return self.rank == 0


def launched() -> World:
    """What torchrun's environment variables say; alone without them. Asks without importing torch."""
    return World(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def world() -> World:
    """The processes that have joined, see `joined`; alone before."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return World()
    return World(distributed.get_rank(), distributed.get_world_size())


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """Join the other processes for the time of a run; nothing happens without torchrun.

    Each process takes the GPU of its place on its machine, over NCCL; on CPUs they talk over gloo.

    Args:
        device: the run's `--device`.

    Raises:
        EncoderError: there is not one GPU for each process.
    """
    found = launched()
    if found.size == 1:
        yield found
        return
    import torch
    from torch import distributed

    backend = "gloo"
    if device.startswith("cuda:"):
        raise EncoderError(f"--device {device} is one GPU for {found.size} processes. Type --device cuda.")
    if device in ("auto", "cuda") and torch.cuda.is_available():
        place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= gpus:
            raise EncoderError(
                f"torchrun started more processes here than this machine has GPUs ({gpus}). Type --nproc-per-node "
                f"{gpus}, or --device cpu."
            )
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    # The others may wait for hours while the first one downloads or encodes; torchrun ends them all if one fails.
    distributed.init_process_group(backend, timeout=timedelta(days=1))
    try:
        yield found
    finally:
        distributed.destroy_process_group()


def shared(value: Value) -> Value:
    """The first process's `value` in every process; it may be a checkpoint, which only the first one reads."""
    if world().size == 1:
        return value
    import torch
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Let the first process do what is inside before the others do it: it downloads, and they find."""
    first = world().first
    if not first:
        shared(None)
    yield
    if first:
        shared(None)


def total(number: Tensor) -> Tensor:
    """The sum of `number` over all processes."""
    if world().size == 1:
        return number
    from torch import distributed

    summed = number.clone()
    distributed.all_reduce(summed)
    return summed


def together(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with its gradients averaged over all processes during each backward pass; itself when alone.

    On GPUs BatchNorm layers that follow their batches see the batches of all processes (SyncBatchNorm). On CPUs torch
    has no such layer, and each process normalises by its own share; `average_statistics` brings them together.
    """
    if world().size == 1:
        return model
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # Buffers are not broadcast at each forward pass: only BatchNorm's statistics move, and they are averaged. Newer
    # versions of torch have another name for this and warn of the old one.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    still: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
    return DistributedDataParallel(model, **still)


def average_statistics(model: nn.Module) -> None:
    """Average BatchNorm's statistics over all processes, so that all hold one model (timm's `dist_bn="reduce"`)."""
    size = world().size
    if size > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(total(buffer) / size)


class Onlooker:
    """A run folder for all processes but the first: it writes and shows nothing, and reads nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def card(self, title: str, rows: dict[str, str]) -> None:
        """Show nothing."""

    def rewind(self, last: int, counted: str) -> None:
        """Cut nothing."""

    def log(self, stream: str, row: dict[str, Any]) -> None:
        """Write nothing."""

    def progress(self, what: str, done: int, total: int, **facts: object) -> None:
        """Show nothing."""

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write nothing."""

    def save(self, name: str, tree: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
        """Write nothing."""

    def load(self, name: str, device: torch.device) -> dict[str, Any] | None:  # noqa: ARG002 - Recorder's signature
        """Nothing; what the first process read comes through `shared`."""
        return None
