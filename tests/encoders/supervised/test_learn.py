"""The CIFAR track: what does not learn is computed once, what learns is trained, a stopped run goes on as it was."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders import Backbone, EncoderError, Mode, Preprocessing, build, fingerprint
from stillsight.encoders.building import build as build_encoder
from stillsight.encoders.reference_features import reference_features, same_function
from stillsight.encoders.supervised import tune
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.classifier import Classifier
from stillsight.encoders.supervised.data import dataset as datasets
from stillsight.encoders.supervised.data.split import Dataset
from stillsight.encoders.supervised.features.frozen_features import features
from stillsight.encoders.supervised.heads import kinds
from stillsight.encoders.supervised.heads.head import accuracy
from stillsight.encoders.supervised.learn import learn
from stillsight.encoders.supervised.recorder import Recorder
from stillsight.encoders.supervised.training import finetune
from stillsight.encoders.supervised.training.training_state import Progress
from stillsight.encoders.weights.weights_file import metadata
from stillsight.encoders.zoo import retina as retina_module
from stillsight.encoders.zoo.registry import make_backbone


def silent(part: str, done: int, total: int) -> None:
    """A progress that shows nothing."""


@pytest.fixture(autouse=True)
def settings_restored() -> Iterator[None]:
    """A run switches on fast arithmetic for the whole process, which other tests must not see."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = True, False


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

    def place(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

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

    def rewind(self, last: int, counted: str) -> None:
        """Nothing was logged before."""

    def load(self, name: str, device: torch.device) -> dict[str, Any] | None:
        path = self.folder / "checkpoints" / f"{name}.pt"
        stored: dict[str, Any] | None = torch.load(path, map_location=device) if path.exists() else None
        return stored


@pytest.fixture
def small_data(colours: Dataset, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """`learn` gets the sixty-six images whatever it asks for."""
    cited = replace(colours, origin="Krizhevsky 2009")
    monkeypatch.setattr(datasets, "load", lambda *_, **__: cited)
    return cited


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
    assert (summary["device"], summary["computed_in"] in ("bf16", "float32")) == ("cpu", True)
    assert summary["weights_source"] == ("file" if mode.pretrained else "random")
    assert summary["weights_licence"] == ("CC0-1.0" if mode.pretrained else "none needed")
    assert summary["dataset_sha256"] == small_data.sha256()
    assert 0 <= summary["test_accuracy"] <= 1
    told = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert summary["test_accuracy"] == told["accuracy"]
    assert summary["test_expected_calibration_error"] == told["expected_calibration_error"]
    assert (summary["classes"], summary["image_size"]) == (["red", "green", "blue"], [32, 32])
    assert [summary[f"{part}_images"] for part in ("train", "validation", "test")] == [36, 15, 15]
    head = 3 * (128 + 1)
    assert summary["trainable_parameters"] == head + (_learnable() if mode.trained else 0)
    files = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    if mode.trained:
        assert files == {"last.pt", "encoder.safetensors", "head.safetensors", "reference_features.safetensors"}
        assert [row["epoch"] for row in run.rows] == [1, 2]
        assert summary["epochs"] == 2
        assert not (tmp_path / "cache").exists()
    else:
        assert files == {"head.safetensors", "reference_features.safetensors"}
        assert summary["images_encoded"] == 66, "each image once, and the probing of shapes not counted"
        assert summary["test_accuracy"] == 1.0, "colours can be told apart even by random eyes"
        again = learn(choice, Folder(tmp_path / "again"), tmp_path / "cache")
        assert (summary["images_at_hand"], again["images_encoded"], again["images_at_hand"]) == (0, 0, 66)
        assert again["test_accuracy"] == summary["test_accuracy"]
    told = {"data", "encoder", "weights", "licence", "learns", "device"} | ({"rate"} if mode.trained else set())
    assert [set(card) for card in run.cards] == [told]


def _learnable() -> int:
    encoder = build("retina", "scratch", tap="layer2", device="cpu")
    return sum(parameter.numel() for parameter in encoder.learned.parameters())


@pytest.mark.usefixtures("small_data")
def test_the_card_says_that_images_are_smaller_than_the_weights_were_made_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 32 px are for nearly every network of ImageNet; for the shipped one, made for 32 px, nothing is said."""
    run = Folder(tmp_path / "run")
    learn(config(Mode.FROZEN), run, tmp_path / "cache")
    assert "images" not in run.cards[0]
    monkeypatch.setattr(retina_module, "CIFAR100", replace(retina_module.CIFAR100, size=224))
    larger = Folder(tmp_path / "larger")
    learn(config(Mode.FROZEN), larger, tmp_path / "cache")
    assert larger.cards[0]["images"] == (
        "encoded at 32 px, as they come; the weights were made for 224 px. Type --resolution 224, or less for less work"
    )


@pytest.mark.usefixtures("small_data")
def test_training_from_scratch_learns(tmp_path: Path) -> None:
    run = Folder(tmp_path / "run")
    summary = learn(config(Mode.SCRATCH, epochs=8, lr=0.05), run, tmp_path)
    assert run.rows[-1]["loss"] < run.rows[0]["loss"]
    assert summary["test_accuracy"] == 1.0


@pytest.mark.parametrize("save_dtype", ["float32", "float16"])
def test_a_trained_encoder_is_saved_as_it_was_tested_and_becomes_weights(
    small_data: Dataset, tmp_path: Path, save_dtype: str
) -> None:
    summary = learn(config(Mode.SCRATCH, save_dtype=save_dtype), Folder(tmp_path / "run"), tmp_path)
    stored = load_file(tmp_path / "run" / "checkpoints" / "encoder.safetensors")
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {getattr(torch, save_dtype)}
    reused = config(Mode.FROZEN, tmp_path / "run")
    encoder = build_encoder(reused, pinned=True)
    assert encoder.sha256() == summary["encoder_sha256_after"]
    assert encoder.provenance.kind == "run"
    assert encoder.provenance.licence == "trained here on colours (Krizhevsky 2009)"
    head = load_file(tmp_path / "run" / "checkpoints" / "head.safetensors")
    logits = F.linear(encoder(small_data.test.images), head["weight"], head["bias"])
    assert accuracy(logits, small_data.test.labels) == pytest.approx(summary["test_accuracy"])


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("save_dtype", ["float32", "float16"])
def test_low_rank_additions_are_saved_inside_the_weights(tmp_path: Path, pretrained: Path, save_dtype: str) -> None:
    chosen = config(Mode.FINETUNE, pretrained, adapt="lora", lora_rank=2, save_dtype=save_dtype)
    summary = learn(chosen, Folder(tmp_path / "run"), tmp_path)
    reused = build_encoder(config(Mode.FROZEN, tmp_path / "run"), pinned=True)
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
@pytest.mark.parametrize("adapt", ["all", "norm", "lora"])
@pytest.mark.parametrize("save_dtype", ["float32", "float16"])
def test_what_is_saved_computes_the_features_that_are_kept_of_it(
    tmp_path: Path, pretrained: Path, adapt: str, save_dtype: str
) -> None:
    run = Folder(tmp_path / "run")
    learn(config(Mode.FINETUNE, pretrained, adapt=adapt, save_dtype=save_dtype, epochs=1), run, tmp_path)
    kept = load_file(run.folder / "checkpoints" / "reference_features.safetensors")["features"]
    encoder = build_encoder(config(Mode.FROZEN, run.folder), pinned=True)
    assert same_function(reference_features(encoder.frozen, (32, 32)), kept)
    before = build_encoder(config(Mode.FROZEN, pretrained), pinned=True)
    assert not same_function(reference_features(before.frozen, (32, 32)), kept)


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
def test_a_stopped_run_does_not_go_on_with_a_network_that_computes_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = config(Mode.SCRATCH, epochs=3, encoder=f"{__name__}:bright", tap="again", unfreeze=None)
    with pytest.raises(PlugPulledError):
        learn(choice, Folder(tmp_path / "run", stop=1), tmp_path)
    with monkeypatch.context() as edited:
        edited.setattr(nn, "ReLU", nn.GELU)
        with pytest.raises(EncoderError, match="computed other features"):
            learn(choice, Folder(tmp_path / "run"), tmp_path)
    learn(choice, Folder(tmp_path / "run"), tmp_path)
    kept = load_file(tmp_path / "run" / "checkpoints" / "reference_features.safetensors")["features"]
    assert kept.shape == (2 * 6,)


@pytest.mark.usefixtures("small_data")
def test_the_run_folder_of_the_agents_is_a_recorder(tmp_path: Path) -> None:
    from stillsight.agents.runs.folder import Run

    choice = config(Mode.SCRATCH, epochs=1)
    with Run(tmp_path / "run", "cifar", choice) as run:
        summary = learn(choice, run, tmp_path)
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stored["encoder_sha256_after"] == summary["encoder_sha256_after"]
    encoder = build_encoder(config(Mode.FROZEN, tmp_path / "run"), pinned=True)
    assert encoder.sha256() == summary["encoder_sha256_after"]


@pytest.mark.usefixtures("small_data")
def test_a_batch_larger_than_the_training_images_is_cut_and_the_card_says_so(tmp_path: Path) -> None:
    run = Folder(tmp_path / "run")
    summary = learn(config(Mode.SCRATCH, batch=255, accumulate=5, epochs=1), run, tmp_path)
    assert run.cards[0]["batch"] == "35, not 255: there are no more training images"
    assert summary["batch"] == 35, "what five parts share"
    whole = Folder(tmp_path / "whole")
    assert learn(config(Mode.SCRATCH, batch=36, epochs=1), whole, tmp_path)["batch"] == 36
    assert "batch" not in whole.cards[0]
    with pytest.raises(
        EncoderError, match=r"^The 36 training images do not fall into --accumulate 64\. Type --accumulate"
    ):
        learn(config(Mode.SCRATCH, batch=64, accumulate=64), Folder(tmp_path / "parts"), tmp_path)


class Bright(nn.Module):
    """A network over pixels 0..2550, whose BatchNorm sees values that float16 does not hold, and whose last two stages
    are one and the same convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.mix = nn.Conv2d(6, 6, 3, padding=1)
        self.again = self.mix


def bright() -> Backbone:
    model = Bright()
    stages = {"stem": model.stem, "mix": model.mix, "again": model.again}
    tenfold = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1 / 2550, 1 / 2550, 1 / 2550))
    return Backbone(model=model, stages=stages, preprocessing=tenfold, tap="again")


def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of `bright` as a user's own function."""
    module = types.ModuleType("my_bright_eyes")
    bright.__module__, module.bright = "my_bright_eyes", bright  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_bright_eyes", module)
    return "my_bright_eyes:bright"


@pytest.mark.usefixtures("small_data")
def test_tensors_that_float16_cannot_hold_are_saved_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Folder(tmp_path / "run")
    small = config(
        Mode.SCRATCH, encoder=own(monkeypatch), tap=None, save_dtype="float16", epochs=6, lr=0.01, warmup=0.0
    )
    summary = learn(small, run, tmp_path)
    saved = load_file(tmp_path / "run" / "checkpoints" / "encoder.safetensors")
    assert summary["saved_in_float32"] == ["stem.1.running_var"]
    assert saved["stem.1.running_var"].dtype == torch.float32
    assert saved["stem.1.running_var"].max() > 65_504
    assert saved["stem.0.weight"].dtype == torch.float16
    assert all(tensor.isfinite().all() for tensor in saved.values() if tensor.is_floating_point())
    again = build_encoder(replace(small, mode=Mode.FROZEN, weights=tmp_path / "run"), pinned=True)
    assert again.sha256() == summary["encoder_sha256_after"], "what was tested is what is read"


def test_float16_holds_what_keeps_eleven_bits_of_its_largest() -> None:
    for tensor in ([1.0, 1e-9], [65_504.0, 3.0], [0.0, 0.0], [3e-4, 1e-4], []):
        assert tune._fits_float16(torch.tensor(tensor)), tensor
    for tensor in ([65_520.0, 1.0], [1e-10, 2e-10], [float("inf")], [float("nan")]):
        assert not tune._fits_float16(torch.tensor(tensor)), tensor


# Warm start -----------------------------------------------------------------------------------------------------------


def test_a_warm_start_begins_as_the_head_on_frozen_features(
    small_data: Dataset, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[tuple[Tensor, Progress]] = []
    start = finetune.start

    def seen(model: Classifier, *rest: Any) -> Progress:
        models.append((model.eval()(small_data.test.images).detach(), begun := start(model, *rest)))
        return begun

    monkeypatch.setattr(finetune, "start", seen)
    warm = config(Mode.FINETUNE, pretrained, warm_start=True, lr=1e-4, epochs=1)
    summary = learn(warm, Folder(tmp_path / "warm"), tmp_path / "cache")
    frozen = build_encoder(warm.frozen(), pinned=True)
    kept = features(frozen, small_data, tmp_path / "cache", silent)
    assert frozen.counter.images == 15, "the warm start computed all but the test images, by which nothing is trained"
    labelled = [(kept[part], getattr(small_data, part).labels) for part in ("train", "validation")]
    fitted = kinds.fit("linear", labelled[0], labelled[1], 3, refit=False)
    ((begun, _),) = models
    assert torch.allclose(begun, fitted.head(kept["test"]), atol=1e-3)
    assert summary["warm_start_validation_accuracy"] == fitted.validation_accuracy == 1.0
    assert summary["warm_start_penalty"] == fitted.chosen["penalty"]
    assert summary["images_encoded"] == 51
    assert summary["best_epoch"] == 0, "no epoch is better than all right"
    assert summary["encoder_sha256_after"] == summary["encoder_sha256_before"]
    cold = learn(replace(warm, warm_start=False), Folder(tmp_path / "cold"), tmp_path / "cache")
    assert summary["validation_accuracy"] == 1.0 > cold["validation_accuracy"], "one slow epoch is not enough without"


@pytest.mark.usefixtures("small_data")
def test_the_seconds_of_a_warm_start_hold_its_fit_and_go_on(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure it prevents: what an encoder takes to encode and its head to be fitted is told of no epoch."""
    clock = [0.0]

    def tick() -> float:
        clock[0] += 1e-6
        return clock[0]

    monkeypatch.setattr("time.perf_counter", tick)
    fit = tune.warm_start

    def fitted(*arguments: Any, **given: Any) -> Any:
        clock[0] += 50
        return fit(*arguments, **given)

    monkeypatch.setattr(tune, "warm_start", fitted)
    warm = config(Mode.FINETUNE, pretrained, warm_start=True, lr=1e-4, epochs=2)
    run = Folder(tmp_path / "run", stop=1)
    with pytest.raises(PlugPulledError):
        learn(warm, run, tmp_path / "cache")
    resumed = Folder(tmp_path / "run")
    learn(warm, resumed, tmp_path / "cache")
    found = [row["train_seconds"] for row in (*run.rows, *resumed.rows)]
    assert found == [pytest.approx(50, abs=0.1)] * 2
    cold = Folder(tmp_path / "cold")
    learn(replace(warm, warm_start=False), cold, tmp_path / "cache")
    assert [row["train_seconds"] for row in cold.rows] == [pytest.approx(0, abs=0.1)] * 2


@pytest.mark.usefixtures("small_data")
def test_a_warm_start_keeps_the_statistics_that_its_features_came_from(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_file(pretrained)
    moved = {}
    for name, chosen in {"kept": None, "train": "train"}.items():
        scores = iter([0.1, 0.9])
        monkeypatch.setattr(finetune, "_accuracy", lambda *_, scores=scores: next(scores))
        warm = config(Mode.FINETUNE, pretrained, warm_start=True, batchnorm=chosen, epochs=1)
        learn(warm, Folder(tmp_path / name), tmp_path / "cache")
        after = load_file(tmp_path / name / "checkpoints" / "encoder.safetensors")
        moved[name] = any(not torch.equal(after[key], before[key]) for key in after if key.endswith("running_mean"))
    assert moved == {"kept": False, "train": True}


@pytest.mark.usefixtures("small_data")
def test_a_stopped_warm_start_goes_on_to_the_same_bits_and_fits_no_head_again(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = config(Mode.FINETUNE, pretrained, warm_start=True, epochs=2, views=1)
    straight = learn(warm, Folder(tmp_path / "straight"), tmp_path / "cache")
    with pytest.raises(PlugPulledError):
        learn(warm, Folder(tmp_path / "stopped", stop=1), tmp_path / "cache")
    fitted = tune.warm_start

    def refitted(*given: Any, **options: Any) -> Any:
        assert options == {"refit": True}, "the head that training begins from was fitted before"
        return fitted(*given, **options)

    monkeypatch.setattr(tune, "warm_start", refitted)
    resumed = learn(warm, Folder(tmp_path / "stopped"), tmp_path / "cache")
    same = ("encoder_sha256_after", "test_accuracy", "warm_start_validation_accuracy", "warm_start_penalty")
    assert [resumed[name] for name in same] == [straight[name] for name in same]


@pytest.mark.usefixtures("small_data")
def test_a_warm_start_does_not_run_away_by_default(pretrained: Path, tmp_path: Path) -> None:
    run = Folder(tmp_path / "warm")
    summary = learn(config(Mode.FINETUNE, pretrained, warm_start=True, epochs=6), run, tmp_path / "cache")
    assert len(run.rows) == 6
    assert all(row["loss"] < 2 * run.rows[0]["loss"] for row in run.rows)
    assert run.cards[0]["rate"] == "0.01 at most, sgd"
    assert summary["test_accuracy"] == 1.0


@pytest.mark.usefixtures("small_data")
def test_a_warm_start_that_ends_with_its_start_is_what_frozen_gives_without_refitting_too(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.4, 0.3])
    monkeypatch.setattr(finetune, "_accuracy", lambda *_: next(scores))
    warm = config(Mode.FINETUNE, pretrained, warm_start=True, refit=False)
    summary = learn(warm, Folder(tmp_path / "warm"), tmp_path / "cache")
    assert (summary["best_epoch"], summary["refit"]) == (0, False)
    head = load_file(tmp_path / "warm" / "checkpoints" / "head.safetensors")
    for refit in (False, True):
        learn(replace(warm.frozen(), refit=refit), Folder(tmp_path / f"{refit}"), tmp_path / "cache")
        plain = kinds.read(tmp_path / f"{refit}" / "checkpoints" / "head.safetensors")
        assert torch.equal(head["weight"], plain.folded()[0]) != refit  # type: ignore[attr-defined]


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("best", [0, 1])
def test_a_warm_start_ends_with_its_start_unless_an_epoch_is_better(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int
) -> None:
    scores = iter([0.5, 0.8 if best else 0.7, 0.4])
    monkeypatch.setattr(finetune, "_accuracy", lambda *_: next(scores))
    warm = config(Mode.FINETUNE, pretrained, warm_start=True)
    summary = learn(warm, Folder(tmp_path / "warm"), tmp_path / "cache")
    frozen = learn(warm.frozen(), Folder(tmp_path / "frozen"), tmp_path / "cache")
    unchanged = summary["encoder_sha256_after"] == summary["encoder_sha256_before"]
    assert (summary["best_epoch"], summary["epochs"], unchanged) == (best, 2, not best)
    assert "train_accuracy" not in summary, "it would be that of other weights"
    assert summary.get("refit") is (None if best else True), "what it says of the validation images is known by this"
    if not best:
        assert summary["validation_accuracy"] == 0.5, "not of the head that has learned these images"
        head = load_file(tmp_path / "warm" / "checkpoints" / "head.safetensors")
        plain = kinds.read(tmp_path / "frozen" / "checkpoints" / "head.safetensors")
        weight, bias = plain.folded()  # type: ignore[attr-defined]
        assert torch.equal(head["weight"], weight)
        assert torch.equal(head["bias"], bias)
        assert summary["test_accuracy"] == frozen["test_accuracy"]


# Frozen, low data, folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["mlp", "knn", "ncm"])
def test_every_head_is_fitted_to_the_same_cached_features(
    head: Any, small_data: Dataset, pretrained: Path, tmp_path: Path
) -> None:
    run = Folder(tmp_path / "first")
    first = learn(config(Mode.FROZEN, pretrained, views=1), run, tmp_path / "cache")
    assert first["images_encoded"] > 66
    assert (first["head"], first["views"], first["refit"], first["engine"]) == ("linear", 1, True, "folded")
    second = learn(config(Mode.FROZEN, pretrained, views=1, head=head), Folder(tmp_path / "second"), tmp_path / "cache")
    assert second["images_encoded"] == 0
    assert second["test_accuracy"] == 1.0
    path = tmp_path / "second" / "checkpoints" / "head.safetensors"
    assert metadata(path)["head"] == head
    kept = features(build_encoder(config(Mode.FROZEN, pretrained), pinned=True), small_data, tmp_path / "cache", silent)
    assert accuracy(kinds.read(path)(kept["test"]), small_data.test.labels) == 1.0


@pytest.mark.parametrize("head", ["linear", "mlp", "knn", "ncm"])
def test_a_head_that_is_not_refitted_has_learned_the_training_images_alone(
    head: Any, small_data: Dataset, pretrained: Path, tmp_path: Path
) -> None:
    """An encoder in training learns from no others."""
    chosen = config(Mode.FROZEN, pretrained, head=head)
    kept = features(build_encoder(chosen, pinned=True), small_data, tmp_path / "cache", silent)
    train, validation = ((kept[part], getattr(small_data, part).labels) for part in ("train", "validation"))
    states = {}
    for refit in (True, False):
        summary = learn(replace(chosen, refit=refit), Folder(tmp_path / f"{refit}"), tmp_path / "cache")
        assert summary["refit"] is refit
        states[refit] = load_file(tmp_path / f"{refit}" / "checkpoints" / "head.safetensors")
    expected = kinds.fit(head, train, validation, 3, refit=False).head.state()
    assert states[False].keys() == expected.keys()
    assert all(torch.equal(states[False][name], tensor) for name, tensor in expected.items())
    assert any(not torch.equal(states[True][name], tensor) for name, tensor in expected.items())


def test_a_run_on_an_image_folder_with_few_labels(pretrained: Path, tmp_path: Path, colours: Dataset) -> None:
    whole = colours.train.images, colours.train.labels
    for number, (image, label) in enumerate(zip(*whole, strict=True)):
        place = tmp_path / "paint" / colours.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{number}.png")
    (tmp_path / "paint" / "violet").mkdir()
    Image.new("RGB", (32, 32), (200, 0, 200)).save(tmp_path / "paint" / "violet" / "0.png")
    (tmp_path / "paint" / "red" / "broken.png").write_bytes(b"")
    run = Folder(tmp_path / "run")
    chosen = config(
        Mode.FROZEN, pretrained, dataset=str(tmp_path / "paint"), cache=tmp_path / "cache", skip_broken=0.1, shots=1
    )
    chosen.check()
    summary = learn(chosen, run, tmp_path / "cache")
    assert (summary["dataset"], summary["classes"]) == ("paint", ["blue", "green", "red", "violet"])
    assert [summary[f"{part}_images"] for part in ("train", "validation", "test")] == [4, 0, 6]
    assert summary["validation_accuracy"] is None
    assert summary["test_accuracy"] > 0.5
    assert run.cards[0]["note"] == (
        "1 broken images left out: red/broken.png; one image alone, kept for learning: violet"
    )
    trained = config(Mode.SCRATCH, dataset=chosen.dataset, cache=chosen.cache, skip_broken=0.1, shots=1)
    with pytest.raises(EncoderError, match=r"leave none to choose with: each class has one\. Type --shots 2 or more"):
        learn(trained, Folder(tmp_path / "trained"), tmp_path / "cache")
    learn(replace(trained, shots=None, batch=10, epochs=1), Folder(tmp_path / "trained"), tmp_path / "cache")
    file = tmp_path / "trained" / "checkpoints" / "encoder.safetensors"
    assert metadata(file)["license"] == "trained here on paint", "nobody is cited who has nothing to do with it"


# Flags ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "changes", "words"),
    [
        (Mode.FROZEN, {"validation": 0}, r"^--validation 0 makes no run\. Type a number from 1\.$"),
        (Mode.FROZEN, {"shots": 0}, r"^--shots 0 makes no run\. Type a number from 1\.$"),
        (Mode.FROZEN, {"fraction": 1.5}, r"^--fraction 1\.5 is no share\. Type a number above 0, up to 1"),
        (Mode.FROZEN, {"fraction": 0.0}, r"^--fraction 0 is no share"),
        (Mode.FROZEN, {"fraction": 0.5, "shots": 5}, r"^--shots and --fraction both say .* Drop one of them\.$"),
        (Mode.FROZEN, {"skip_broken": 1.0}, r"^--skip-broken 1 is no share\. Type a number from 0 to below 1\.$"),
        (Mode.FROZEN, {"views": -1}, r"^--views -1 is no number of views\. Type a number from 0\.$"),
        (Mode.FROZEN, {"warm_start": True}, r"--mode frozen does not\. Type --mode finetune, or drop --warm-start"),
        (Mode.SCRATCH, {"warm_start": True}, r"--mode scratch does not\. Type --mode finetune"),
        (Mode.SCRATCH, {"head": "knn"}, r"^--head knn is fitted to frozen .* Type --mode frozen, or drop --head\.$"),
        (Mode.SCRATCH, {"views": 2}, r"^--views 2 are encoded once .* Type --mode frozen, or drop --views\.$"),
        (Mode.FROZEN, {"dataset": "cifar_10"}, r"^--dataset cifar_10 is neither cifar10, cifar100 nor a folder\."),
        (Mode.SCRATCH, {"epochs": 0}, r"--epochs 0 is out of range"),
    ],
)
def test_flags_that_make_no_run_are_refused(mode: Mode, changes: dict[str, Any], words: str) -> None:
    chosen = CifarConfig(mode=mode)
    chosen.check()
    with pytest.raises(EncoderError, match=words):
        replace(chosen, **changes).check()


def test_encoders_that_need_larger_images_than_cifars_are_refused() -> None:
    with pytest.raises(EncoderError, match="nature needs images of at least 36 px to reach conv3, and these have 32"):
        CifarConfig(encoder="nature", mode=Mode.SCRATCH).check()


def test_runs_have_names_that_are_folders() -> None:
    assert CifarConfig(seed=4).run_name == "cifar10-retina-frozen-seed4"
    assert CifarConfig(encoder="my.module:eyes", mode=Mode.SCRATCH).run_name == "cifar10-my.module.eyes-scratch-seed0"
    few = CifarConfig(shots=5, head="knn", dataset="photos/pets/")
    assert few.run_name == "pets-5shots-retina-frozen-knn-seed0"
    warm = CifarConfig(fraction=0.1, mode=Mode.FINETUNE, warm_start=True)
    assert warm.run_name == "cifar10-0.1-retina-finetune-warm-seed0"


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("cut", [None, "layer2"])
def test_a_pooling_that_learns_is_trained_with_the_head_saved_and_predicts(
    cut: str | None, pretrained: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"tap": "layer1,layer2", "pooling": "attention2,conv3", "unfreeze": cut, "epochs": 3}
    choice = config(Mode.FINETUNE, pretrained, **changes)
    choice.check()
    started = build_encoder(choice, pinned=False).learned
    before = {name: tensor.detach().clone() for name, tensor in started.pooling_state().items()}
    summary = learn(choice, Folder(tmp_path / "run"), tmp_path / "cache")
    width = 2 * (64 + 2) + 3 * 8 * 8
    assert summary["trainable_parameters"] == 3 * (width + 1) + sum(p.numel() for p in started.parameters())
    learned = load_file(tmp_path / "run" / "checkpoints" / "pooling.safetensors")
    assert (
        set(learned)
        == set(before)
        == {"layer1.norm.weight", "layer1.norm.bias", "layer1.queries"}
        | {*("layer2.convolution.weight", "layer2.norm.weight", "layer2.norm.bias")}
    )
    assert all(not torch.equal(tensor, before[name]) for name, tensor in learned.items())
    # As `predict` puts it together: all frozen, the encoder from its file, the pooling from its own.
    again = build_encoder(
        replace(choice.frozen(), weights=tmp_path / "run" / "checkpoints" / "encoder.safetensors"), pinned=True
    )
    again.learned.load_pooling_state(learned)
    assert again.sha256() == summary["encoder_sha256_after"]
    head = kinds.read(tmp_path / "run" / "checkpoints" / "head.safetensors")
    test = datasets.load("cifar10").test
    with torch.no_grad():
        assert accuracy(head(again.eval()(test.images)), test.labels) == summary["test_accuracy"]
    with pytest.raises(EncoderError, match=r"The pooling that was saved learned layer1\.norm\.bias"):
        again.learned.load_pooling_state({name: tensor for name, tensor in learned.items() if "layer1" in name})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"mode": Mode.FROZEN},
            "--pooling grid2,attention2 learns, and --mode frozen fits a head .* type --mode finet",
        ),
        (
            {"mode": Mode.RANDOM},
            "--pooling grid2,attention2 learns, and --mode random fits a head .* type --mode finet",
        ),
        ({"mode": Mode.FINETUNE, "warm_start": True}, "and --warm-start fits a head .* or drop --warm-start"),
    ],
)
def test_a_pooling_that_learns_is_refused_where_features_are_encoded_once(changes: dict[str, Any], said: str) -> None:
    for pooling in ("grid2,attention2", "grid2, attention2"):
        with pytest.raises(EncoderError, match=said.replace("grid2,attention2", pooling)):
            CifarConfig(tap="layer1,layer2", pooling=pooling, **changes).check()


def test_so_is_one_that_the_network_brings_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def asking() -> Backbone:
        model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.Conv2d(8, 16, 3, stride=2))
        stages = {"low": model[0], "high": model[1]}
        return Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="high", pooling="attention4")

    module = types.ModuleType("my_asking_eyes")
    module.asking = asking  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_asking_eyes", module)
    chosen = CifarConfig(encoder="my_asking_eyes:asking", mode=Mode.RANDOM)
    said = "^--pooling attention4, which is my_asking_eyes:asking's own, learns, and --mode random fits"
    with pytest.raises(EncoderError, match=said):
        chosen.check()
    replace(chosen, pooling="grid2").check()
    replace(chosen, mode=Mode.SCRATCH).check()


@pytest.mark.usefixtures("small_data")
def test_features_of_several_taps_are_cached_and_fitted_to(pretrained: Path, tmp_path: Path) -> None:
    choice = config(Mode.FROZEN, pretrained, tap="layer1,layer2", pooling="grid2,global")
    summary = learn(choice, Folder(tmp_path / "run"), tmp_path / "cache")
    assert summary["images_encoded"] == 66
    assert summary["trainable_parameters"] == 3 * (64 * 4 + 128 + 1)
    assert summary["test_accuracy"] == 1.0
    again = learn(choice, Folder(tmp_path / "again"), tmp_path / "cache")
    assert (again["images_encoded"], again["test_accuracy"]) == (0, 1.0)
