"""A caller's own update takes the place of ours, and all that is not its business stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stillsight.encoders import fingerprint
from stillsight.encoders.supervised.classifier import Classifier
from stillsight.encoders.supervised.data.split import Dataset
from stillsight.encoders.supervised.training import finetune
from stillsight.encoders.supervised.training.recipe import Recipe
from stillsight.encoders.supervised.training.training_state import Progress
from stillsight.encoders.supervised.training.update import Part, Update, gradient_step

Network = Callable[[Tensor], Tensor]
CLOCKS = ("images_per_s", "train_seconds")
"""What a clock measured in a row."""

PLAN: dict[str, Any] = {
    "epochs": 2, "batch": 12, "lr": 0.1, "ema": 0.9, "mixup": 0.4, "erasing": 0.5, "precision": "float32",
}  # fmt: skip


def trained(
    program: Any, data: Dataset, plan: Recipe, update: Update = gradient_step, batchnorm: str = "frozen"
) -> tuple[Classifier, list[dict[str, Any]]]:
    """A small network trained by `update`, and the rows that were reported."""
    model = program.classifier(batchnorm, plan.dropout)
    rows: list[dict[str, Any]] = []
    progress = finetune.start(model, plan, 0)
    for _ in finetune.train(model, data.train, data.validation, plan, progress, rows.append, update=update):
        pass
    return model, [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_update_that_calls_ours_makes_the_same_training(program: Any, colours: Dataset, accumulate: int) -> None:
    plan = Recipe(**PLAN, accumulate=accumulate, dropout=0.3)
    seen: list[tuple[int, bool]] = []

    def watched(parts: Iterable[Part]) -> Iterable[Part]:
        for part in parts:
            seen.append((len(part.images), part.targets.is_floating_point()))
            yield part

    def counting(network: Network, parts: Iterable[Part], progress: Progress, recipe: Recipe) -> None:
        assert recipe.weight_decay is not None, "resolved"
        gradient_step(network, watched(parts), progress, recipe)

    ours, rows = trained(program, colours, plan, batchnorm="train")
    theirs, their_rows = trained(program, colours, plan, counting, batchnorm="train")
    assert seen == [(12 // accumulate, True)] * 6 * accumulate, "three updates in each of two epochs, mixed"
    assert fingerprint(theirs.state_dict()) == fingerprint(ours.state_dict())
    assert their_rows == rows


@pytest.mark.parametrize(("clip", "bounded"), [(0.05, True), (0.0, False), (None, False)])
def test_a_gradient_is_clipped_to_its_norm(program: Any, colours: Dataset, clip: float | None, bounded: bool) -> None:
    norms: list[float] = []
    plan = Recipe(**PLAN, clip=clip, accumulate=2)
    model = program.classifier("frozen", 0.0)
    progress = finetune.start(model, plan, 0)

    def look(*_: object) -> None:
        gradients = [p.grad.norm() for group in progress.optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.stack(gradients).norm()))

    progress.optimizer.register_step_pre_hook(look)
    for _ in finetune.train(model, colours.train, colours.validation, plan, progress, lambda _: None):
        pass
    assert len(norms) == 6
    assert [norm == pytest.approx(0.05, abs=1e-6) for norm in norms] == [bounded] * 6
    assert min(norms) > 0.01


class Clipping:
    """The update of DP-SGD (Abadi et al. 2016, algorithm 1) less its noise: each image's gradient is clipped."""

    def __init__(self, model_norm: float) -> None:
        self.most = model_norm
        self.norms: list[float] = []

    def __call__(self, network: Network, parts: Iterable[Part], progress: Progress, recipe: Recipe) -> None:
        parameters = [p for group in progress.optimizer.param_groups for p in group["params"]]
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for part in parts:
            losses, hits = torch.zeros(()), 0
            for image, target, label in zip(part.images, part.targets, part.labels, strict=True):
                logits = network(image[None])
                loss = F.cross_entropy(logits, target[None], label_smoothing=recipe.label_smoothing)
                gradients = torch.autograd.grad(loss, parameters)
                norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
                for total, gradient in zip(sums, gradients, strict=True):
                    total += gradient * min(1.0, self.most / float(norm)) / recipe.batch
                losses += loss.detach() / recipe.batch
                hits += int(logits.argmax(1) == label)
            progress.count(losses, torch.tensor(hits))
        for parameter, total in zip(parameters, sums, strict=True):
            parameter.grad = total
        self.norms.append(float(torch.stack([total.norm() for total in sums]).norm()))
        progress.optimizer.step()
        progress.optimizer.zero_grad()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_of_single_images_that_are_not_clipped_make_our_update(
    program: Any, colours: Dataset, accumulate: int
) -> None:
    plan = Recipe(**PLAN, accumulate=accumulate)
    ours, rows = trained(program, colours, plan)
    theirs, their_rows = trained(program, colours, plan, Clipping(1e9))
    for name, tensor in ours.state_dict().items():
        assert torch.allclose(tensor, theirs.state_dict()[name], atol=1e-5), name
    for row, other in zip(rows, their_rows, strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    untrained = program.classifier("frozen", 0.0).state_dict()
    assert max(float((untrained[name] - tensor).abs().max()) for name, tensor in ours.state_dict().items()) > 0.01


def test_clipped_gradients_of_single_images_bound_each_update(program: Any, colours: Dataset) -> None:
    free, clipped = Clipping(1e9), Clipping(0.05)
    trained(program, colours, Recipe(**PLAN), free)
    model, rows = trained(program, colours, Recipe(**PLAN), clipped)
    assert min(free.norms) > 0.05
    assert max(clipped.norms) <= 0.05 + 1e-6
    assert len(clipped.norms) == 6
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
