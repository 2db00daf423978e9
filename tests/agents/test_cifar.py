"""The cifar command: its run folder, its resumption, TensorBoard, torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillsight.agents import cifar as command
from stillsight.agents.cifar import cifar
from stillsight.agents.cli import main
from stillsight.agents.runs import RunError
from stillsight.encoders import Mode
from stillsight.encoders.supervised.learn import CifarConfig

pytestmark = pytest.mark.usefixtures("settings_restored")


@pytest.fixture(scope="module")
def paint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder: twenty red and twenty green pictures."""
    folder = tmp_path_factory.mktemp("paint")
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green")):
        (folder / name).mkdir()
        for number in range(20):
            pixels = generator.integers(0, 100, (16, 16, 3), np.uint8)
            pixels[:, :, channel] += 100
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def words(paint: Path, out: Path) -> list[str]:
    flags = {"dataset": paint, "cache": out.parent / "cache", "out": out, "tap": "layer1", "crop": 2, "threads": 1}
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


def test_tensorboard_gets_the_same_numbers(paint: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    assert (
        main(["cifar", *words(paint, folder), "--mode", "scratch", "--epochs", "2", "--batch", "8", "--tensorboard"])
        == 0
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curves = EventAccumulator(str(folder / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in curves.Scalars("metrics/loss")]
    assert found == [(row["epoch"], pytest.approx(row["loss"])) for row in rows]


def test_tensorboard_that_is_missing_is_one_sentence(
    paint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    with pytest.raises(RunError, match=r'^TensorBoard is not installed\. Run: pip install "stillsight\[tensorboard\]"'):
        cifar(CifarConfig(dataset=str(paint), out=tmp_path / "run", tensorboard=True, crop=2))
    assert not (tmp_path / "run").exists()


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
