"""A cifar run is enough: it is tested once more from its files, names pictures, and becomes the eyes of others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.playing.play import evaluate
from stillsight.agents.playing.play_config import EvaluateConfig
from stillsight.agents.runs.records import revive
from stillsight.agents.training.cifar import cifar
from stillsight.encoders import EncoderError, Mode
from stillsight.encoders.building import build as build_encoder
from stillsight.encoders.config import EncoderConfig
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.report import report
from stillsight.encoders.zoo.registry import make_backbone

Tiny = Callable[..., RlConfig]


AGENT = {"command": "rl", "env": "stillsight/Orchard-v0", "algo": "ppo", "encoder": "retina", "mode": "frozen"}

pytestmark = pytest.mark.usefixtures("settings_restored")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of red, green and blue pictures, so noisy that some are taken for others."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir()
        for index in range(30):
            pixels = generator.integers(0, 200, (16, 16, 3))
            pixels[:, :, channel] += 8 * (index % 6)
            cv2.imwrite(str(folder / name / f"{index}.png"), pixels[:, :, ::-1].astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of retina weights."""
    torch.manual_seed(8)
    state = make_backbone("retina").model.state_dict()
    path = tmp_path_factory.mktemp("weights") / "eyes.safetensors"
    save_file({key: t.detach().clone(memory_format=torch.contiguous_format) for key, t in state.items()}, path)
    return path


def run(pictures: Path, out: Path, weights: Path, **changes: Any) -> dict[str, Any]:
    """A short cifar run on the pictures."""
    mode = Mode(changes.pop("mode"))
    settings: dict[str, Any] = {
        "dataset": str(pictures), "cache": out.parent / "cache", "out": out, "tap": "layer2", "device": "cpu",
        "precision": "float32", "threads": 1, "epochs": 2, "batch": 16, "crop": 2,
        "weights": weights if mode.pretrained else None,
    }  # fmt: skip
    return cifar(CifarConfig(mode=mode, **(settings | changes)))


KINDS: dict[str, dict[str, Any]] = {
    "frozen": {"mode": "frozen"},
    "random": {"mode": "random", "head": "ncm", "seed": 3},
    "scratch": {"mode": "scratch", "tta": True},
    "finetune": {"mode": "finetune", "unfreeze": "layer2", "save_dtype": "float16"},
    "warm": {"mode": "finetune", "warm_start": True, "lr": 0.001},
    "lora": {"mode": "finetune", "adapt": "lora", "lora_rank": 2},
    "ema": {"mode": "scratch", "ema": 0.5},
    "bf16": {"mode": "scratch", "precision": "bf16"},
}
TRAINED = [kind for kind, changes in KINDS.items() if Mode(changes["mode"]).trained]


@pytest.fixture(scope="module")
def runs(
    pictures: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """A finished run of each kind and its summary, made when it is first asked for."""
    root = tmp_path_factory.mktemp("runs")
    made: dict[str, dict[str, Any]] = {}

    def get(kind: str) -> tuple[Path, dict[str, Any]]:
        if kind not in made:
            made[kind] = run(pictures, root / kind, pretrained, **KINDS[kind])
        return root / kind, made[kind]

    return get


Runs = Callable[[str], tuple[Path, dict[str, Any]]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_tested_again_to_the_same_numbers(kind: str, runs: Runs, tmp_path: Path) -> None:
    made, summary = runs(kind)
    before = json.loads((made / "report" / "report.json").read_text())
    folder = shutil.copytree(made, tmp_path / "moved")
    result = evaluate(folder, EvaluateConfig(device="cpu"))
    assert result["accuracy"] == result["recorded_accuracy"] == summary["test_accuracy"]
    assert result["images"] == summary["test_images"] == 18, "a fifth of ninety"
    after = json.loads((folder / "report-test" / "report.json").read_text())
    assert after["confusion"] == before["confusion"]
    for name in report.HEADLINE:
        if name in before:
            assert after[name] == pytest.approx(before[name], abs=1e-5)
            assert summary[f"test_{name}"] == before[name]
    assert json.loads((folder / "evaluations.jsonl").read_text()) == result


def test_the_validation_images_have_a_report_of_their_own(runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs("scratch")[0], tmp_path / "run")
    untouched = (folder / "report" / "report.json").read_bytes()
    result = evaluate(folder, EvaluateConfig(split="validation", device="cpu"))
    assert result["recorded_accuracy"] == runs("scratch")[1]["validation_accuracy"]
    assert result["accuracy"] == pytest.approx(result["recorded_accuracy"], abs=1e-6)
    assert json.loads((folder / "report-validation" / "report.json").read_text())["images"] == result["images"]
    assert (folder / "report" / "report.json").read_bytes() == untouched


def test_validation_images_that_were_learned_are_not_tested_on(runs: Runs) -> None:
    with pytest.raises(RunError, match=r"was fitted again to training and validation .* Type --split test\.$"):
        evaluate(runs("frozen")[0], EvaluateConfig(split="validation", device="cpu"))


def test_validation_images_that_no_head_learned_are_tested_on(pictures: Path, pretrained: Path, tmp_path: Path) -> None:
    summary = run(pictures, tmp_path / "run", pretrained, mode="frozen", refit=False)
    result = evaluate(tmp_path / "run", EvaluateConfig(split="validation", device="cpu"))
    assert result["accuracy"] == pytest.approx(summary["validation_accuracy"], abs=1e-6)


def test_a_run_of_before_heads_had_a_choice_was_refitted(root: Path) -> None:
    paths = list((root / "results" / "published" / "cifar").glob("*/config.json"))
    assert paths
    for path in paths:
        record = json.loads(path.read_text())
        assert "refit" not in record
        assert revive(CifarConfig, record).refit


def test_no_validation_images_is_one_sentence(pictures: Path, pretrained: Path, tmp_path: Path) -> None:
    run(pictures, tmp_path / "run", pretrained, mode="random", shots=1)
    with pytest.raises(RunError, match=r"held no images out for validation\. Type --split test\.$"):
        evaluate(tmp_path / "run", EvaluateConfig(split="validation", device="cpu"))


def test_other_images_are_refused_and_moved_ones_can_be_named(runs: Runs, pictures: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs("scratch")[0], tmp_path / "run")
    moved = shutil.copytree(pictures, tmp_path / "moved")
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"dataset": str(tmp_path / "gone")}))
    with pytest.raises(RunError, match=r"^The images of .* are not in .*gone\. Say where they are: --data FOLDER\.$"):
        evaluate(folder, EvaluateConfig(device="cpu"))
    assert evaluate(folder, EvaluateConfig(device="cpu", data=moved))["accuracy"] == runs("scratch")[1]["test_accuracy"]
    (moved / "red" / "3.png").write_bytes((moved / "blue" / "3.png").read_bytes())
    with pytest.raises(
        RunError, match=r"was run on .* images with sha256 \w+, and these have \w+\. Say where the right"
    ):
        evaluate(folder, EvaluateConfig(device="cpu", data=moved))


def test_a_head_that_was_exchanged_is_found_out(runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs("scratch")[0], tmp_path / "run")
    head = load_file(folder / "checkpoints" / "head.safetensors")
    head["bias"][0] += 1000
    save_file(head, folder / "checkpoints" / "head.safetensors")
    with pytest.raises(
        RunError, match=r"has an accuracy of .*% on its test images, and its summary\.json says .*%: the"
    ):
        evaluate(folder, EvaluateConfig(device="cpu"))
    assert not (folder / "report-test").exists()


def test_flags_of_the_other_kind_of_run_are_refused(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^--episodes is for rl runs, and .* is a run of cifar\. Drop it\.$"):
        evaluate(runs("scratch")[0], EvaluateConfig(episodes=3))
    (tmp_path / "config.json").write_text(json.dumps(AGENT))
    with pytest.raises(RunError, match=r"^--split is for cifar runs, and .* is a run of rl\. Drop it\.$"):
        evaluate(tmp_path, EvaluateConfig(split="validation"))


# Eyes for others ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRAINED)
def test_a_run_that_trained_its_encoder_is_weights(kind: str, runs: Runs, pictures: Path, tmp_path: Path) -> None:
    folder, summary = runs(kind)
    choice = EncoderConfig(weights=folder, tap="layer2", precision="float32", device="cpu")
    encoder = build_encoder(choice, pinned=True)
    assert encoder.sha256() == summary["encoder_sha256_after"]
    # A warm start that no epoch improves on is kept.
    kept = summary.get("best_epoch") == 0
    assert kept == (summary["encoder_sha256_after"] == summary["encoder_sha256_before"])
    assert kind == "warm" or not kept
    assert encoder.provenance.kind == "run"
    again = run(pictures, tmp_path / "again", folder, mode="frozen")
    assert again["encoder_sha256_before"] == summary["encoder_sha256_after"]
    assert again["weights_source"] == "run"


@pytest.mark.parametrize("kind", ["frozen", "random"])
def test_a_run_that_trained_a_head_alone_has_no_weights_to_give(kind: str, runs: Runs) -> None:
    folder, _ = runs(kind)
    with pytest.raises(EncoderError, match=r"holds no trained encoder .*\(--mode finetune or scratch\)\.$"):
        build_encoder(EncoderConfig(weights=folder, tap="layer2", device="cpu"), pinned=True)


def test_an_agent_looks_through_the_eyes_of_a_cifar_run(tiny: Tiny, runs: Runs, tmp_path: Path) -> None:
    folder, summary = runs("lora")
    rl(tiny("ppo", steps=32, out=tmp_path / "agent", weights=folder, tap="layer2"))
    agent = load(tmp_path / "agent", "last", device="cpu")
    assert agent.encoder.sha256() == summary["encoder_sha256_after"]


# The command line -----------------------------------------------------------------------------------------------------


def test_predict_and_evaluate_from_the_command_line(
    runs: Runs, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(runs("scratch")[0], tmp_path / "run")
    assert main(["evaluate", str(folder), "--device", "cpu"]) == 0
    assert f"accuracy                              {runs('scratch')[1]['test_accuracy']:.4f}" in capsys.readouterr().out
    red, green = pictures / "red" / "5.png", pictures / "green"
    assert main(["predict", str(folder), str(red), str(green), "--top", "1", "--json", "--device", "cpu"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["image"] for one in told[:2]] == [str(red), str(green / "0.png")]
    assert len(told) == 31
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert main(["predict", str(folder), str(tmp_path / "broken.png"), "--device", "cpu"]) == 2
    assert "broken.png cannot be read as a picture" in capsys.readouterr().err
    assert main(["predict", str(folder), str(tmp_path / "gone.png")]) == 2
    assert "There is no file or folder" in capsys.readouterr().err
