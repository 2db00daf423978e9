"""`stillsight gpu`: time is shared out and never exceeded, and whatever happens to a part, the folder is whole."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.measure.gpu import session as module
from stillsight.agents.measure.gpu.gpu_config import SHARES, GpuConfig
from stillsight.agents.measure.gpu.gpu_page import TITLES, render
from stillsight.agents.measure.gpu.gpu_tests import ROOT
from stillsight.agents.measure.gpu.parts import PARTS
from stillsight.agents.measure.gpu.session import FILES, session

Process = Callable[[GpuConfig, str, Path, float, Path], str | None]
TESTS = {"passed": 1, "failed": 0, "error": 0, "skipped": 1, "tests": [
    {"test": "tests/a.py::test_a", "outcome": "passed", "seconds": 0.25, "sentence": "", "traceback": ""},
    {"test": "tests/a.py::test_b", "outcome": "skipped", "seconds": 0.0, "sentence": "no | GPU", "traceback": ""},
]}  # fmt: skip
SPEED = {"images": "uint8", "weights": "random, seed 0", "tf32": True, "rounds": 3, "seconds": 0.1, "arms": [
    {"encoder": "retina", "tap": "layer1", "resolution": 84, "precision": "bf16", "engine": "graph", "batch": 8,
     "images_per_s": {"median": 12_345.6, "least": 12_000.0, "most": 13_000.0, "n": 3}},
    {"encoder": "vit_b_16", "tap": "norm", "resolution": 84, "precision": "bf16", "engine": "graph", "batch": 8,
     "refused": "84 px is not a multiple."},
]}  # fmt: skip
CIFAR = {"config": {"encoder": "resnet18", "mode": "scratch", "resolution": 64, "side": 32, "batch": 256},
         "images": "noise of CIFAR's shape", "arms": {"ours bf16": {"rounds": [30.0, 10.0, 20.0]}},
         "ratios": {"ours bf16 / plain bf16": {"median": 2.0, "least": 1.0, "most": 3.0}}}  # fmt: skip
RUN = {"run": {"env": "ALE/Pong-v5", "encoder": "resnet18", "tap": "layer4", "pooling": "global", "frame_stack": 4}}


class Clock:
    """Time that passes where parts work."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def wrote(file: Path, result: dict[str, Any], **more: Any) -> None:
    file.write_text(json.dumps({"whole": True, "result": result, **more}))


def read(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


def go(config: GpuConfig, folder: Path, process: Process, clock: Callable[[], float] = time.monotonic) -> int:
    folder.mkdir(exist_ok=True)
    return session(config, folder, process, Console(quiet=True), clock)  # type: ignore[arg-type]


def test_every_part_has_a_share_a_file_a_title_and_a_function() -> None:
    assert set(SHARES) == set(FILES) == set(TITLES) == set(PARTS)
    assert next(iter(SHARES)) == "tests"
    assert GpuConfig().seconds == sum(SHARES.values()) <= 9 * 60 - 15
    assert len({*FILES.values(), "gpu.json", "gpu.md"}) <= 8


def test_what_a_part_leaves_over_is_the_others_and_the_end_is_hard(tmp_path: Path) -> None:
    clock, limits = Clock(), {}

    def process(_: GpuConfig, name: str, numbers: Path, limit: float, __: Path) -> str | None:
        limits[name] = limit
        clock.now += {"tests": 5.0, "ppo": limit, "encoders": limit, "sac": 1_000.0}.get(name, limit)
        wrote(numbers, {})
        return None

    go(GpuConfig(), tmp_path / "gpu", process, clock)
    assert limits["tests"] == pytest.approx(SHARES["tests"])
    rest = sum(SHARES.values()) - 5.0
    assert limits["ppo"] == pytest.approx(rest * SHARES["ppo"] / (sum(SHARES.values()) - SHARES["tests"]))
    assert limits["ppo"] > SHARES["ppo"]
    assert limits["sac"] < rest - limits["ppo"] - limits["encoders"]
    assert limits["dqn"] == limits["cifar-frozen"] == 0.0, "a part that overruns leaves none, and nothing is negative"
    index = read(tmp_path / "gpu", "gpu.json")
    assert index["parts"]["tests"]["seconds"] == 5.0
    assert index["took"] == pytest.approx(clock.now, abs=0.1)


def test_a_part_that_fails_is_late_or_broken_keeps_what_it_has_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "gpu"

    def process(_: GpuConfig, name: str, numbers: Path, limit: float, log: Path) -> str | None:
        log.write_text("x" * 10_000 + "the last words")
        if name == "tests":
            wrote(numbers, TESTS)
        elif name == "ppo":  # killed in the middle of a round
            measured = {"cached": [{"env_steps_per_s": 100.0}, {"env_steps_per_s": 300.0}], "stock": []}
            wrote(numbers, {**RUN, "measured": measured, "broken": {}}, whole=False)
            return f"its {limit:.0f} s were over."
        elif name == "sac":  # killed before it measured anything, by the system
            return "its process ended with -9."
        elif name == "dqn":
            wrote(numbers, {}, whole=False, sentence="ValueError: no.", traceback="Traceback ...\nValueError: no.\n")
        elif name == "encoders":
            wrote(numbers, SPEED)
        else:
            wrote(numbers, CIFAR)
        page = render(folder) if (folder / "gpu.json").exists() else ""
        assert page == ((folder / "gpu.md").read_text() if page else "")
        return None

    assert go(GpuConfig(commit="abc"), folder, process) == 1
    parts = read(folder, "gpu.json")["parts"]
    assert {name: part["state"] for name, part in parts.items()} == {
        **dict.fromkeys(SHARES, "done"),
        "ppo": "partial",
        "sac": "failed",
        "dqn": "failed",
    }
    assert parts["ppo"]["said"].startswith("partial: its ")
    assert parts["sac"]["said"] == "failed: its process ended with -9."
    assert parts["sac"]["log"].endswith("the last words")
    assert len(parts["sac"]["log"]) == module.LOG
    assert parts["dqn"]["said"] == "failed: ValueError: no."
    assert parts["dqn"]["traceback"] == "Traceback ...\nValueError: no.\n"
    assert read(folder, "agents.json")["ppo"]["measured"]["cached"][1] == {"env_steps_per_s": 300.0}
    assert read(folder, "agents.json")["sac"] == {}
    assert sorted(path.name for path in folder.iterdir()) == [
        *("agents.json", "cifar.json", "encoders.json", "gpu.json", "gpu.md", "tests.json"),
    ]
    page = (folder / "gpu.md").read_text()
    assert "Commit abc." in page
    assert "| cached | 200 (100 .. 300), 2 |" in page
    assert "| stock | - |" in page
    assert "| retina | layer1 | 84 | bf16 | graph | 8 | 12,346 | 12,000 .. 13,000 |" in page
    assert "| vit_b_16 | norm | 84 | bf16 | graph | 8 | - | (1) |" in page
    assert "(1) 84 px is not a multiple." in page
    assert "| ours bf16 | 20 (10 .. 30), 3 |" in page
    assert "| tests/a.py::test_b | skipped | 0.0 | no \\| GPU |" in page
    assert "**failed: ValueError: no.**\n\nNothing was measured." in page
    shutil.copytree(folder, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "gpu.md").unlink()
    assert render(tmp_path / "elsewhere") == page, "the page is made of the JSON alone"


def test_a_test_that_fails_or_an_arm_that_breaks_is_no_success(tmp_path: Path) -> None:
    def process(_: GpuConfig, name: str, numbers: Path, __: float, ___: Path) -> str | None:
        broken = {**RUN, "measured": {}, "broken": {"stock": "RuntimeError: two devices."}}
        wrote(numbers, {**TESTS, "failed": 2} if name == "tests" else broken)
        return None

    assert go(GpuConfig(parts=("tests",)), tmp_path / "one", process) == 1
    assert read(tmp_path / "one", "gpu.json")["parts"]["tests"]["said"] == "failed: 2 of 2 tests failed."
    assert go(GpuConfig(parts=("ppo",)), tmp_path / "two", process) == 1
    assert read(tmp_path / "two", "gpu.json")["parts"]["ppo"]["said"] == "partial: stock: RuntimeError: two devices."


def test_what_was_measured_before_ctrl_c_is_kept(tmp_path: Path) -> None:
    def process(_: GpuConfig, name: str, numbers: Path, __: float, ___: Path) -> str | None:
        wrote(numbers, TESTS if name == "tests" else SPEED, whole=name == "tests")
        if name != "tests":
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        go(GpuConfig(parts=("tests", "encoders", "ppo")), tmp_path / "gpu", process)
    index = read(tmp_path / "gpu", "gpu.json")
    assert {name: part["said"] for name, part in index["parts"].items()} == {
        "tests": "1 passed, 1 skipped",
        "encoders": "partial: stopped by hand.",
    }
    assert read(tmp_path / "gpu", "encoders.json")["encoders"] == SPEED
    assert "12,346" in (tmp_path / "gpu" / "gpu.md").read_text()


SLOW = """
import json, subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
Path(sys.argv[2]).write_text(json.dumps({"whole": False, "result": {"child": child.pid, "words": sys.argv[1:]}}))
print("working", flush=True)
time.sleep(60)
"""


def alive(process: int) -> bool:
    """Whether it runs, and is not dead already without anybody having asked how."""
    try:
        return Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_part_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_part.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(module, "PARTS_MODULE", "slow_part")
    numbers, log = tmp_path / "numbers.json", tmp_path / "log"
    began = time.monotonic()
    config = GpuConfig(small=True, data=tmp_path)
    assert module._process(config, "encoders", numbers, 2.0, log) == "its 2 s were over."
    assert time.monotonic() - began < 20
    result = json.loads(numbers.read_text())["result"]
    assert result["words"] == ["encoders", str(numbers), "2.00", "small", str(tmp_path)]
    assert log.read_text() == "working\n"
    until = time.monotonic() + 30
    while alive(result["child"]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(result["child"]), "its child, which would sleep for minutes, was killed too"


def test_it_is_refused_where_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["gpu"]) == 2
    assert "stillsight gpu measures a CUDA GPU, and torch" in (error := capsys.readouterr().err)
    assert 'type --small; behind make: GPU_FLAGS="--small".' in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("--seconds 0", "--seconds 0 is no time for this. Type a number from 1 to 86_400, say 525."),
        ("--parts tests tests", "--parts names each part once. Parts are: tests, ppo, encoders, sac,"),
        ("--parts teats", "There is no value named 'teats'. Did you mean 'tests'?"),
        ("--out taken", "taken is there already. Give --out a new folder, or remove it."),
    ],
)
def test_what_shows_nothing_is_a_sentence(
    typed: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "gpu.json").touch()
    assert main(["gpu", *typed.split()]) == 2
    assert sentence in capsys.readouterr().err
    with pytest.raises(RunError, match="names each part once"):
        GpuConfig(parts=()).check()


def made(folder: Path, *flags: str) -> dict[str, Any]:
    """`make gpu` in a moment of each part, by the Python of the tests and nothing that make installs."""
    command = ["make", "gpu", f"PYTHON={sys.executable}", f"GPU={folder}", f"GPU_FLAGS={' '.join(['--small', *flags])}"]
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**environment, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stdout + ran.stderr + (folder / "gpu.json").read_text()
    index = read(folder, "gpu.json")
    assert {part["state"] for part in index["parts"].values()} == {"done"}
    assert (folder / "gpu.md").read_text() == render(folder)
    return index


def test_what_the_python_lacks_is_a_sentence(tmp_path: Path) -> None:
    bare = f"PYTHON={sys.executable} -S"
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "PYTHONPATH")}
    command = ["make", "gpu", bare, f"GPU={tmp_path / 'gpu'}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert ran.returncode == 2
    first = ran.stderr.splitlines()[0]
    assert " has no torch,torchvision,gymnasium,stable_baselines3," in first
    assert first.endswith("Put their wheels into a folder on PYTHONPATH, or type: make gpu PYTHON=ANOTHER")
    assert not list(tmp_path.iterdir())


def test_all_that_stillsight_depends_on_is_looked_for_but_the_video() -> None:
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("NEEDED := ")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split("[><=]", requirement)[0].lower().replace("_", "-") for requirement in project["dependencies"]}
    modules: dict[str, set[str]] = {}
    for module_name, distributions in importlib.metadata.packages_distributions().items():
        for name in distributions:
            modules.setdefault(name.lower().replace("_", "-"), set()).add(module_name)
    needed = set(line.split()[2:])
    assert {name for name in names if not modules[name] & needed} == {"imageio-ffmpeg"}


def test_make_gpu_measures_and_writes(tmp_path: Path) -> None:
    index = made(tmp_path / "gpu", "--parts", "encoders", "cifar-frozen")
    assert index["machine"]["command"] == 'make gpu GPU_FLAGS="--parts encoders cifar-frozen --small"'
    arms = {row["engine"]: row for row in read(tmp_path / "gpu", "encoders.json")["encoders"]["arms"]}
    assert arms["folded"]["images_per_s"]["n"] == 2
    assert ("refused" in arms["graph"]) != torch.cuda.is_available()
    frozen = read(tmp_path / "gpu", "cifar.json")["cifar-frozen"]
    assert set(frozen["arms"]) == {"plain float32", "first head linear float32", "another head ncm float32"}
    assert frozen["images"] == "noise of CIFAR's shape"


@pytest.mark.slow
def test_make_gpu_does_every_part(tmp_path: Path) -> None:
    index = made(tmp_path / "gpu")
    assert list(index["parts"]) == list(SHARES)
    tests = read(tmp_path / "gpu", "tests.json")["tests"]
    assert len(tests["tests"]) >= 40
    if not torch.cuda.is_available():
        assert tests["skipped"] == len(tests["tests"])
        assert {row["sentence"] for row in tests["tests"]} == {
            "there is no CUDA GPU here; `make gpu` runs it where there is one"
        }
    agents = read(tmp_path / "gpu", "agents.json")
    assert list(agents) == ["ppo", "sac", "dqn"]
    for run in agents.values():
        assert set(run["arms"]) == {"cached", "stock", "floor"}
        assert set(run["ratios"]) == {"cached / stock", "cached / floor"}
    assert read(tmp_path / "gpu", "cifar.json")["cifar-finetune"]["unit"] == "images/s"
