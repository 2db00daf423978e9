"""Small runs that the tests of agents share: weights made on the fly, a tiny configuration, one trained agent."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from stillsight.agents import RlConfig, rl
from stillsight.encoders import Mode
from stillsight.encoders.zoo.retina import retina

_OFF_POLICY = ("learning_starts=24", "batch_size=8", "buffer_size=300", "train_freq=4")
_VALUE = (*_OFF_POLICY, "target_update_interval=16")
_ON_POLICY = ("n_steps=16", "batch_size=16")
SETTINGS: dict[str, tuple[str, ...]] = {
    "ppo": (*_ON_POLICY, "n_epochs=2"),
    "recurrent_ppo": (*_ON_POLICY, "n_epochs=2"),
    "trpo": (*_ON_POLICY, "cg_max_steps=3", "n_critic_updates=2"),
    "a2c": (),
    "dqn": _VALUE,
    "qrdqn": _VALUE,
    "sac": _OFF_POLICY,
    "td3": _OFF_POLICY,
    "tqc": _OFF_POLICY,
}
CONTINUOUS = ("sac", "td3", "tqc")


def lively(model: nn.Module, seed: int) -> nn.Module:
    """Give BatchNorm the statistics of a network that has seen data: mean 0 and variance 1 would hide faults."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return (
            isinstance(other, Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.contiguous().view(-1).view(torch.uint8).equal(other.contiguous().view(-1).view(torch.uint8))
        )
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and bool(one == other)


@pytest.fixture(scope="session", name="same")
def _same() -> Callable[[Any, Any], bool]:
    """Whether two nested states are equal to the last bit; a list may stand for a tuple, as in a file."""
    return same


@pytest.fixture(scope="session")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torchvision ResNet-18 state_dict, as pretrained weights come; its values are random."""
    torch.manual_seed(11)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(lively(torchvision.models.resnet18(weights=None), 1).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def retina_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights for the small network that ships with the project; its values are random."""
    torch.manual_seed(12)
    path = tmp_path_factory.mktemp("weights") / "retina.safetensors"
    save_file(lively(retina().model, 2).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny(retina_file: Path) -> Callable[..., RlConfig]:
    """`tiny(algo, **changes)`: a run of a second or two, for every algorithm and mode."""

    def make(algo: str = "ppo", **changes: Any) -> RlConfig:
        mode = Mode(changes.pop("mode", "frozen"))
        base: dict[str, Any] = {
            "env": "stillsight/OrchardContinuous-v0" if algo in CONTINUOUS else "stillsight/Orchard-v0",
            "encoder": "retina",
            "tap": "layer1",
            "pooling": "grid2",
            "weights": retina_file if mode.pretrained else None,
            "size": 16,
            "steps": 96,
            "n_envs": 2,
            "workers": "off",  # which a busy machine would make pay
            "frame_stack": 3,
            "head": 16,
            "compress": 4,
            "standardise": 8,
            "max_episode_steps": 20,
            "eval_every": 0,
            "eval_episodes": 1,
            "checkpoint_every": 0,
            "precision": "float32",
            "engine": "folded",
            "replay_dtype": "float32",
            "device": "cpu",
            "threads": 1,
            "set": SETTINGS[algo],
        }
        return RlConfig(algo=algo, mode=mode, **{**base, **changes})

    return make


@pytest.fixture(scope="session")
def _trained(tiny: Callable[..., RlConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ppo"
    rl(tiny("ppo", eval_every=32, out=folder))
    return folder


@pytest.fixture
def trained(_trained: Path, tmp_path: Path) -> Path:
    """The folder of a finished PPO run with a frozen encoder; a copy, so that a test may break it."""
    return Path(shutil.copytree(_trained, tmp_path / "trained"))


@pytest.fixture
def settings_restored() -> Iterator[None]:
    """A run switches on fast arithmetic for the whole process, which other tests must not see."""
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = True, False


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
