"""The CIFAR track: what does not learn is computed once, what learns is trained, a stopped run goes on as it was."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders import Encoder, EncoderError, Mode, build, fingerprint
from stillsight.encoders.registry import make_backbone
from stillsight.encoders.supervised import dataset as datasets
from stillsight.encoders.supervised import finetune
from stillsight.encoders.supervised import head as heads
from stillsight.encoders.supervised.augment import shift_and_flip
from stillsight.encoders.supervised.dataset import Dataset, Split
from stillsight.encoders.supervised.features import PARTS, features, key
from stillsight.encoders.supervised.learn import CifarConfig, Recorder, encoder_width, learn
from stillsight.encoders.weights import metadata

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def settings_restored() -> Iterator[None]:
    """A run switches on fast arithmetic for the whole process, which other tests must not see."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = True, False


def coloured(count: int, seed: int) -> Split:
    """Images that are mostly red, green or blue, with noise: a problem that anything with eyes can learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 120, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images[torch.arange(count), labels] += 100
    return Split(images, labels)


@pytest.fixture(scope="module")
def colours() -> Dataset:
    """Sixty-six images in three colours."""
    return Dataset("colours", coloured(36, 1), coloured(15, 2), coloured(15, 3), ("red", "green", "blue"))


def silent(part: str, done: int, total: int) -> None:
    """A progress that shows nothing."""


# Augmentation ---------------------------------------------------------------------------------------------------------


def slow_shift_and_flip(images: Tensor, generator: torch.Generator, pad: int) -> Tensor:
    """One image after the other, with the same draws."""
    dy, dx = torch.randint(0, 2 * pad + 1, (2, len(images), 1), generator=generator)
    flip = torch.rand(len(images), 1, generator=generator) < 0.5
    height, width = images.shape[2:]
    done = []
    for index, image in enumerate(images):
        padded = F.pad(image[None].float(), (pad,) * 4, mode="reflect")[0].to(images.dtype)
        top, left = int(dy[index]), int(dx[index])
        window = padded[:, top : top + height, left : left + width]
        done.append(window.flip(2) if flip[index] else window)
    return torch.stack(done)


shapes = st.tuples(st.integers(1, 8), st.integers(1, 3), st.integers(4, 9), st.integers(4, 9))


@settings(deadline=None, max_examples=40)
@given(shape=shapes, pad=st.integers(0, 3), seed=st.integers(0, 10_000), whole=st.booleans())
def test_shifts_and_flips_are_those_of_the_slow_way(
    shape: tuple[int, int, int, int], pad: int, seed: int, whole: bool
) -> None:
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    images = images.to(torch.uint8) if whole else images.float()
    found = shift_and_flip(images, torch.Generator().manual_seed(seed), pad)
    assert found.dtype == images.dtype
    assert torch.equal(found, slow_shift_and_flip(images, torch.Generator().manual_seed(seed), pad))
    for before, after in zip(images.flatten(0, 1), found.flatten(0, 1), strict=True):
        assert set(after.unique().tolist()) <= set(before.unique().tolist()), "a value that no pixel had"


def test_without_shifts_an_image_is_itself_or_its_mirror_image() -> None:
    images = torch.randint(0, 256, (400, 3, 4, 6), dtype=torch.uint8)
    found = shift_and_flip(images, torch.Generator().manual_seed(0), pad=0)
    same = (found == images).flatten(1).all(1)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 150 < int(same.sum()) < 250, "half of them, give or take five standard deviations"


def test_all_shifts_within_the_border_occur() -> None:
    images = torch.zeros(2000, 1, 9, 9)
    images[:, :, 4, 4] = 1
    found = shift_and_flip(images, torch.Generator().manual_seed(0), pad=2)
    places = {tuple(place) for place in found.nonzero()[:, 2:].tolist()}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}


# The rate, the head ---------------------------------------------------------------------------------------------------


def recipe(**changes: Any) -> finetune.Recipe:
    defaults: dict[str, Any] = {
        "epochs": 2, "batch": 12, "lr": 0.1, "weight_decay": 5e-4, "label_smoothing": 0.1, "warmup": 0.15,
        "precision": "float32",
    }  # fmt: skip
    return finetune.Recipe(**(defaults | changes))


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine() -> None:
    plan = recipe(lr=0.4, warmup=0.2)
    known = {0.0: 0.0, 0.1: 0.2, 0.2: 0.4, 0.6: 0.2, 1.0: 0.0, 0.4: 0.2 * (1 + math.sqrt(0.5))}
    for done, expected in known.items():
        assert finetune.rate(plan, done) == pytest.approx(expected, abs=1e-12)
    assert finetune.rate(recipe(lr=0.4, warmup=0.0), 0.0) == 0.4


@settings(deadline=None)
@given(first=st.floats(0, 1), second=st.floats(0, 1), warmup=st.floats(0.01, 0.9))
def test_the_rate_has_one_summit(first: float, second: float, warmup: float) -> None:
    plan = recipe(lr=1.0, warmup=warmup)
    low, high = sorted((first, second))
    assert 0 <= finetune.rate(plan, low) <= 1 + 1e-9
    if high <= warmup:
        assert finetune.rate(plan, low) <= finetune.rate(plan, high) + 1e-9
    if low >= warmup:
        assert finetune.rate(plan, low) >= finetune.rate(plan, high) - 1e-9


def test_only_matrices_and_convolutions_decay(colours: Dataset) -> None:
    model = finetune.Classifier(Encoder(make_backbone("retina"), unfreeze="layer3", precision="float32"), 3, 256)
    decayed, plain = finetune.start(model, recipe(weight_decay=0.25), seed=0).optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.25, 0.0)
    assert all(p.dim() > 1 for p in decayed["params"])
    assert all(p.dim() == 1 for p in plain["params"])
    given = {id(p) for group in (decayed, plain) for p in group["params"]}
    learnable = [*model.encoder.learned.parameters(), *model.head.parameters()]
    assert given == {id(p) for p in learnable}, "the frozen part is no business of the optimizer"
    assert encoder_width(model.encoder, colours) == 256


def test_accuracy_is_the_share_of_hits() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 9.0], [5.0, 4.0]])
    assert heads.accuracy(logits, torch.tensor([1, 0, 0, 1])) == 0.5


def clusters(count: int, seed: int, noise: float, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.eye(width)[:3] * 10 + 5
    return centres[labels] + noise * torch.randn(count, width, generator=generator), labels


def test_the_head_solves_what_a_line_can_separate() -> None:
    head = heads.fit(clusters(90, 1, 0.5), clusters(30, 2, 0.5), 3)
    assert head.validation_accuracy == 1.0
    inputs, labels = clusters(300, 3, 0.5)
    assert heads.accuracy(head(inputs), labels) == 1.0
    assert head.penalty == max(heads.PENALTIES), "among equals, the strongest penalty"


def test_the_head_is_at_the_minimum_of_its_convex_problem() -> None:
    inputs, labels = clusters(90, 1, 8.0)
    head = heads.fit((inputs, labels), clusters(60, 2, 8.0), 3)
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    loss = F.cross_entropy(F.linear((inputs - head.mean) / head.std, weight, bias), labels)
    loss = loss + head.penalty * weight.square().sum()
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert max(float(g.abs().max()) for g in gradients) < 1e-3
    # Where the gradient of the bias vanishes, the mean prediction of each class is its share of the labels.
    shares = F.softmax(head(inputs), dim=1).mean(0)
    assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=1e-3)


def test_the_penalty_is_chosen_by_validation_images() -> None:
    # More features than images: every penalty fits the training images, and only new images tell them apart.
    train, validation = clusters(24, 1, 12.0, width=60), clusters(600, 2, 12.0, width=60)
    head = heads.fit(train, validation, 3)
    scores = {}
    for penalty in heads.PENALTIES:
        linear = nn.Linear(60, 3)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        heads._lbfgs(linear, (train[0] - head.mean) / head.std, train[1], penalty, 100)
        scores[penalty] = heads.accuracy(linear((validation[0] - head.mean) / head.std), validation[1])
    assert len(set(scores.values())) > 1, "the choice would be empty"
    assert head.validation_accuracy == heads.accuracy(head(validation[0]), validation[1])
    assert head.validation_accuracy >= max(scores.values()) - 0.01


def test_a_feature_that_never_changes_does_no_harm() -> None:
    inputs, labels = clusters(60, 1, 0.5)
    inputs[:, 5] = 7.0
    head = heads.fit((inputs, labels), (inputs, labels), 3)
    assert head.weight.isfinite().all()
    assert head.validation_accuracy == 1.0


# Cached features ------------------------------------------------------------------------------------------------------


def eyes(**options: Any) -> Encoder:
    return build("retina", "random", device="cpu", precision="float32", **options)


def test_features_are_computed_once_and_then_read(colours: Dataset, tmp_path: Path) -> None:
    encoder = eyes(tap="layer1")
    reported: list[tuple[str, int, int]] = []
    first = features(encoder, colours, tmp_path / "cache", lambda *fact: reported.append(fact))
    assert encoder.counter.images == 66
    assert reported == [("train", 36, 36), ("validation", 15, 15), ("test", 15, 15)]
    for part in PARTS:
        assert torch.equal(first[part], encoder.frozen(getattr(colours, part).images))
    encoder.counter.images = 0
    second = features(encoder, colours, tmp_path / "cache", silent)
    assert encoder.counter.images == 0, "an image was encoded a second time"
    assert all(torch.equal(first[part], second[part]) for part in PARTS)
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name == f"retina-colours-{key(encoder, colours)}.safetensors"


@pytest.mark.parametrize("keep", [0, 4, 300, -1])
def test_a_damaged_cache_file_is_computed_again(colours: Dataset, tmp_path: Path, keep: int) -> None:
    encoder = eyes(tap="layer1")
    first = features(encoder, colours, tmp_path, silent)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    encoder.counter.images = 0
    again = features(encoder, colours, tmp_path, silent)
    assert encoder.counter.images == 66
    assert all(torch.equal(first[part], again[part]) for part in PARTS)
    assert {part: t.shape for part, t in load_file(file).items()} == {part: t.shape for part, t in first.items()}


def test_the_key_changes_with_everything_that_features_depend_on(colours: Dataset) -> None:
    moved = eyes(tap="layer1")
    moved.state()["layer1.bn1.running_mean"].data[0] += 1e-3
    other = Dataset("colours", colours.train, colours.validation, coloured(15, 4), colours.classes)
    relabelled = Split(colours.train.images, colours.train.labels.flip(0))
    keys = [
        key(eyes(tap="layer1"), colours),
        key(eyes(tap="layer1", seed=1), colours),
        key(moved, colours),
        key(eyes(tap="layer2"), colours),
        key(eyes(tap="layer1", pooling="grid2"), colours),
        key(eyes(tap="layer1", resolution=16), colours),
        key(build("retina", "random", tap="layer1", device="cpu", precision="bf16"), colours),
        key(eyes(tap="layer1"), other),
        key(eyes(tap="layer1"), Dataset("colours", relabelled, colours.validation, colours.test, colours.classes)),
    ]
    assert len(set(keys)) == len(keys)
    assert key(eyes(tap="layer1"), colours) == keys[0]


def test_the_key_changes_with_the_split(colours: Dataset) -> None:
    images = torch.cat([colours.train.images, colours.validation.images])
    labels = torch.cat([colours.train.labels, colours.validation.labels])
    keys = {
        Dataset("c", Split(images[:n], labels[:n]), Split(images[n:], labels[n:]), colours.test, ()).sha256()
        for n in (20, 30, 40)
    }
    assert len(keys) == 3


# Whole runs -----------------------------------------------------------------------------------------------------------


class PlugPulledError(Exception):
    """Somebody pulled the plug."""


class Folder:
    """A run folder as `learn` needs it, without the display. `stop` pulls the plug after that epoch is saved."""

    def __init__(self, folder: Path, stop: int | None = None) -> None:
        self.folder, self.stop = folder, stop
        self.cards: list[dict[str, str]] = []
        self.rows: list[dict[str, Any]] = []
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)

    def card(self, title: str, rows: dict[str, str]) -> None:
        assert title
        self.cards.append(rows)

    def log(self, stream: str, row: dict[str, Any]) -> None:
        assert stream == "metrics"
        self.rows.append(row)

    def progress(self, what: str, done: int, total: int, **facts: object) -> None:
        assert 0 < done <= total, (what, facts)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        (self.folder / name).write_text(json.dumps(content))

    def save(self, name: str, tree: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
        if name == "last":
            torch.save(tree, self.folder / "checkpoints" / "last.pt")
            if tree["epoch"] == self.stop:
                raise PlugPulledError
        else:
            tensors = {key: tensor.detach().clone().contiguous() for key, tensor in tree.items()}
            save_file(tensors, self.folder / "checkpoints" / f"{name}.safetensors", metadata)

    def load(self, name: str, device: torch.device) -> dict[str, Any] | None:
        path = self.folder / "checkpoints" / f"{name}.pt"
        stored: dict[str, Any] | None = torch.load(path, map_location=device) if path.exists() else None
        return stored


@pytest.fixture
def small_data(colours: Dataset, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """`learn` gets the sixty-six images whatever it asks for."""
    monkeypatch.setattr(datasets, "load", lambda *_: colours)
    return colours


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A file of retina weights, so that these tests do not depend on the shipped one."""
    torch.manual_seed(8)
    state = {name: t.detach().clone() for name, t in make_backbone("retina").model.state_dict().items()}
    save_file(state, tmp_path / "eyes.safetensors", {"license": "CC0-1.0"})
    return tmp_path / "eyes.safetensors"


def config(mode: Mode, weights: Path | None = None, **changes: Any) -> CifarConfig:
    defaults: dict[str, Any] = {
        "mode": mode, "weights": weights if mode.pretrained else None, "epochs": 2, "batch": 12, "device": "cpu",
        "precision": "float32", "threads": 1, "tap": "layer2",
    }  # fmt: skip
    return CifarConfig(**(defaults | changes))


@pytest.mark.parametrize("mode", list(Mode))
def test_all_four_modes_run_and_train_exactly_what_they_say(
    mode: Mode, small_data: Dataset, pretrained: Path, tmp_path: Path
) -> None:
    run = Folder(tmp_path / "run")
    recorder: Recorder = run
    choice = config(mode, pretrained)
    choice.check()
    summary = learn(choice, recorder, tmp_path / "cache")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert (summary["mode"], summary["dataset"], summary["tap"]) == (mode.value, "colours", "layer2")
    assert (summary["encoder_sha256_before"] == summary["encoder_sha256_after"]) is not mode.trained
    assert summary["weights_source"] == ("file" if mode.pretrained else "random")
    assert summary["weights_licence"] == ("CC0-1.0" if mode.pretrained else "none needed")
    assert summary["dataset_sha256"] == small_data.sha256()
    assert 0 <= summary["test_accuracy"] <= 1
    head = 3 * (128 + 1)
    assert summary["trainable_parameters"] == head + (_learnable() if mode.trained else 0)
    files = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    if mode.trained:
        assert files == {"last.pt", "encoder.safetensors", "head.safetensors"}
        assert [row["epoch"] for row in run.rows] == [1, 2]
        assert summary["epochs"] == 2
        assert not (tmp_path / "cache").exists()
    else:
        assert files == {"head.safetensors"}
        assert summary["images_encoded"] == 66, "each image once, and the probing of shapes not counted"
        assert summary["test_accuracy"] == 1.0, "colours can be told apart even by random eyes"
        again = learn(choice, Folder(tmp_path / "again"), tmp_path / "cache")
        assert again["images_encoded"] == 0
        assert again["test_accuracy"] == summary["test_accuracy"]
    assert [set(card) for card in run.cards] == [{"data", "encoder", "weights", "licence", "learns", "device"}]


def _learnable() -> int:
    encoder = build("retina", "scratch", tap="layer2", device="cpu")
    return sum(parameter.numel() for parameter in encoder.learned.parameters())


@pytest.mark.usefixtures("small_data")
def test_training_from_scratch_learns(tmp_path: Path) -> None:
    run = Folder(tmp_path / "run")
    summary = learn(config(Mode.SCRATCH, epochs=8, lr=0.05), run, tmp_path)
    assert run.rows[-1]["loss"] < run.rows[0]["loss"]
    assert summary["test_accuracy"] == 1.0


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("save_dtype", ["float32", "float16"])
def test_a_trained_encoder_is_saved_as_it_was_tested_and_becomes_weights(tmp_path: Path, save_dtype: str) -> None:
    summary = learn(config(Mode.SCRATCH, save_dtype=save_dtype), Folder(tmp_path / "run"), tmp_path)
    stored = load_file(tmp_path / "run" / "checkpoints" / "encoder.safetensors")
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {getattr(torch, save_dtype)}
    reused = config(Mode.FROZEN, tmp_path / "run")
    encoder = reused.build_encoder(pinned=True)
    assert encoder.sha256() == summary["encoder_sha256_after"]
    assert encoder.provenance.kind == "run"
    assert encoder.provenance.licence == "trained here on colours (Krizhevsky 2009)"
    head = load_file(tmp_path / "run" / "checkpoints" / "head.safetensors")
    test = coloured(15, 3)
    logits = F.linear(encoder(test.images), head["weight"], head["bias"])
    assert heads.accuracy(logits, test.labels) == summary["test_accuracy"]


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("save_dtype", ["float32", "float16"])
def test_low_rank_additions_are_saved_inside_the_weights(tmp_path: Path, pretrained: Path, save_dtype: str) -> None:
    chosen = config(Mode.FINETUNE, pretrained, adapt="lora", lora_rank=2, save_dtype=save_dtype)
    summary = learn(chosen, Folder(tmp_path / "run"), tmp_path)
    reused = config(Mode.FROZEN, tmp_path / "run").build_encoder(pinned=True)
    assert reused.sha256() == summary["encoder_sha256_after"] != summary["encoder_sha256_before"]


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("save_dtype", ["float32", "float16"])
def test_only_the_unfrozen_stages_change(tmp_path: Path, pretrained: Path, save_dtype: str) -> None:
    before = load_file(pretrained)
    learn(config(Mode.FINETUNE, pretrained, unfreeze="layer2", save_dtype=save_dtype), Folder(tmp_path / "r"), tmp_path)
    file = tmp_path / "r" / "checkpoints" / "encoder.safetensors"
    assert metadata(file)["license"] == "CC0-1.0; trained here on colours (Krizhevsky 2009)", (
        "the origin is not forgotten"
    )
    after = load_file(file)
    changed = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor.float(), before[name])}
    assert changed == {"layer2"}


@pytest.mark.usefixtures("small_data")
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    choice = config(Mode.SCRATCH, epochs=3)
    straight = Folder(tmp_path / "straight")
    expected = learn(choice, straight, tmp_path)
    with pytest.raises(PlugPulledError):
        learn(choice, Folder(tmp_path / "stopped", stop=1), tmp_path)
    resumed = Folder(tmp_path / "stopped")
    found = learn(choice, resumed, tmp_path)
    assert [row["epoch"] for row in resumed.rows] == [2, 3]
    assert found["encoder_sha256_after"] == expected["encoder_sha256_after"]
    assert resumed.rows[-1]["loss"] == straight.rows[-1]["loss"]
    for name in ("encoder", "head"):
        one, other = (load_file(r.folder / "checkpoints" / f"{name}.safetensors") for r in (straight, resumed))
        assert fingerprint(one) == fingerprint(other)
    # The check can fail: another seed ends elsewhere.
    different = learn(config(Mode.SCRATCH, epochs=3, seed=1), Folder(tmp_path / "different"), tmp_path)
    assert different["encoder_sha256_after"] != expected["encoder_sha256_after"]


@pytest.mark.usefixtures("small_data")
def test_the_run_folder_of_the_agents_is_a_recorder(tmp_path: Path) -> None:
    from stillsight.agents.runs import Run

    choice = config(Mode.SCRATCH, epochs=1)
    with Run(tmp_path / "run", "cifar", choice) as run:
        summary = learn(choice, run, tmp_path)
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stored["encoder_sha256_after"] == summary["encoder_sha256_after"]
    encoder = config(Mode.FROZEN, tmp_path / "run").build_encoder(pinned=True)
    assert encoder.sha256() == summary["encoder_sha256_after"]


@pytest.mark.usefixtures("small_data")
def test_a_batch_larger_than_the_training_images_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="--batch"):
        learn(config(Mode.SCRATCH, batch=37), Folder(tmp_path / "run"), tmp_path)


@pytest.mark.parametrize("flag", ["epochs", "batch", "validation"])
def test_numbers_that_make_no_run_are_refused(flag: str) -> None:
    nothing: dict[str, Any] = {flag: 0}
    config(Mode.SCRATCH).check()
    with pytest.raises(EncoderError, match=rf"^--{flag} 0 makes no run\. Type a number from 1\.$"):
        config(Mode.SCRATCH, **nothing).check()


def test_encoders_that_need_larger_images_than_cifars_are_refused() -> None:
    with pytest.raises(EncoderError, match="nature needs images of at least 36 px to reach conv3, and these have 32"):
        CifarConfig(encoder="nature", mode=Mode.SCRATCH).check()


def test_runs_have_names_that_are_folders() -> None:
    assert CifarConfig(seed=4).run_name == "cifar10-retina-frozen-seed4"
    assert CifarConfig(encoder="my.module:eyes", mode=Mode.SCRATCH).run_name == "cifar10-my.module.eyes-scratch-seed0"


# CIFAR itself ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("validation", [0, -1, 50_000])
def test_a_validation_part_out_of_range_is_refused(tmp_path: Path, validation: int) -> None:
    with pytest.raises(EncoderError, match=rf"--validation {validation} is out of range\. Allowed: 1 to 49,999"):
        datasets.load("cifar10", tmp_path, validation)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_no_data_and_no_network_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: datasets.Name
) -> None:
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    monkeypatch.setattr(kind, "url", "http://127.0.0.1:9/cifar.tar.gz")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(EncoderError) as caught:
        datasets.load(name, tmp_path)
    message = str(caught.value)
    assert f"{name} is not in {tmp_path} and could not be downloaded (" in message
    assert f"Put {kind.base_folder}/ there, or give --data FOLDER" in message


@pytest.fixture(scope="session")
def cifar(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 in torchvision's layout."""
    folder = tmp_path_factory.mktemp("cifar")
    command = [sys.executable, str(shared / "unpack-cifar"), str(folder), "cifar-10-batches-py"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.real_data
def test_cifar10_is_read_and_split_as_promised(cifar: Path) -> None:
    data = datasets.load("cifar10", cifar, validation=5000)
    assert [tuple(getattr(data, part).images.shape) for part in PARTS] == [
        (45_000, 3, 32, 32),
        (5_000, 3, 32, 32),
        (10_000, 3, 32, 32),
    ]
    assert {getattr(data, part).images.dtype for part in PARTS} == {torch.uint8}
    assert (len(data.train), len(data.validation), len(data.test)) == (45_000, 5_000, 10_000)
    assert data.classes[:4] == ("airplane", "automobile", "bird", "cat")
    # Known facts of the official files: the first training image is a frog, the first test image a cat.
    assert data.classes[int(data.train.labels[0])] == "frog"
    assert data.classes[int(data.test.labels[0])] == "cat"
    assert data.train.images[0, :, 0, 0].tolist() == [59, 62, 63]
    whole = torchvision.datasets.CIFAR10(str(cifar), train=True)
    assert torch.equal(data.validation.images, torch.from_numpy(whole.data[-5000:]).permute(0, 3, 1, 2))
    assert data.validation.labels.tolist() == whole.targets[-5000:]
    assert data.train.labels.tolist() == whole.targets[:-5000]
    labels = torch.cat([data.train.labels, data.validation.labels])
    assert torch.equal(labels.bincount(), torch.full((10,), 5000))
    assert torch.equal(data.test.labels.bincount(), torch.full((10,), 1000))


@pytest.mark.real_data
def test_a_damaged_data_file_is_not_used(cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in (cifar / "cifar-10-batches-py").iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "test_batch").unlink()
    (folder / "test_batch").write_bytes((cifar / "cifar-10-batches-py" / "test_batch").read_bytes()[:-1] + b"!")
    with pytest.raises(EncoderError, match="could not be downloaded"):
        datasets.load("cifar10", tmp_path)


def test_a_split_moves_whole() -> None:
    moved = coloured(3, 0).to(CPU)
    assert torch.equal(moved.images, coloured(3, 0).images)
    assert moved.labels.tolist() == [0, 1, 2]
