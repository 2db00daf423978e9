"""Training: rates, averages, parts and layouts do what they say, and a killed run ends on the same bits."""

from __future__ import annotations

import copy
import math
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders import Backbone, Encoder, EncoderError, Preprocessing, fingerprint
from stillsight.encoders.adapt import Adaptation
from stillsight.encoders.supervised.classifier import Classifier, evaluate, logits
from stillsight.encoders.supervised.data.split import Dataset
from stillsight.encoders.supervised.training import finetune
from stillsight.encoders.supervised.training.average import averaged
from stillsight.encoders.supervised.training.distributed import World
from stillsight.encoders.supervised.training.layout import channels_last, lay_out
from stillsight.encoders.supervised.training.optimizer import course, optimizer, schedule
from stillsight.encoders.supervised.training.recipe import Recipe
from stillsight.encoders.supervised.training.training_state import Progress
from stillsight.encoders.supervised.training.update import gradient_step
from stillsight.encoders.zoo.registry import make_backbone

CPU = torch.device("cpu")
PROGRAM = Path(__file__).with_name("train_once.py")

CLOCKS = ("images_per_s", "train_seconds")
"""What a clock measured in a row."""

EVERYTHING: dict[str, Any] = {
    "optimizer": "adamw", "encoder_lr": 0.5, "layer_decay": 0.7, "dropout": 0.3, "ema": 0.9, "patience": 9,
    "accumulate": 2, "rotation": 10.0, "randaugment": 5, "erasing": 0.5, "mixup": 0.4, "cutmix": 1.0, "tta": True,
    "channels_last": True,
}  # fmt: skip
"""Every flag that chance or state hangs on."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are rounded by the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny() -> Backbone:
    """Two stages: small enough to train many times."""
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU())
    body = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU())
    model = nn.Sequential(stem, body)
    scale = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return Backbone(model=model, stages={"stem": stem, "body": body}, preprocessing=scale, tap="body")


def classifier(batchnorm: Any = "train", dropout: float = 0.0, seed: int = 0, unfreeze: str = "all") -> Classifier:
    torch.manual_seed(seed)
    adaptation = Adaptation(batchnorm=batchnorm)
    encoder = Encoder(tiny(), unfreeze=unfreeze, pinned=False, adaptation=adaptation, precision="float32")
    return Classifier(encoder, 3, 16, dropout)


def recipe(**changes: Any) -> Recipe:
    defaults: dict[str, Any] = {
        "epochs": 2, "batch": 12, "lr": 0.1, "weight_decay": 5e-4, "label_smoothing": 0.1, "warmup": 0.15,
        "precision": "float32",
    }  # fmt: skip
    return Recipe(**(defaults | changes))


def trained(model: Classifier, data: Dataset, plan: Recipe, seed: int = 0) -> tuple[Progress, list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    progress = finetune.start(model, plan, seed)
    for _ in finetune.train(model, data.train, data.validation, plan, progress, rows.append):
        pass
    return progress, rows


def mark(model: nn.Module) -> str:
    return fingerprint(model.state_dict())


# Rates and groups -----------------------------------------------------------------------------------------------------


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine() -> None:
    share = course(recipe(warmup=0.2), 10)
    cosine = [0.5 * (1 + math.cos(math.pi * place / 8)) for place in range(8)]
    assert [share(made) for made in range(10)] == pytest.approx([1 / 3, 2 / 3, *cosine], abs=1e-12)
    assert course(recipe(warmup=0.0), 10)(0) == 1.0


@settings(deadline=None)
@given(updates=st.integers(1, 200), warmup=st.floats(0, 0.999))
def test_the_rate_has_one_summit_and_no_update_is_made_without_one(updates: int, warmup: float) -> None:
    rates = [course(recipe(warmup=warmup), updates)(made) for made in range(updates)]
    summit = rates.index(max(rates))
    assert rates[summit] == 1.0
    assert rates[: summit + 1] == sorted(rates[: summit + 1])
    assert rates[summit:] == sorted(rates[summit:], reverse=True)
    assert min(rates) > 0


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_training_of_one_update_moves_every_weight(colours: Dataset, kind: Any) -> None:
    model = classifier()
    before = copy.deepcopy(model)
    _, rows = trained(model, colours, recipe(epochs=1, batch=36, optimizer=kind))
    assert rows[0]["lr"] == 0.1, "that of the one update"
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True)]
    assert all(moved)
    assert len(moved) == 10


def test_the_first_of_many_updates_moves_the_weights_already(colours: Dataset) -> None:
    model = classifier()
    marks = [mark(model.head)]

    def watched(*given: Any) -> None:
        gradient_step(*given)
        marks.append(mark(model.head))

    plan = recipe(epochs=4, warmup=0.5)
    for _ in finetune.train(
        model, colours.train, colours.validation, plan, finetune.start(model, plan, 0), lambda _: None, update=watched
    ):
        pass
    assert len(marks) == len(set(marks)) == 13, "twelve updates, none of which was wasted"


def test_a_save_of_another_course_is_one_sentence(colours: Dataset) -> None:
    model = classifier()
    progress, _ = trained(model, colours, recipe(epochs=1))
    state = progress.state(model)
    for group in state["optimizer"]["param_groups"]:
        del group["initial_lr"]
    again = finetune.start(model, recipe(), 0)
    again.restore(model, state)
    with pytest.raises(
        EncoderError, match=r"^The stopped training was saved by an older version .* \(--out FOLDER\)\.$"
    ):
        next(finetune.train(model, colours.train, colours.validation, recipe(), again, lambda _: None))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_only_matrices_and_convolutions_decay(kind: Any) -> None:
    model = Classifier(Encoder(make_backbone("retina"), unfreeze="layer3", precision="float32"), 3, 256)
    made = finetune.start(model, recipe(optimizer=kind, weight_decay=0.25), seed=0).optimizer
    assert isinstance(made, {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[kind])
    decayed, plain = made.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.25, 0.0)
    assert all(p.dim() > 1 for p in decayed["params"])
    assert all(p.dim() == 1 for p in plain["params"])
    given = {id(p) for group in (decayed, plain) for p in group["params"]}
    learnable = [*model.encoder.learned.parameters(), *model.head.parameters()]
    assert given == {id(p) for p in learnable}, "the frozen part is no business of the optimizer"


def test_rates_fall_from_stage_to_stage_away_from_the_head() -> None:
    model = Classifier(Encoder(make_backbone("retina"), unfreeze="layer1", precision="float32"), 3, 256)
    made = optimizer(model, recipe(encoder_lr=0.1, layer_decay=0.5, lr=2.0))
    schedule(made, recipe(warmup=0.0), updates=9, made=0)
    found = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    rates = {
        name: {found[id(p)] for p in step.parameters()}
        for name, step in zip(model.encoder.learned.names, model.encoder.learned.steps, strict=True)
    }
    # The stem lies before the cut and does not learn; pooling has no weights and is not counted.
    assert rates == {"layer1": {0.05}, "layer2": {0.1}, "layer3": {0.2}, "pooling": set()}
    assert {found[id(p)] for p in model.head.parameters()} == {2.0}


@pytest.mark.usefixtures("double_precision")
def test_the_first_update_is_the_one_that_the_recipe_describes(colours: Dataset) -> None:
    plan = recipe(epochs=1, batch=36, warmup=0.0, crop=0, flip=False)
    model = classifier(batchnorm="frozen")
    reference = copy.deepcopy(model)
    _, rows = trained(model, colours, plan)
    reference.train()
    loss = F.cross_entropy(reference(colours.train.images), colours.train.labels, label_smoothing=0.1)
    loss.backward()
    assert rows[0]["loss"] == pytest.approx(loss.item(), abs=1e-12)
    for before, after in zip(reference.parameters(), model.parameters(), strict=True):
        assert before.grad is not None
        decay = 5e-4 * before if before.dim() > 1 else 0
        # Nesterov's first step: the gradient and 0.9 of it again.
        expected = before - 0.1 * 1.9 * (before.grad + decay)
        assert torch.allclose(after, expected, rtol=0, atol=1e-12)


# Parts, averages, stopping --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double_precision")
def test_a_batch_in_parts_makes_the_same_update(colours: Dataset) -> None:
    ends = []
    for parts in (1, 3):
        model = classifier(batchnorm="frozen")
        _, rows = trained(model, colours, recipe(accumulate=parts, randaugment=9, erasing=0.5, epochs=3))
        ends.append((model, rows))
    (one, rows_one), (three, rows_three) = ends
    for a, b in zip(one.parameters(), three.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
    assert [row["train_accuracy"] for row in rows_one] == [row["train_accuracy"] for row in rows_three]
    assert [row["loss"] for row in rows_one] == pytest.approx([row["loss"] for row in rows_three], abs=1e-12)


def test_the_average_is_the_one_of_its_formula() -> None:
    model = classifier()
    average = averaged(model, 0.8)
    expected: dict[str, Tensor] = {}
    for made in range(40):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor += torch.ones_like(tensor) * made
        average.update_parameters(model)
        decay = min(0.8, (1 + made) / (10 + made))
        for name, now in model.state_dict().items():
            if not made or not now.is_floating_point():
                expected[name] = now.clone()
            else:
                expected[name] = decay * expected[name] + (1 - decay) * now
    found = average.module.state_dict()
    assert all(torch.allclose(found[name].double(), tensor.double(), rtol=1e-5) for name, tensor in expected.items())
    assert any(not tensor.is_floating_point() for tensor in found.values()), "BatchNorm's counter is among them"


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> list[str]:
    """Let validation say `scores`, in turn; returns the fingerprints of the models that it was asked about."""
    asked: list[str] = []
    left = iter(scores)

    def score(model: nn.Module, *_: object) -> float:
        asked.append(mark(model))
        return next(left)

    monkeypatch.setattr(finetune, "_accuracy", score)
    return asked


@pytest.mark.parametrize(("scores", "wanted"), [((0.5, 0.5), 1), ((0.5, 0.6), 1), ((0.6, 0.5), 0)])
def test_the_run_ends_with_the_average_where_it_does_at_least_as_well(
    colours: Dataset, monkeypatch: pytest.MonkeyPatch, scores: tuple[float, float], wanted: int
) -> None:
    asked = scripted(monkeypatch, list(scores))
    model = classifier()
    progress, rows = trained(model, colours, recipe(epochs=1, ema=0.5))
    assert asked[0] != asked[1]
    assert mark(model) == asked[wanted]
    assert progress.averaged_is_better == bool(wanted)
    assert (rows[0]["validation_accuracy"], rows[0]["averaged_validation_accuracy"]) == scores


def test_training_stops_early_and_goes_back_to_the_best_epoch(
    colours: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scripted(monkeypatch, [0.5, 0.7, 0.6, 0.7, 0.9])
    model = classifier()
    progress, rows = trained(model, colours, recipe(epochs=9, patience=2))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4], "0.7 again is no better"
    assert mark(model) == asked[1]
    assert (progress.best, progress.best_epoch) == (0.7, 2)


def test_without_patience_training_goes_on_and_keeps_no_copy(colours: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scripted(monkeypatch, [0.5, 0.4, 0.3, 0.2])
    model = classifier()
    progress, rows = trained(model, colours, recipe(epochs=4))
    assert len(rows) == 4
    assert mark(model) == asked[3]
    assert progress.kept is None


@pytest.mark.parametrize(
    ("scores", "kept"),
    [([0.7, 0.5, 0.93, 0.6], 0), ([0.7, 0.5, 0.94, 0.6], 2), ([0.7, 0.94, 0.95, 0.6], 2), ([0.7, 0.94, 0.94, 0.6], 2)],
)
def test_a_start_that_competes_is_replaced_by_what_is_better_alone(
    colours: Dataset, monkeypatch: pytest.MonkeyPatch, scores: list[float], kept: int
) -> None:
    asked = scripted(monkeypatch, scores)
    model, plan = classifier(), recipe(epochs=3)
    progress = finetune.start(model, plan, 0)
    finetune.keep_start(model, colours.validation, plan, progress, World())
    for _ in finetune.train(model, colours.train, colours.validation, plan, progress, lambda _: None):
        pass
    assert progress.epoch == 3
    assert mark(model) == asked[kept] != asked[3]
    assert (progress.best, progress.best_epoch) == (scores[kept], kept)
    assert progress.margin == pytest.approx(0.2366, abs=1e-4), "two standard errors of 70 % of 15 images"


def test_the_best_weights_may_be_an_average(colours: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scripted(monkeypatch, [0.5, 0.8, 0.6, 0.7])
    model = classifier()
    trained(model, colours, recipe(epochs=2, patience=2, ema=0.5))
    assert mark(model) == asked[1]


# Evaluation, precision, layout, compilation ---------------------------------------------------------------------------


def test_test_time_augmentation_is_the_mean_of_an_image_and_its_mirror_image(colours: Dataset) -> None:
    model = classifier(dropout=0.5).train()
    images = colours.test.images
    plain = logits(model, images, "float32", batch=4)
    mirrored = logits(model, images.flip(3), "float32")
    both = logits(model, images, "float32", batch=4, tta=True)
    assert torch.allclose(both, (plain + mirrored) / 2, atol=1e-6)
    assert not torch.allclose(plain, mirrored, atol=1e-3)
    assert torch.equal(plain, logits(model, images, "float32", batch=4)), "no dropout in use"
    hits = (both.argmax(1) == colours.test.labels).float().mean().item()
    assert evaluate(model, colours.test, "float32", tta=True) == pytest.approx(hits)


def test_dropout_is_before_the_head_and_in_train_mode_alone(colours: Dataset) -> None:
    model = classifier(dropout=0.5)
    dropped: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, inputs: dropped.append(inputs[0]))
    model.train()(colours.train.images)
    model.eval()(colours.train.images)
    assert 0.4 < (dropped[0] == 0).float().mean() - (dropped[1] == 0).float().mean() * 0.5 < 0.6
    assert "dropout" not in " ".join(model.state_dict())


def test_bf16_trains_nearly_alike(colours: Dataset) -> None:
    losses = [trained(classifier(), colours, recipe(precision=p))[1][-1]["loss"] for p in ("float32", "bf16")]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    assert losses[0] != losses[1]


@pytest.mark.parametrize(("name", "last"), [("resnet18", False), ("retina", True), ("mobilenet_v2", True)])
def test_the_layout_is_a_rule(name: str, last: bool) -> None:
    learned = Encoder(make_backbone(name), unfreeze="all", precision="float32").learned
    assert channels_last(learned, recipe(), CPU) is last
    assert channels_last(learned, recipe(precision="bf16"), CPU)
    assert channels_last(learned, recipe(), torch.device("cuda"))
    assert not channels_last(learned, recipe(precision="bf16"), torch.device("mps"))
    for asked in (True, False):
        assert channels_last(learned, recipe(channels_last=asked), torch.device("cuda")) is asked


@pytest.mark.parametrize("unfreeze", ["all", "body"])
@pytest.mark.parametrize("last", [True, False])
def test_what_enters_the_first_convolution_lies_as_its_weights_do(colours: Dataset, last: bool, unfreeze: str) -> None:
    model = classifier(unfreeze=unfreeze).eval()
    layout = torch.channels_last if last else torch.contiguous_format
    conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    before = model(colours.train.images)
    seen: list[bool] = []
    conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=layout)))
    lay_out(model.encoder.learned, last)
    assert torch.allclose(model(colours.train.images), before, atol=1e-5)
    assert seen == [True]
    assert conv.weight.is_contiguous(memory_format=layout)


def test_the_compiled_network_is_the_one_that_trains(colours: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
        def run(inputs: Tensor) -> Tensor:
            calls.append(len(inputs))
            found: Tensor = network(inputs)
            return found

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    plain, fast = classifier(), classifier()
    trained(plain, colours, recipe())
    assert not calls
    trained(fast, colours, recipe(compile=True))
    assert calls == [12] * 6
    assert mark(plain) == mark(fast)


@pytest.mark.parametrize("flags", [{}, {"accumulate": 3}, {"ema": 0.9, "mixup": 0.2}])
@pytest.mark.parametrize("unfreeze", ["all", "body"])
def test_nothing_is_compiled_after_the_first_update(
    colours: Dataset, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], unfreeze: str
) -> None:
    graphs = []

    def backend(module: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        graphs.append(module)
        return module.forward

    torch._dynamo.reset()
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compiler(network, backend=backend))
    compiled: list[int] = []

    def watched(*given: Any) -> None:
        gradient_step(*given)
        compiled.append(len(graphs))

    model, plan = classifier(unfreeze=unfreeze), recipe(compile=True, epochs=4, **flags)
    for _ in finetune.train(
        model, colours.train, colours.validation, plan, finetune.start(model, plan, 0), lambda _: None, update=watched
    ):
        pass
    assert len(compiled) == 12, "more updates than torch compiles one function for"
    assert 0 < compiled[0] == compiled[-1]
    looks = 2 if plan.ema else 1
    assert model.encoder.counter.images == 4 * (36 + 15 * looks), "and every image is counted all the same"


@pytest.mark.parametrize("flags", [{"batch": 1}, {"batch": 12, "accumulate": 12}])
def test_batches_that_have_no_variance_are_refused_before_anything_trains(
    colours: Dataset, flags: dict[str, Any]
) -> None:
    small = replace(colours.train, images=colours.train.images[:, :, :12, :12])  # one pixel where the body ends
    model = classifier()
    before = mark(model)
    fewer = r", a smaller --accumulate" if "accumulate" in flags else ""
    words = (
        rf"^--batch {flags['batch']} with --accumulate {flags.get('accumulate', 1)} shows BatchNorm one image at a "
        rf"time, and 1\.1 of the encoder sees one value a channel of it, which has no variance\. Type --batch \d+"
        rf"{fewer}, a larger --resolution, or --batchnorm frozen\.$"
    )
    plan = recipe(**flags, lr=1e-3)
    with pytest.raises(EncoderError, match=words):
        next(finetune.train(model, small, small, plan, finetune.start(model, plan, 0), lambda _: None))
    assert mark(model) == before
    assert model.encoder.counter.images == 0
    trains = classifier("frozen")
    next(finetune.train(trains, small, small, plan, finetune.start(trains, plan, 0), lambda _: None))
    next(finetune.train(model, colours.train, small, plan, finetune.start(model, plan, 0), lambda _: None))
    two = recipe(batch=2, lr=1e-3)
    next(finetune.train(model, small, small, two, finetune.start(model, two, 0), lambda _: None))


@pytest.mark.slow
def test_torchs_compiler_takes_the_network(colours: Dataset) -> None:
    plain, fast = classifier(), classifier()
    _, rows = trained(plain, colours, recipe())
    _, found = trained(fast, colours, recipe(compile=True))
    assert found[-1]["loss"] == pytest.approx(rows[-1]["loss"], abs=1e-4)


def test_batches_that_cannot_be_made_are_one_sentence(colours: Dataset) -> None:
    with pytest.raises(
        EncoderError, match=r"^--batch 37 is larger than the 36 training images\. Type a smaller one\.$"
    ):
        trained(classifier(), colours, recipe(batch=37))
    with pytest.raises(EncoderError, match="--batch 12 does not fall into equal parts for --accumulate 5"):
        trained(classifier(), colours, recipe(accumulate=5))


def test_a_training_that_runs_away_is_one_sentence(colours: Dataset) -> None:
    with pytest.raises(EncoderError) as caught:
        trained(classifier(), colours, recipe(lr=1e30, warmup=0.0))
    assert str(caught.value) == (
        "The loss became nan in epoch 1: the weights have run away. What was saved before is kept. Start again with a "
        "lower rate, say --lr 1e+29."
    )


# Going on where it stopped --------------------------------------------------------------------------------------------


def test_chance_comes_from_the_seed_alone(colours: Dataset) -> None:
    plan = recipe(**EVERYTHING)
    marks = []
    for seed, before in ((0, 1), (0, 2), (1, 1)):
        model = classifier(dropout=0.3)
        progress = finetune.start(model, plan, seed)
        torch.manual_seed(before)
        for _ in finetune.train(model, colours.train, colours.validation, plan, progress, lambda _: None):
            torch.rand(7)  # what the caller draws in between is no matter either
        marks.append(mark(model))
    assert marks[0] == marks[1] != marks[2]


@pytest.mark.parametrize(
    "flags", [{"channels_last": False}, {"channels_last": True}, EVERYTHING], ids=["nchw", "nhwc", "all"]
)
def test_a_training_goes_on_from_every_save_to_the_same_bits(colours: Dataset, flags: dict[str, Any]) -> None:
    plan = recipe(**({"epochs": 3, "save_every": 2} | flags))
    saves: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    model = classifier(dropout=plan.dropout)
    progress = finetune.start(model, plan, 0)
    for _ in finetune.train(model, colours.train, colours.validation, plan, progress, rows.append):
        # As a checkpoint keeps it: each tensor in its own memory, row by row.
        saves.append(_plain(progress.state(model)))
    assert [(save["epoch"], save["update"]) for save in saves] == [(0, 2), (1, 0), (1, 2), (2, 0), (2, 2), (3, 0)]
    for save in saves:
        twin = classifier(dropout=plan.dropout, seed=9)
        resumed = finetune.start(twin, plan, 5)
        resumed.restore(twin, save)
        again: list[dict[str, Any]] = []
        for _ in finetune.train(twin, colours.train, colours.validation, plan, resumed, again.append):
            pass
        assert mark(twin) == mark(model), (save["epoch"], save["update"])
        kept = [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows[save["epoch"] :]]
        assert [{k: v for k, v in row.items() if k not in CLOCKS} for row in again] == kept


def test_seconds_are_those_of_updates_alone_and_go_on(colours: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure it prevents: where a batch of 20 leaves 16 of 36 images over, an epoch is told 1.8 times too long."""
    clock = [1_000.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    looked = finetune._accuracy

    def look(*arguments: Any) -> float:
        clock[0] += 50
        return looked(*arguments)

    monkeypatch.setattr(finetune, "_accuracy", look)

    def update(*arguments: Any) -> None:
        clock[0] += 2
        gradient_step(*arguments)

    def seconds(plan: Recipe, state: dict[str, Any] | None = None) -> tuple[list[float | None], list[dict[str, Any]]]:
        model, rows, saves = classifier(), [], []
        progress = finetune.start(model, plan, 0)
        progress.train_seconds = 10.0  # of what came before the first update
        if state is not None:
            progress.restore(model, state)
        for _ in finetune.train(model, colours.train, colours.validation, plan, progress, rows.append, update=update):
            saves.append(_plain(progress.state(model)))
            clock[0] += 700
        return [row.get("train_seconds") for row in rows], saves

    assert seconds(recipe(batch=20))[0] == [12, 14], "an update in each of two epochs"
    told, saves = seconds(recipe(save_every=2))
    assert told == [16, 22], "three updates in each"
    assert [save["train_seconds"] for save in saves] == [14, 16, 20, 22]
    for number, left in ((0, [16, 22]), (1, [22]), (2, [22])):
        assert seconds(recipe(save_every=2), saves[number])[0] == left
    del saves[1]["train_seconds"]
    assert seconds(recipe(save_every=2), saves[1])[0] == [None], "of a run that began without it nobody knows"


def _plain(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return [_plain(value) for value in tree] if isinstance(tree, list) else tree


def test_a_training_that_is_killed_again_and_again_ends_on_the_same_bits(program: Any, tmp_path: Path) -> None:
    straight, _ = program.train(program.EVERYTHING, "train")
    file = tmp_path / "last.safetensors"
    # Anywhere: also before the first save, after which nothing is there yet, and in the middle of writing one.
    chance = random.Random(secrets.randbits(32))
    kills = [("update", chance.randint(1, 11)), ("save", chance.randint(1, 3)), ("update", 0)]
    for when, kill in kills:
        command = [sys.executable, str(PROGRAM), str(file), str(kill), when]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == (-signal.SIGKILL if kill else 0), ended.stderr
        done = file.with_suffix(".txt").exists()
        assert done == (kill == 0), kills
    assert file.with_suffix(".txt").read_text() == mark(straight), kills
