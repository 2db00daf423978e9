"""Update: one step of the optimizer on one batch, which a caller of `finetune.train` may replace by its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from stillsight.encoders.device import autocast
from stillsight.encoders.supervised.training.recipe import Recipe
from stillsight.encoders.supervised.training.training_state import Progress


@dataclass(frozen=True)
class Part:
    """Some of the images of one batch, augmented, mixed and on their device.

    Attributes:
        images: `[n, 3, H, W]`, uint8, or float32 0..255 where they were mixed.
        targets: int64 `[n]`, or float32 `[n, classes]` where they were mixed.
        labels: int64 `[n]`: of the images before they were mixed, by which the training accuracy counts.
    """

    images: Tensor
    targets: Tensor
    labels: Tensor


class Update(Protocol):
    """One step of the optimizer. Differentially private training clips each image's gradient here and adds noise."""

    def __call__(
        self, network: Callable[[Tensor], Tensor], parts: Iterable[Part], progress: Progress, recipe: Recipe
    ) -> None:
        """Learn from `parts`, make one step with `progress.optimizer`, clear its gradients, and `progress.count`.

        Args:
            network: pixels `[n, 3, H, W]` -> logits `[n, classes]`: the model that is trained, compiled if the recipe
                says so. In a world of several processes it is torch's DistributedDataParallel around the model, whose
                backward pass averages gradients over them.
            parts: this process's share of the batch, in `Recipe.accumulate` parts of one size. Each is made when it is
                asked for, so that only one has to fit into memory; take them one after the other and once.
            progress: its `optimizer` has what learns; `count` takes the mean loss of the share, in as many summands as
                there are parts, and the number of right images.
            recipe: resolved.
        """


def gradient_step(
    network: Callable[[Tensor], Tensor], parts: Iterable[Part], progress: Progress, recipe: Recipe
) -> None:
    """Add up the gradients of the cross entropy over `parts`, clip them and step, see `Update`."""
    # DistributedDataParallel alone has no_sync: gradients travel with the last part; before it they are only added up.
    no_sync = getattr(network, "no_sync", contextlib.nullcontext)
    for number, part in enumerate(parts, 1):
        with contextlib.nullcontext() if number == recipe.accumulate else no_sync():
            with autocast(part.images.device, recipe.precision):
                logits = network(part.images).float()
            loss = F.cross_entropy(logits, part.targets, label_smoothing=recipe.label_smoothing) / recipe.accumulate
            loss.backward()
        progress.count(loss.detach(), (logits.argmax(1) == part.labels).sum())
    if recipe.clip:
        learning = [parameter for group in progress.optimizer.param_groups for parameter in group["params"]]
        clip_grad_norm_(learning, recipe.clip)
    progress.optimizer.step()
    progress.optimizer.zero_grad()
