"""Processes that train one network together, on several GPUs or machines; torchrun starts one for each."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from stillsight.encoders.errors import EncoderError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """`size` processes that train one network together, this one the `rank`-th of them from 0.

    `World()` is a process that trains alone, also where torch's process group is initialised: nothing travels.

    Attributes:
        rank: of this process in the group, 0..size-1.
        size: number of processes.
        group: torch's process group; None is the default one.
    """

    rank: int = 0
    size: int = 1
    group: torch.distributed.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and talks: the one of rank 0."""
        return self.rank == 0

    def broadcast(self, value: Value) -> Value:
        """The main process's `value` in every process; it may be a checkpoint, which only the main one reads."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        source = 0 if self.group is None else distributed.get_global_rank(self.group, 0)
        values = [value]
        distributed.broadcast_object_list(values, src=source, group=self.group, device=torch.device("cpu"))
        return values[0]

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let the main process do what is inside before the others do it: it downloads, and they find."""
        if not self.is_main:
            self.broadcast(None)
        yield
        if self.is_main:
            self.broadcast(None)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over all processes (all-reduce)."""
        if self.size == 1:
            return tensor
        from torch import distributed

        total = tensor.clone()
        distributed.all_reduce(total, group=self.group)
        return total

    def data_parallel(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model` with its gradients averaged over all processes during each backward pass; itself when alone.

        On GPUs BatchNorm layers that follow their batches see the batches of all processes (SyncBatchNorm). On CPUs
        torch has no such layer, and each process normalises by its own share; `average_buffers` brings them together.
        """
        if self.size == 1:
            return model
        from torch import nn
        from torch.nn.parallel import DistributedDataParallel

        if device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model, self.group)
        # Buffers are not broadcast at each forward pass: only BatchNorm's statistics move, and they are averaged. Newer
        # versions of torch have another name for this and warn of the old one.
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {name: False}
        return DistributedDataParallel(model, process_group=self.group, **options)

    def average_buffers(self, model: nn.Module) -> None:
        """Average BatchNorm's statistics over all processes, so that all hold one model (timm's `dist_bn="reduce"`)."""
        if self.size == 1:
            return
        from torch.nn.modules.batchnorm import _BatchNorm

        for module in model.modules():
            # Other buffers, among them weights that do not learn, are equal everywhere, and a mean would round them.
            if isinstance(module, _BatchNorm):
                for statistics in (module.running_mean, module.running_var):
                    if statistics is not None:
                        statistics.copy_(self.sum(statistics) / self.size)


def launched() -> World:
    """What torchrun's environment variables say; alone without them. Asks without importing torch."""
    return World(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def current() -> World:
    """The processes that have joined torch's default process group, see `joined`; alone before."""
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
    world = launched()
    if world.size == 1:
        yield world
        return
    import torch
    from torch import distributed

    backend = "gloo"
    if device.startswith("cuda:"):
        raise EncoderError(f"--device {device} is one GPU for {world.size} processes. Type --device cuda.")
    if device in ("auto", "cuda") and torch.cuda.is_available():
        place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= gpus:
            raise EncoderError(
                f"torchrun started more processes here than this machine has GPUs ({gpus}). Type --nproc-per-node "
                f"{gpus}, or --device cpu."
            )
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    # The others may wait for hours while the main one downloads or encodes; torchrun ends them all if one fails.
    distributed.init_process_group(backend, timeout=timedelta(days=1))
    try:
        yield world
    finally:
        distributed.destroy_process_group()
