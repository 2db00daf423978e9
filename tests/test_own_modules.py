"""A user's own encoder and environment, in the current folder, through the commands as they are typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENCODERS = """
from torch import nn
from stillsight.encoders import Backbone, Preprocessing

def tiny():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.Conv2d(8, 16, 3, stride=2))
    return Backbone(model=model, stages={"low": model[0], "high": model[1]}, preprocessing=Preprocessing(), tap="high")
"""
WORLDS = """
import gymnasium
from stillsight.envs import Orchard

gymnasium.register("My-v0", Orchard)
"""
QUICK = ["--steps", "32", "--n-envs", "1", "--eval-every", "0", "--eval-episodes", "1", "--head", "16", "--standardise",
         "8", "--set", "n_steps=16", "batch_size=16", "n_epochs=1"]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with modules of the user's own, which is not on Python's path."""
    (tmp_path / "my_encoders.py").write_text(ENCODERS)
    (tmp_path / "my_worlds.py").write_text(WORLDS)
    return tmp_path


def typed(here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What the installed command does in the folder `here`."""
    script = Path(sys.executable).with_name("stillsight")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if not script.exists():
        pytest.skip("stillsight is not installed as a command here")
    return subprocess.run([script, *words], cwd=here, capture_output=True, text=True, env=environment)


def test_an_encoder_and_an_environment_of_ones_own_are_found_where_they_lie(here: Path) -> None:
    words = ["rl", "--env", "my_worlds:My-v0", "--encoder", "my_encoders:tiny", "--mode", "scratch", "--out", "run"]
    done = typed(here, *words, *QUICK)
    assert done.returncode == 0, done.stderr
    config = json.loads((here / "run" / "config.json").read_text())
    assert (config["tap"], config["pooling"]) == ("low", "grid6"), "an early tap and a grid, like anybody's"
    assert "my_encoders:tiny to low, pooling grid6" in done.stdout


def test_an_environment_of_ones_own_is_measured_where_it_lies(here: Path) -> None:
    words = ["throughput", "--envs", "my_worlds:My-v0", "--n-envs", "1", "--rounds", "1", "--seconds", "0.1", "--json"]
    done = typed(here, *words)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {row["env"] for row in rows} == {"my_worlds:My-v0"}
    assert next(row for row in rows if row["backend"] == "loop")["env_steps_per_s"]["least"] > 0


def test_a_slip_in_the_module_s_name_is_one_sentence(here: Path) -> None:
    done = typed(here, "rl", "--encoder", "my_encodrs:tiny", "--mode", "scratch", *QUICK)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("stillsight: The encoder 'my_encodrs:tiny' cannot be imported: No module named")
    assert len(done.stderr.splitlines()) == 1


def test_what_lies_in_the_current_folder_does_not_take_the_place_of_what_is_installed(here: Path) -> None:
    (here / "torch.py").write_text("raise SystemExit('the wrong torch')")
    done = typed(here, "rl", "--encoder", "my_encoders:tiny", "--mode", "scratch", "--out", "run", *QUICK)
    assert done.returncode == 0, done.stderr
