"""Progress: what a training needs beyond weights to go on, to the bit, where it stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from stillsight.encoders.device import synchronize
from stillsight.encoders.supervised.training.distributed import World, current


@dataclass
class Progress:
    """Where a training stands.

    All of its chance comes from `generator`: the order of the images, their augmentation, and a seed for each update,
    from which torch's own random state (dropout, stochastic depth, mixing) is set. So one state is all that a resumed
    training needs.

    Attributes:
        epoch: finished epochs.
        optimizer: of all that learns.
        generator: on the CPU.
        average: running average of the weights, if the recipe wants one.
        update: updates made in the epoch that is under way.
        order: of its images, int64 on the CPU; None between epochs.
        loss, hits: sums over its updates, on the training device.
        averaged_is_better: whether the average did at least as well as the plain weights after the last epoch.
        best, best_epoch: highest validation accuracy, and after which epoch; 0 is the start.
        margin: by which an epoch must beat the start, where that competes.
        kept: the weights of that epoch, where training may stop early or the start competes.
        train_seconds: that training has taken, a warm start's fit included, validation and saves left out; None in a
            run that began before they were counted.
    """

    epoch: int
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    average: AveragedModel | None = None
    update: int = 0
    order: Tensor | None = None
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    hits: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    averaged_is_better: bool = False
    best: float = -1.0
    best_epoch: int = 0
    margin: float = 0.0
    kept: dict[str, Tensor] | None = None
    train_seconds: float | None = 0.0

    def begin(self, images: int, device: torch.device) -> None:
        """Begin an epoch over so many images."""
        self.order = torch.randperm(images, generator=self.generator)
        self.loss = torch.zeros((), device=device)
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.update = 0

    def end(self) -> None:
        """End the epoch that is under way."""
        self.order, self.update, self.epoch = None, 0, self.epoch + 1

    def count(self, loss: Tensor, hits: Tensor) -> None:
        """Add to the sums of the epoch: the loss of an update, or of one part of it, and how many images were right."""
        self.loss += loss
        self.hits += hits

    def count_seconds(self, since: float, device: torch.device) -> None:
        """Count what has passed since this moment, by `time.perf_counter`, as training; wait for the device first."""
        synchronize(device)
        if self.train_seconds is not None:
            self.train_seconds += time.perf_counter() - since

    def gather(self, world: World) -> None:
        """Bring the sums of all processes to the main one, which is the one that saves."""
        self.loss, self.hits = (world.sum(tensor) * world.is_main for tensor in (self.loss, self.hits))

    def keep(self, model: nn.Module) -> None:
        """Keep a copy of the weights of `model`, the best so far."""
        self.kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def state(self, model: nn.Module) -> dict[str, Any]:
        """Everything, with the weights of `model`, as nested dicts and lists of tensors and plain values."""
        return {
            "model": model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "average": None if self.average is None else self.average.state_dict(),
            "epoch": self.epoch,
            "update": self.update,
            "order": self.order,
            "loss": self.loss,
            "hits": self.hits,
            "averaged_is_better": self.averaged_is_better,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "margin": self.margin,
            "kept": self.kept,
            "train_seconds": self.train_seconds,
        }

    def restore(self, model: nn.Module, state: Mapping[str, Any], world: World | None = None) -> None:
        """Go back to `state`, and `model` with it; the recipe must be the one that the training began with.

        Args:
            model: on its device.
            state: from `state`, in every process the same.
            world: as in `finetune.train`.
        """
        model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            # Fused kernels pair values by their place in memory, so each moment must lie as its weight does.
            same = {name: value for name, value in moments.items() if value.shape == parameter.shape}
            moments |= {name: torch.empty_like(parameter).copy_(value) for name, value in same.items()}
        self.generator.set_state(state["generator"].cpu())
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        device = next(model.parameters()).device
        self.order = None if state["order"] is None else state["order"].cpu()
        is_main = (world or current()).is_main
        self.loss, self.hits = (state[name].to(device) * is_main for name in ("loss", "hits"))
        for name in ("epoch", "update", "averaged_is_better", "best", "best_epoch", "margin", "kept"):
            setattr(self, name, state[name])
        self.train_seconds = state.get("train_seconds")
