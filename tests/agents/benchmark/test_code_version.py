"""Versions of code that is no package's: cells of before and after an edit are not pooled."""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from stillsight.agents import RlConfig
from stillsight.agents.benchmark.grid import pins as grid_pins
from stillsight.agents.benchmark.grid.code_version import code_version
from stillsight.agents.benchmark.grid.pins import env_version, pins
from stillsight.encoders import device
from stillsight.encoders.mode import Mode
from stillsight.envs import ROWS
from stillsight.envs.registry import named

WORLDS = """import gymnasium
from stillsight.envs import Orchard
gymnasium.register("Edited-v0", Orchard)
"""
EYES = """from torch import nn
from stillsight.encoders import Backbone, Preprocessing
def tiny():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4))
    return Backbone(model=model, stages={"low": model[0]}, preprocessing=Preprocessing(), tap="low")
"""
LEARNER = """from stable_baselines3 import PPO
class MyPPO(PPO):
    pass
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_game_has_the_version_of_its_package() -> None:
    assert env_version("CartPole-v1") == f"gymnasium {version('gymnasium')}, {code_version('pygame')}"
    assert env_version("stillsight/Orchard-v0") == f"stillsight {version('stillsight')}"


def test_a_game_that_a_suite_of_ours_makes_has_the_versions_of_its_physics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure it prevents: cells of one MuJoCo and of the next are pooled, as long as stillsight stays the same."""
    installed = {"dm_control": "dm-control 1.0.50", "mujoco": "mujoco 3.17.0"}
    monkeypatch.setattr(grid_pins, "code_version", lambda module: installed.get(module, module))
    monkeypatch.setattr(grid_pins, "resolve", lambda _: ROWS["dm_control/reacher-easy-v0"])
    monkeypatch.setattr(grid_pins, "suite_of", lambda _: named("dmc"))
    env = "stillsight/Orchard-v0"  # made by stillsight.envs too
    assert env_version(env) == "stillsight, dm-control 1.0.50, mujoco 3.17.0"
    before, installed["mujoco"] = env_version(env), "mujoco 3.18.0"
    assert env_version(env) != before


def test_a_game_of_the_user_s_own_is_another_one_when_its_source_was_edited(here: Path) -> None:
    """The failure it prevents: a reward is mended between two cells, and the change is told as the spread of seeds."""
    file = here / "edited_worlds.py"
    file.write_text(WORLDS)
    before = env_version("edited_worlds:Edited-v0")
    digest = sha256(WORLDS.encode()).hexdigest()[:12]
    assert before == f"{env_version('stillsight/Orchard-v0')}, edited_worlds {digest}"
    assert env_version("edited_worlds:Edited-v0") == before
    file.write_text(WORLDS + "REWARD = 100\n")
    assert env_version("edited_worlds:Edited-v0") != before


def test_every_file_of_a_package_without_a_version_counts(here: Path) -> None:
    (here / "edited_nets" / "deep").mkdir(parents=True)
    for name in ("__init__.py", "deep/__init__.py", "deep/net.py"):
        (here / "edited_nets" / name).write_text("")
    before = code_version("edited_nets")
    (here / "edited_nets" / "deep" / "net.py").write_text("WIDTH = 8\n")
    assert before.startswith("edited_nets ")
    assert code_version("edited_nets.deep.net") != before


def test_networks_and_algorithms_of_the_user_s_own_are_pinned(here: Path) -> None:
    (here / "edited_eyes.py").write_text(EYES)
    (here / "edited_learner.py").write_text(LEARNER)
    summary = {"weights_sha256": "a" * 64}
    assert not {"encoder_version", "algo_version"} & {*pins(RlConfig(mode=Mode.SCRATCH).resolved(), summary)}
    mine = RlConfig(mode=Mode.SCRATCH, encoder="edited_eyes:tiny", algo="edited_learner:MyPPO").resolved()
    pinned = pins(mine, summary)
    assert pinned["encoder_version"] == f"edited_eyes {sha256(EYES.encode()).hexdigest()[:12]}"
    assert pinned["algo_version"] == f"edited_learner {sha256(LEARNER.encode()).hexdigest()[:12]}"


def test_what_auto_came_to_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure it prevents: cells in bf16 and in float32, of two processors, are pooled as made alike, because all
    that is pinned of them is the word "auto"."""
    pinned = []
    for has in (False, True):
        monkeypatch.setattr(device, "has_bf16", lambda _, has=has: has)
        computed = device.computed_in(torch.device("cpu"), "auto")
        summary = {"weights_sha256": "a" * 64, "device": "cpu", "computed_in": computed, "engine": "folded"}
        pinned.append(pins(RlConfig(mode=Mode.SCRATCH).resolved(), summary))
    slow, fast = pinned
    assert {name for name in slow if slow[name] != fast[name]} == {"computed_in"}
    assert (slow["precision"], slow["computed_in"], fast["computed_in"]) == ("auto", "float32", "bf16")
    assert slow["device_kind"] == "cpu"
    assert "folded" not in slow.values(), "which engine is the fastest is measured anew in each cell"
    old = pins(RlConfig(mode=Mode.SCRATCH).resolved(), {"weights_sha256": "a" * 64})
    assert not {"device_kind", "computed_in"} & {*old}, "a run of an older version"
