"""Every command and every program in every README runs, in their order, in one empty folder."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision

from stillsight import agents
from stillsight.agents import cli
from stillsight.agents.training import callbacks
from stillsight.encoders.supervised.data import dataset
from stillsight.encoders.supervised.data.split import Dataset, Split
from stillsight.encoders.weights import sources as weights

ROOT = Path(__file__).resolve().parents[1]
READMES = [
    ROOT / "README.md",
    *sorted(path for room in ("agents", "encoders", "envs") for path in (ROOT / room).rglob("README.md")),
]
"""The README of the project, then those of its rooms, in whose order everything is run."""
SMALLER = {"--steps": "128", "--episodes": "1", "--epochs": "1", "--rounds": "1", "--transitions": "2_000"}
"""What the test puts in place of the README's numbers; the rest of each command stays as it is printed."""
SMALL = {"--n-envs": "1", "--eval-every": "0", "--head": "16", "--standardise": "8"}
FEW = {
    "ppo": ["n_steps=32", "batch_size=32", "n_epochs=1"],
    "sac": ["learning_starts=64", "batch_size=8", "train_freq=8"],
}
"""Settings with few updates, by algorithm."""


def blocks(language: str, readme: Path | None = None) -> list[str]:
    """The code blocks in `language` of one README, or of all of them."""
    texts = [path.read_text() for path in ([readme] if readme else READMES)]
    return [block for text in texts for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)]


def commands(readme: Path | None = None) -> list[list[str]]:
    """Every shell line of one README or of all, as words, without its comment."""
    lines = [line for block in blocks("sh", readme) for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def smaller(words: list[str]) -> list[str]:
    """The same command with fewer steps, episodes and epochs."""
    pairs = zip(["", *words], words, strict=False)
    short = [SMALLER.get(before, word) for before, word in pairs]
    # A flag or setting that the README gives stays: given twice, it would be an error.
    few = [word for flag, value in SMALL.items() if flag not in words for word in (flag, value)]
    settings = FEW["sac" if {"sac", "dqn"} & {*words} else "ppo"]
    few += ["--set", *(word for word in settings if word.split("=")[0] not in [given.split("=")[0] for given in words])]
    if words[0] == "cifar-throughput":
        sizes = ["--images", "40"] if "frozen" in words else ["--updates", "1"]
        return [*short, *sizes, "--batch", "8", "--workers", "0"]
    if words[0] == "benchmark":
        return [*short, "--no-trial"]
    if "--encoders" in words:
        return [*short, "--seconds", "0.01", "--batch", "1"]
    if "--envs" in words:
        return short
    if words[0] == "throughput":
        return [*short, *few, "--seconds", "0.01", "--size", "32", "--engine", "folded"]
    if words[0] == "rl" and "--resume" in words:  # on beyond the few steps that the run has
        later = [str(int(word) // 100) if before == "--steps" else word for before, word in pairwise(words)]
        return [words[0], *later]
    if words[0] != "rl":
        return short
    if "--from" in words:  # which brings what it standardises by
        few = few[: few.index("--standardise")] + few[few.index("--standardise") + 2 :]
    steps = [] if "--steps" in words else ["--steps", SMALLER["--steps"]]
    return [*short, *steps, *few, "--eval-episodes", "1"]


def few_cells(spec: str) -> str:
    """The same benchmark with one seed, one rate, one shift and few steps."""
    small = {
        "seeds = 5": "seeds = 1\nepisodes = 1",
        "50_000": "32\nn_envs = 1\neval_every = 0\neval_episodes = 1\nhead = 16\nstandardise = 8\n"
        'set = ["n_steps=16", "batch_size=16", "n_epochs=1"]',
    }
    for shown, used in small.items():
        assert shown in spec
        spec = spec.replace(shown, used)
    return spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty working folder with what READMEs say must be there: weights, data, encoders and an environment."""
    here = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.syspath_prepend(str(here))
        for module, sign in (("my_encoders", "-> Backbone:"), ("my_envs", 'gym.register("Lamp-v0"')):
            own = [block for block in blocks("python") if sign in block]
            (here / f"{module}.py").write_text("\n".join(own))
        torch.save(importlib.import_module("my_encoders").hawk().model.state_dict(), here / "hawk.pth")
        (here / "taps.toml").write_text(few_cells(blocks("toml")[0]))
        # A stand-in for the download; its random weights cannot have the official hash.
        state = torchvision.models.mobilenet_v2(weights=None).state_dict()
        (here / "official").mkdir()
        torch.save(state, here / "official" / "mobilenet_v2-b0353104.pth")
        patch.setenv(weights.FOLDER_VARIABLE, str(here / "official"))
        patch.setattr(weights, "check_hash", lambda *_: None)
        patch.setattr(dataset, "load", _ten_colours)
        (here / "photos").mkdir()
        cv2.imwrite(str(here / "photo.png"), np.zeros((50, 40, 3), np.uint8))
        yield here


def _ten_colours(name: str, *_: object, **__: object) -> Dataset:
    """Ten classes, each a colour with noise, in place of CIFAR's 170 MB."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (10, 3, 1, 1), generator=generator)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 10
        noise = torch.randint(-20, 20, (count, 3, 32, 32), generator=generator)
        return Split((colours[labels] + noise).clamp(0, 255).to(torch.uint8), labels)

    return Dataset(name, split(512), split(50), split(50), tuple("abcdefghij"))


def _interrupted(folder: Path) -> None:
    """A run that was stopped after its first checkpoint, for the README to resume."""

    def stop(self: callbacks.Episodes) -> bool:
        if self.num_timesteps > 40:
            raise KeyboardInterrupt
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.Episodes, "_on_step", stop)
        words = smaller(["rl", "--out", str(folder), "--checkpoint-every", "32"])
        assert cli.main(words) == 2
    assert (folder / "checkpoints" / "last.safetensors").exists()


def _a_first_run() -> None:
    """The run that other READMEs than the project's speak of."""
    if not Path("results/runs/first").exists():
        assert cli.main(smaller(["rl", "--out", "results/runs/first"])) == 0


def _named(readme: Path) -> str:
    return str(readme.relative_to(ROOT))


LONG = ("agents/benchmark", "agents/measure")
"""Rooms whose README's commands measure for more than a minute."""


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "readme",
    [
        pytest.param(path, marks=pytest.mark.slow) if path.parent.relative_to(ROOT).as_posix() in LONG else path
        for path in READMES
    ],
    ids=_named,
)
def test_every_stillsight_command_runs(readme: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = [words[1:] for words in commands(readme) if words[0] == "stillsight"]
    if readme != READMES[0]:
        _a_first_run()
    for words in ours:
        if "--resume" in words and not Path(words[-1]).exists():
            _interrupted(Path(words[-1]))
        before = set(Path("results").rglob("done"))
        shown = ["--out", f"results/runs/{len(before)}"] if words[0] == "rl" and "--out" not in words else []
        if "--resume" in words or "--help" in words:
            shown = []
        try:
            code = cli.main([*smaller(words), *shown])
        except SystemExit as stop:  # --help
            code = int(stop.code or 0)
        expected = 1 if words == ["doctor"] else 0  # it sees that the weights are a stand-in for the download
        assert code == expected, (words, capsys.readouterr())


def test_there_is_something_to_run() -> None:
    assert len(commands()) >= 30
    assert len(blocks("python")) >= 8


def test_every_other_command_is_one_of_the_makefile(root: Path) -> None:
    others = [words for words in commands() if words[0] != "stillsight"]
    assert others == [["make", "demo"], ["make", "test"], ["make", "gpu"]]
    for words in others:
        shown = subprocess.run(["make", "-n", *words[1:]], cwd=root, capture_output=True, text=True, check=True)
        assert "stillsight" in shown.stdout or "pytest" in shown.stdout


@pytest.mark.usefixtures("folder")
def test_the_commands_of_the_demo_parse(root: Path) -> None:
    shown = subprocess.run(["make", "-n", "demo"], cwd=root, capture_output=True, text=True, check=True)
    lines = [line for line in shown.stdout.splitlines() if line.startswith(".venv/bin/stillsight ")]
    assert [shlex.split(line)[1] for line in lines] == ["rl", "evaluate", "record"]
    for line in lines:
        words = smaller(shlex.split(line.replace("\\", ""))[1:])
        assert cli.main(words) == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("readme", READMES, ids=_named)
def test_every_program_runs(readme: Path) -> None:
    _a_first_run()
    names: dict[str, object] = {"__name__": "readme"}  # a later program may go on from an earlier one
    for program in blocks("python", readme):
        exec(textwrap.dedent(program), names)
        if "model" in names and "venv" in names:
            assert names["model"].num_timesteps == 256  # type: ignore[attr-defined]
        if "action" in names:
            assert names["env"].action_space.contains(int(names["action"]))  # type: ignore[attr-defined,call-overload]


@pytest.mark.parametrize("readme", READMES, ids=_named)
def test_every_path_and_link_exists(readme: Path) -> None:
    text = readme.read_text()
    for path in re.findall(r"`((?:tests|encoders|envs|agents|results/published)/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (readme.parent / link).exists(), link


@pytest.mark.parametrize("readme", READMES[1:], ids=_named)
def test_a_room_s_readme_shows_its_files(readme: Path) -> None:
    """Each Python file of the room, and each room in it, is named in its README."""
    text = readme.read_text()
    here = [path for path in readme.parent.iterdir() if path.name not in ("__init__.py", "__pycache__", "pretrained")]
    for path in here:
        if path.suffix == ".py" or path.is_dir():
            assert path.stem in text, path


def test_the_walk_of_a_frame_names_files_that_exist() -> None:
    walk = re.findall(r"^(\d+)\. (.*)$", str(agents.__doc__), flags=re.MULTILINE)
    assert [int(number) for number, _ in walk] == list(range(1, 11)), "ten lines, in order"
    files = [path for _, line in walk for path in re.findall(r"[\w/]+\.py", line)]
    assert len(files) >= 10
    for path in files:
        assert (ROOT / path).is_file(), path
