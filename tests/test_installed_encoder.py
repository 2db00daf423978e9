"""A third party's encoder in a package of its own, installed by pip, through the commands by its name."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "their-eyes"
version = "1.0"

[project.entry-points."stillsight.encoders"]
hawk = "their_eyes.networks:hawk"
resnet18 = "their_eyes.networks:hawk"

[tool.setuptools]
packages = ["their_eyes"]

[tool.setuptools.package-data]
their_eyes = ["*.safetensors"]
"""
NETWORKS = """
from pathlib import Path

from torch import nn
from stillsight.encoders import Backbone, Preprocessing

def hawk():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.Conv2d(8, 16, 3, stride=2), nn.Conv2d(16, 4, 1))
    stages = {"far": model[0], "near": model[1], "prey": model[2]}
    return Backbone(
        model=model, stages=stages, preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5)), tap="prey",
        control=("far", "grid2"), weights=str(Path(__file__).with_name("hawk.safetensors")), licence="theirs",
    )
"""
QUICK = ["--steps", "32", "--n-envs", "1", "--eval-every", "0", "--eval-episodes", "1", "--head", "16", "--standardise",
         "8", "--set", "n_steps=16", "batch_size=16", "n_epochs=1", "--device", "cpu", "--size", "36"]  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed their package."""
    import torch
    from safetensors.torch import save_file
    from torch import nn

    source, place = tmp_path_factory.mktemp("their_source"), tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "their_eyes").mkdir()
    (source / "their_eyes" / "__init__.py").write_text("")
    (source / "their_eyes" / "networks.py").write_text(NETWORKS)
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 4, 1))
    save_file(network.state_dict(), source / "their_eyes" / "hawk.safetensors")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(place), str(source)], check=True, capture_output=True)
    return place


def typed(installed: Path, here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What the command does in the folder `here`, where their package is installed."""
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stillsight", *words]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, env=environment)


def test_an_agent_looks_through_it_by_its_name_and_a_run_folder_must_be_trusted(
    installed: Path, tmp_path: Path
) -> None:
    done = typed(installed, tmp_path, "rl", "--encoder", "hawk", "--out", "run", *QUICK)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["encoder"], config["tap"], config["pooling"]) == ("hawk", "far", "grid2"), "as its author says"
    assert "hawk.safetensors" in done.stdout
    assert "--trust hawk" in done.stdout, "what to type to open it again"
    again = ("evaluate", "run", "--episodes", "1", "--random-episodes", "0", "--device", "cpu")
    refused = typed(installed, tmp_path, *again)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "run asks for the encoder hawk, whose code an installed package brings and would be imported." in (
        refused.stderr
    )
    assert typed(installed, tmp_path, *again, "--trust", "hawk").returncode == 0


def test_it_is_listed_and_takes_no_name_of_ours(installed: Path, tmp_path: Path) -> None:
    code = (
        "from stillsight.encoders.zoo.registry import names, installed, matching, spec\n"
        "print(names()[-1], installed(), matching('haw'), spec('resnet18').own, spec('hawk').own, spec('hawk').name)"
    )
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert told.stdout == "hawk {'hawk': 'their_eyes.networks:hawk'} ['hawk'] False True hawk\n", told.stderr
    assert told.stderr == (
        "stillsight: their-eyes brings an encoder named 'resnet18' too, and that name stays stillsight's own. For "
        "theirs type: --encoder their_eyes.networks:hawk (their-eyes).\n"
    )


@pytest.mark.slow
def test_classifiers_and_benchmarks_take_it(installed: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for number, colour in enumerate(("red", "blue")):
            folder = tmp_path / "pictures" / part / colour
            folder.mkdir(parents=True)
            for index in range(12):
                Image.new("RGB", (32, 32), (200 * (1 - number) + index, len(part), 200 * number)).save(
                    folder / f"{index}.png"
                )
    words = ("--encoder", "hawk", "--dataset", "pictures", "--out", "classifier", "--device", "cpu")
    done = typed(installed, tmp_path, "cifar", *words)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "classifier" / "config.json").read_text())
    assert config["encoder"] == "hawk"
    theirs = hashlib.sha256((installed / "their_eyes" / "hawk.safetensors").read_bytes()).hexdigest()
    summary = json.loads((tmp_path / "classifier" / "summary.json").read_text())
    assert (summary["tap"], summary["weights_sha256"], summary["weights_licence"]) == ("prey", theirs, "theirs")
    assert summary["encoder_sha256_before"] == summary["encoder_sha256_after"]
    assert summary["test_accuracy"] == 1.0, "red and blue"
    words = ("--env", "stillsight/Orchard-v0", "--encoder", "hawk", "--seeds", "1", "--steps", "64", "--plan")
    planned = typed(installed, tmp_path, "benchmark", *words, "--no-trial")
    assert planned.returncode == 0, planned.stderr
    assert "hawk" in planned.stdout
    spec = '[rl]\nsteps = 64\n[[task]]\nenv = "stillsight/Orchard-v0"\n[[encoder]]\nencoder = "hawk"\ncontrols = []\n'
    (tmp_path / "SPEC.toml").write_text(f'name = "birds"\nseeds = 1\n{spec}')
    refused = typed(installed, tmp_path, "benchmark", "SPEC.toml", "--no-trial")
    assert refused.returncode == 2
    assert "--trust hawk" in refused.stderr
    done = typed(installed, tmp_path, "benchmark", "SPEC.toml", "--no-trial", "--trust", "hawk")
    assert done.returncode == 0, done.stderr
    cells = [json.loads(path.read_text()) for path in tmp_path.rglob("cells/*.json")]
    assert cells, list(tmp_path.rglob("*"))
    (birds,) = (cell for cell in cells if cell["role"] == "frozen")
    looked_through = {name: birds["pins"][name] for name in ("encoder", "tap", "pooling", "weights_sha256")}
    assert looked_through == {"encoder": "hawk", "tap": "far", "pooling": "grid2", "weights_sha256": theirs}
    assert (birds["state"], len(birds["scores"]["clean"]), birds["cost"]["images_per_step"] < 1.5) == ("done", 20, True)
