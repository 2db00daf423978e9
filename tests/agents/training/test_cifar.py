"""The cifar command: its run folder, its resumption, TensorBoard, torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.runs import checkpoint, tensorboard
from stillsight.agents.runs.folder import Run
from stillsight.agents.training.cifar import cifar
from stillsight.encoders import Mode
from stillsight.encoders.supervised.cifar_config import CifarConfig

pytestmark = pytest.mark.usefixtures("settings_restored")

CLOCKS = ("images_per_s", "train_seconds")
"""What a clock measured in a row."""


def words(paint: Path, out: Path) -> list[str]:
    flags = {"dataset": paint, "cache": out.parent / "cache", "out": out, "tap": "layer1", "crop": 0, "threads": 1}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))] + ["--device", "cpu"]


def test_the_command_line_makes_a_run_that_is_finished(
    paint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    command = ["cifar", *words(paint, folder), "--mode", "random", "--shots", "5"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "8 train, 2 validation, 8 test images" in shown
    assert "test_accuracy" in shown
    assert (folder / "done").exists()
    assert {path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()}, (
        "features are kept where it was said"
    )
    assert main(command) == 2
    assert "holds a finished run" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"is finished\. Its results are in"):
        cifar(CifarConfig(resume=folder))


def test_a_folder_that_is_none_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cifar", *words(tmp_path / "nowhere", tmp_path / "run")]) == 2
    assert "is neither cifar10, cifar100 nor a folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_one_image_a_class_makes_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, colour in (("red", (200, 0, 0)), ("green", (0, 200, 0))):
        (tmp_path / "one" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "one" / name / "0.png")
    assert main(["cifar", *words(tmp_path / "one", tmp_path / "run"), "--mode", "random"]) == 2
    shown = capsys.readouterr()
    assert "nan" not in shown.out
    assert "leaves no images to test on" in shown.err
    assert not (tmp_path / "run").exists()


def test_odd_names_and_missing_numbers_cost_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("Train", 1), ("TEST", 3)):
        for channel, name in enumerate((b"$100_to_$200", b"caf\xe9", b"two\nlines")):
            place = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path / "odd" / part), name)))
            place.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 100, (16, 16, 3), np.uint8)
                pixels[:, :, channel] += 100
                Image.fromarray(pixels).save(place / f"{number}.png")
    folder = tmp_path / "run"
    assert main(["cifar", *words(tmp_path / "odd", folder), "--mode", "random"]) == 0
    assert "one image alone, kept for learning: $100_to_$200, caf\\xe9, two\\nlines" in capsys.readouterr().out

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    files = list(folder.rglob("*.json*"))
    assert {path.name for path in files} >= {"config.json", "summary.json", "report.json", "metrics.jsonl"}
    for path in files:
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(text, parse_constant=refuse)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["classes"] == ["$100_to_$200", "caf\\xe9", "two\\nlines"]
    assert (summary["validation_accuracy"], summary["interpolation"]) == (None, "bilinear")
    assert {path.name for path in (folder / "report").glob("*.png")} >= {"confusion.png", "reliability.png"}
    assert main(["evaluate", str(folder)]) == 0
    assert main(["plot", str(folder), "--out", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").exists()


def scalars(folder: Path) -> list[tuple[int, float]]:
    """(epoch, loss) as TensorBoard draws them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in curves.Scalars("metrics/loss")]


def test_tensorboard_gets_the_same_numbers(paint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert (
        main(["cifar", *words(paint, folder), "--mode", "scratch", "--epochs", "2", "--batch", "8", "--tensorboard"])
        == 0
    )
    found = scalars(folder)
    assert len(found) == 2
    assert found == [(row["epoch"], pytest.approx(row["loss"])) for row in rows(folder)]


def test_tensorboard_that_is_missing_is_one_sentence(
    paint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda _: None)
    with pytest.raises(RunError, match=r'^TensorBoard is not installed\. Run: pip install "stillsight\[tensorboard\]"'):
        cifar(CifarConfig(dataset=str(paint), out=tmp_path / "run", tensorboard=True, crop=2))
    assert not (tmp_path / "run").exists()


def rows(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock measured."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in found]


class PlugPulledError(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_epoch_that_was_logged_and_not_saved_is_in_the_metrics_once(
    paint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    flags = ["--mode", "scratch", "--epochs", "3", "--batch", "8", "--tensorboard", "--precision", "float32"]
    assert main(["cifar", *words(paint, tmp_path / "straight"), *flags]) == 0
    expected = rows(tmp_path / "straight")
    assert [row["epoch"] for row in expected] == [1, 2, 3]

    save = Run.save

    def pulled(run: Run, name: str, tree: dict[str, Any], *rest: Any) -> None:
        if tree["epoch"] == epoch:
            raise PlugPulledError
        save(run, name, tree, *rest)

    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", pulled)
        with pytest.raises(PlugPulledError):
            main(["cifar", *words(paint, folder), *flags])
    assert rows(folder) == expected[:epoch], "the row is there, and its checkpoint is not"
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')  # and a row was cut off
    assert main(["cifar", "--resume", str(folder)]) == 0
    assert rows(folder) == expected
    assert scalars(folder) == [(row["epoch"], pytest.approx(row["loss"])) for row in expected]


def stored(folder: Path) -> dict[str, Any]:
    return checkpoint.load(folder / "checkpoints" / "last.safetensors")


def test_a_finished_training_goes_on_with_more_epochs(
    paint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert (
        main(["cifar", *words(paint, folder), *["--mode", "scratch", "--epochs", "2", "--batch", "8", "--warmup", "0"]])
        == 0
    )
    before = rows(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["epochs"] == 2
    capsys.readouterr()
    assert main(["cifar", "--resume", str(folder), "--epochs", "4", "--mode", "scratch"]) == 0
    card = capsys.readouterr().out
    assert "after epoch 2 of 4; epochs 2 before, 4 now" in card
    assert "follows the new length: the rate goes on at 50.0% of its highest, where it stood at 0.0%" in card
    assert rows(folder)[:2] == before
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3, 4]
    assert stored(folder)["epoch"] == 4
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 4
    assert json.loads((folder / "config.json").read_text())["epochs"] == 4
    sessions = json.loads((folder / "machine.json").read_text())["sessions"]
    assert sessions[1]["changed"] == {"epochs": {"before": 2, "now": 4}}
    assert (folder / "done").exists()

    for flags, told in (
        ("", f"type a larger number: --resume {folder} --epochs 8"),
        ("--epochs 3", f"type a larger number: --resume {folder} --epochs 8"),
        ("--epochs 8 --lr 0.1", "not with --lr 0.1 (it has None). On --resume may change: --epochs, --save-every"),
        ("--epochs 8 --head linear --flip --seed 3", "not with --seed 3 (it has 0)"),
    ):
        assert main(["cifar", "--resume", str(folder), *flags.split()]) == 2
        assert told in capsys.readouterr().err
    (folder / "done").unlink()
    assert main(["cifar", "--resume", str(folder), "--epochs", "3"]) == 2
    assert "stands after epoch 4, and --epochs 3 does not lie beyond it" in capsys.readouterr().err


def test_a_training_that_stopped_early_does_not_go_on(
    paint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    flags = "--mode scratch --epochs 30 --batch 8 --patience 1 --lr 1e-9"
    assert main(["cifar", *words(paint, folder), *flags.split()]) == 0
    assert stored(folder)["epoch"] < 30
    assert main(["cifar", "--resume", str(folder), "--epochs", "60"]) == 2
    assert "--patience 1 waits no longer. More --epochs would not be made" in capsys.readouterr().err


def test_a_head_on_frozen_features_has_no_epochs_to_go_on_with(
    paint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(["cifar", *words(paint, folder), "--mode", "random"]) == 0
    assert main(["cifar", "--resume", str(folder), "--epochs", "60"]) == 2
    assert "--epochs has no effect with --mode random" in capsys.readouterr().err


def test_a_frozen_run_that_was_stopped_before_its_end_has_one_row(
    paint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pulled(*_: Any) -> None:
        raise PlugPulledError

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", pulled)
        with pytest.raises(PlugPulledError):
            main(["cifar", *words(paint, folder), "--mode", "random"])
    (row,) = rows(folder)
    assert main(["cifar", "--resume", str(folder)]) == 0
    assert rows(folder) == [row]


def test_under_torchrun_two_processes_make_one_run(paint: Path, tmp_path: Path) -> None:
    code = tmp_path / "train.py"
    code.write_text("import sys\nfrom stillsight.agents.cli import main\nsys.exit(main())\n")
    flags = ["cifar", *words(paint, tmp_path / "run"), "--mode", "scratch", "--epochs", "1", "--batch", "8"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, str(code), *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test_accuracy") == 1, "one process talks"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["mode"] == Mode.SCRATCH.value
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_under_torchrun_all_processes_stop_at_one_update_and_one_saves(paint: Path, tmp_path: Path) -> None:
    code, folder = tmp_path / "train.py", tmp_path / "run"
    code.write_text("import sys\nfrom stillsight.agents.cli import main\nsys.exit(main())\n")
    flags = ["cifar", *words(paint, folder), "--mode", "scratch", "--epochs", "100000", "--batch", "8"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*launcher, str(code), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=25)
    assert told.count("stillsight: Stopped by SIGTERM. Its last checkpoint") == 1, told
    epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    stored = checkpoint.load(folder / "checkpoints" / "last.safetensors")
    assert epochs == list(range(1, int(stored["epoch"]) + 1)), "what is saved is what was recorded"
    assert not (folder / ".lock").exists()


SHARED = """
from torch import nn
from stillsight.encoders import Backbone, Preprocessing

def eyes():
    model = nn.Module()
    model.low = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
    model.mid = nn.Conv2d(8, 8, 3, padding=1)
    model.high = model.mid
    stages = {"low": model.low, "mid": model.mid, "high": model.high}
    return Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="high")
"""


def test_a_network_that_shares_a_module_is_trained_saved_and_read(
    paint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared_eyes.py").write_text(SHARED)
    monkeypatch.syspath_prepend(tmp_path)

    def words(name: str, mode: str, *more: str) -> list[str]:
        flags = {"dataset": paint, "cache": tmp_path / "cache", "out": tmp_path / name, "encoder": "shared_eyes:eyes"}
        flags |= {"mode": mode, "crop": 2, "threads": 1, "device": "cpu", "precision": "float32"}
        return ["cifar", *(word for flag, value in flags.items() for word in (f"--{flag}", str(value))), *more]

    def summary(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / name / "summary.json").read_text())
        return found

    assert main(words("first", "scratch", "--epochs", "2", "--batch", "8")) == 0
    assert main(words("second", "finetune", "--weights", str(tmp_path / "first"), "--epochs", "8", "--batch", "8")) == 0
    assert summary("second")["encoder_sha256_before"] == summary("first")["encoder_sha256_after"]
    assert summary("second")["encoder_sha256_after"] != summary("second")["encoder_sha256_before"]
    assert summary("second")["test_accuracy"] == 1.0
    capsys.readouterr()
    pictures = [str(paint / name / "3.png") for name in ("red", "green")]
    allowed = ["--trust", "shared_eyes:eyes"]
    assert main(["predict", str(tmp_path / "second"), *pictures, "--json", "--device", "cpu", *allowed]) == 0
    told = [json.loads(line)["predictions"][0]["class"] for line in capsys.readouterr().out.splitlines()]
    assert told == ["red", "green"]


@pytest.mark.usefixtures("ends")
def test_a_strangers_run_writes_into_no_file_of_the_user(
    paint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, diary = tmp_path / "e", tmp_path / "diary.txt"
    diary.write_text("kept")
    assert main(["cifar", *words(paint, Path("e")), "--mode", "random", "--shots", "5"]) == 0
    (tmp_path / "cache").rename(folder / "cache")
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"cache": "e/cache"}))
    for path in (folder / "done", folder / "summary.json"):
        path.unlink()
    (store,) = (path for path in (folder / "cache").iterdir() if path.is_dir())
    (store / "index").write_bytes(b"")
    (store / "rows.f32").unlink()
    (store / "rows.f32").symlink_to(diary)
    capsys.readouterr()
    assert main(["cifar", "--resume", "e"]) == 2
    assert (
        f"rows.f32 is a link to {diary}, and stillsight writes through no link inside a cache"
        in capsys.readouterr().err
    )
    assert diary.read_text() == "kept"
    (store / "rows.f32").unlink()
    assert main(["cifar", "--resume", "e"]) == 0
