"""What the folders' READMEs say about adding an environment or a suite is true, and they show their files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import EnvOptions, make_vec


def blocks(readme: Path) -> list[str]:
    """The Python programs of a README, in its order."""
    return re.findall(r"```python\n(.*?)```", readme.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("folder", ["envs", "envs/suites", "envs/orchard", "envs/adapters"])
def test_a_folder_s_readme_shows_every_file_once(root: Path, folder: str) -> None:
    shown = re.findall(r"^\| \[?`([\w.]+/?)`", (root / folder / "README.md").read_text(), flags=re.MULTILINE)
    files = {file.name for file in (root / folder).glob("*.py")}
    files |= {f"{file.parent.name}/" for file in (root / folder).glob("*/__init__.py")}
    if folder == "envs":
        files.remove("__init__.py")  # the public names
    assert sorted(shown) == sorted(files)


def test_an_environment_of_one_s_own_needs_no_edit(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_lamps.py").write_text(blocks(root / "envs/README.md")[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    venv = make_vec("my_lamps:Lamp-v0", 3, seed=1, options=EnvOptions(size=0))
    try:
        pixels = np.asarray(venv.reset())
        assert pixels.shape == (3, 3, 32, 32)
        for _ in range(20):
            lit = (pixels[:, 0, 0, 0] == 255).astype(np.int64)
            frames, rewards, dones, infos = venv.step(lit)
            pixels = np.asarray(frames)
            assert rewards.tolist() == [1.0] * 3
        assert dones.all()
        assert [info["episode"]["r"] for info in infos] == [20.0] * 3
        assert [info["TimeLimit.truncated"] for info in infos] == [True] * 3
    finally:
        venv.close()
        gym.registry.pop("Lamp-v0")


NEW_SUITE = """
import stillsight.envs as envs
from stillsight.envs.registry import guessed_from_name, suite_of

print(envs.__file__)
print(list(envs.ROWS)[-1], guessed_from_name("FrozenLake-v1").spec("FrozenLake-v1").options.size)
venv = envs.make_vec("FrozenLake-v1", 2)
print(venv.reset().shape)
other = envs.resolve("CliffWalking-v1")
print(suite_of("CliffWalking-v1").kind, other.options.size, other.extra, suite_of("MountainCar-v0").kind)
"""


def test_a_new_suite_is_one_file(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    suites = shutil.copytree(root / "envs", tmp_path / "stillsight/envs") / "suites"
    (suites / "toy_text.py").write_text(blocks(root / "envs/suites/README.md")[0])
    result = subprocess.run(
        [sys.executable, "-c", NEW_SUITE],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        str(tmp_path / "stillsight/envs/__init__.py"),
        "FrozenLake-v1 64",
        "(2, 3, 64, 64)",
        "toy text world 64 box2d Gymnasium environment",
    ]
