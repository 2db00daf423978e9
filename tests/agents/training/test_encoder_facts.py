"""An encoder whose code changed under the same weights is refused wherever its agent is taken up again."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.cli import main
from stillsight.agents.runs import checkpoint
from stillsight.agents.training.state.encoder_facts import MOST
from stillsight.encoders import EncoderError, build
from stillsight.encoders.reference_features import REFERENCE, reference_features

Tiny = Callable[..., RlConfig]
NAME = "edited_eyes:tiny"
EYES = """
import torch
from torch import nn
from stillsight.encoders import Backbone, Preprocessing

FACTOR = {"low": 1.0, "high": 1.0}

class Scaled(nn.Module):
    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def forward(self, maps):
        return maps * FACTOR[self.stage]

def tiny(pretrained=True):
    low = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), Scaled("low"))
    high = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), Scaled("high"))
    model = nn.Sequential(low, high)
    return Backbone(model=model, stages={"low": low, "high": high}, preprocessing=Preprocessing(), tap="high")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A user's module with an encoder, whose code a test edits by its FACTOR."""
    (tmp_path / "edited_eyes.py").write_text(EYES)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("edited_eyes")
    del sys.modules["edited_eyes"]


def agent(tiny: Tiny, folder: Path, algo: str, mode: str, **changes: Any) -> RlConfig:
    return tiny(algo, encoder=NAME, mode=mode, tap="high", unfreeze=None, out=folder, **changes)


REFUSED = (
    r"was trained with a edited_eyes:tiny that computed other features from the same weights: those of two fixed "
    r"images differ by 0\.\d+ of the largest\. Its code has changed since, or a package that it is built from\. "
    r"Restore that code, or train again with this one\."
)


@pytest.mark.parametrize(
    ("algo", "mode", "stage"),
    [("ppo", "random", "low"), ("sac", "random", "high"), ("sac", "scratch", "high"), ("dqn", "scratch", "low")],
)
def test_an_edited_encoder_is_refused_wherever_its_agent_is_taken_up(
    tiny: Tiny, tmp_path: Path, own: ModuleType, algo: str, mode: str, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    rl(agent(tiny, run, algo, mode))
    load(run, trust=[NAME])
    zipped, back = tmp_path / "agent.zip", tmp_path / "back"
    assert main(["export", str(run), "--sb3", str(zipped), "--trust", NAME]) == 0
    own.FACTOR[stage] = 0.8
    with pytest.raises(EncoderError, match=REFUSED):
        load(run, trust=[NAME])
    with pytest.raises(EncoderError, match=REFUSED):
        rl(agent(tiny, tmp_path / "second", algo, mode, from_run=run, trust=(NAME,)))
    capsys.readouterr()
    assert main(["evaluate", str(run), "--trust", NAME]) == 2
    assert "Restore that code, or train again with this one." in capsys.readouterr().err
    assert main(["rl", "--resume", str(run), "--steps", "960", "--trust", NAME]) == 2
    assert "Restore that code, or train again with this one." in capsys.readouterr().err
    assert main(["import", str(zipped), "--out", str(back), "--trust"]) == 0
    with pytest.raises(EncoderError, match=REFUSED):
        load(back, trust=[NAME])
    own.FACTOR[stage] = 1.0
    load(run, trust=[NAME])


@pytest.mark.usefixtures("own")
def test_reference_features_take_no_random_number_count_no_image_and_leave_the_modes() -> None:
    encoder = build(NAME, "scratch", pinned=False, seed=1, device="cpu")
    encoder.learned.train()
    modes = [module.training for module in encoder.modules()]
    random, images = torch.get_rng_state(), encoder.counter.images
    features = reference_features(encoder.frozen, (32, 48), encoder.learned)
    assert torch.equal(torch.get_rng_state(), random)
    assert encoder.counter.images == images
    assert [module.training for module in encoder.modules()] == modes
    assert not features.requires_grad
    assert features.shape == (2 * 8,), "two images of eight channels"
    assert torch.equal(features, reference_features(encoder.frozen, (32, 48), encoder.learned))


def test_a_checkpoint_keeps_few_features(tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    rl(tiny("ppo", pooling="grid6", size=64, frame_stack=1, out=run))
    for name in ("best", "last"):
        kept = checkpoint.load(run / "checkpoints" / f"{name}.safetensors")[REFERENCE]
        assert 0 < len(kept) <= MOST


def test_features_that_are_none_are_a_sentence(trained: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(trained, tmp_path / "copied")
    path = copied / "checkpoints" / "best.safetensors"
    tree = checkpoint.load(path)
    for damage in ("text", 3, [1.0], torch.zeros(4, dtype=torch.int64)):
        checkpoint.save(path, tree | {REFERENCE: damage})
        with pytest.raises(EncoderError, match=r"features of two fixed images that .* keeps are none"):
            load(copied)
    checkpoint.save(path, tree | {REFERENCE: torch.zeros(5)})
    with pytest.raises(EncoderError, match=r"5 numbers from two fixed images, and [\d,]+ now"):
        load(copied)
    checkpoint.save(path, {name: value for name, value in tree.items() if name != REFERENCE})
    assert load(copied).step == tree["step"], "versions before kept none"
