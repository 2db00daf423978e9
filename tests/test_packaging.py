"""Only `stillsight` enters site-packages: `agents` is another distribution's import name."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the tracked files."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (root / name).is_file() and not name.startswith("results/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((root / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(built: Path) -> list[str]:
    """Names of the files in the wheel."""
    return zipfile.ZipFile(built).namelist()


def test_the_wheel_holds_one_top_level_name(wheel: list[str]) -> None:
    top = {name.split("/")[0] for name in wheel if ".dist-info/" not in name}
    assert top == {"stillsight"}


def test_the_wheel_holds_every_module_and_the_shipped_encoder(wheel: list[str], root: Path) -> None:
    for package in ("agents", "envs", "encoders"):
        for file in (root / package).rglob("*.py"):
            name = f"stillsight/{file.relative_to(root)}"
            assert name.replace("agents/stillsight/", "") in wheel  # what lies in the namespace itself
        assert f"stillsight/{package}/py.typed" in wheel
    assert "stillsight/encoders/zoo/pretrained/retina.safetensors" in wheel
    assert "stillsight/encoders/zoo/pretrained/retina.md" in wheel


@pytest.mark.parametrize("package", ["agents", "encoders", "envs"])
def test_every_public_name_is_found(package: str) -> None:
    module = importlib.import_module(f"stillsight.{package}")
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert module.__all__
    assert not missing


def test_python_m_stillsight_is_the_console_script(built: Path, wheel: list[str], tmp_path: Path) -> None:
    assert "stillsight/__main__.py" in wheel, "a checkout that is installed here would stand in for it"
    zipfile.ZipFile(built).extractall(tmp_path / "installed")
    # Not the checkout, nor what is installed here: the wheel, through a path that comes first.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "PYTHONSAFEPATH": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stillsight", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    shown = run("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("usage: stillsight COMMAND")
    refused = run("rl", "--steps", "0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "stillsight: --steps 0 is too small. Type a number from 1.\n"
    where = "import stillsight.agents.cli as cli; print(cli.__file__)"
    found = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert Path(found.stdout.strip()).is_relative_to(tmp_path)


def test_the_script_at_the_top_is_the_console_script(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"stillsight": "stillsight.agents.cli:main"}
    shown = subprocess.run([sys.executable, "train.py", "--help"], cwd=root, capture_output=True, text=True, check=True)
    assert "usage: stillsight COMMAND" in shown.stdout
    assert len((root / "train.py").read_text().splitlines()) < 20
