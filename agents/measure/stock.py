"""The comparison: a pretrained backbone as a features extractor in stock Stable-Baselines3, written with care."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any, Self

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack
from torch import Tensor, nn

from stillsight.agents.errors import RunError
from stillsight.agents.features.activation import Activation, activation
from stillsight.agents.measure.arm import Arm, settings, watch
from stillsight.agents.measure.clock import Clock
from stillsight.agents.training import algorithms, summary
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.settings import arguments, overrides
from stillsight.encoders import device as devices
from stillsight.encoders.building import build
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.preprocess import ImageCounter, Preprocess
from stillsight.envs import make_vec
from stillsight.envs.vector import layout_of


class CutBackbone(nn.Module):
    """Stages of which the first are frozen, as a careful user would write it: no graph is built of them.

    Args:
        frozen: the stages before the cut.
        learned: those behind it, whose parameters learn or not as they do in ours.
    """

    def __init__(self, frozen: list[nn.Module], learned: list[nn.Module]) -> None:
        super().__init__()
        self.frozen = nn.Sequential(*frozen).requires_grad_(False)
        self.learned = nn.Sequential(*learned)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            maps = self.frozen(images)
        features: Tensor = self.learned(maps)
        return features


class StockExtractor(BaseFeaturesExtractor):
    """A torchvision backbone in float32 as one would write it today: what is frozen in eval mode for ever, without a
    graph.

    The frames of a stack are folded into the batch, since the network takes three channels.

    Args:
        observation_space: uint8 `[frames * 3, H, W]`.
        frozen, learned: stages of the backbone before and behind the cut; the last pools.
        preprocessing: normalises and resizes by the recipe of the weights.
        counter: of the images that pass.
        units: of the linear layer behind it.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        frozen: list[nn.Module],
        learned: list[nn.Module],
        preprocessing: Preprocess,
        counter: ImageCounter,
        units: int,
        end: Activation,
    ) -> None:
        super().__init__(observation_space, units)
        self.frames = observation_space.shape[0] // 3
        self.counter, self.preprocessing = counter, preprocessing
        self.backbone = CutBackbone(copy.deepcopy(frozen), copy.deepcopy(learned))
        self.backbone.to("cpu").to(memory_format=torch.contiguous_format)  # SB3 moves the whole policy, once it is made
        self.train(self.training)
        with torch.no_grad():
            width = self._look(torch.zeros(1, *observation_space.shape)).shape[1]
        counter.images = 0
        self.head = nn.Sequential(nn.Linear(width, units), activation(end, units))

    def train(self, mode: bool = True) -> Self:
        """Switch to train mode, the backbone excepted."""
        super().train(mode)
        self.backbone.eval()
        return self

    def _look(self, pixels: Tensor) -> Tensor:
        images = pixels.float().unflatten(1, (self.frames, 3)).flatten(0, 1)
        self.counter.images += len(images)
        features: Tensor = self.backbone(self.preprocessing(images).contiguous())
        stacked: Tensor = features.unflatten(0, (-1, self.frames))
        return stacked.flatten(1)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.head(self._look(pixels))
        return features


def stock_model(
    config: RlConfig, encoder: Encoder, pixels: VecEnv, changes: dict[str, Any]
) -> tuple[BaseAlgorithm, ImageCounter]:
    """An SB3 model without anything of ours but the backbone's weights, and the counter of the images it encodes.

    Args:
        config: resolved.
        encoder: whose stages are copied.
        pixels: uint8 `[3, H, W]` environments.
        changes: settings to put on top of the configured ones.
    """
    row = algorithms.spec(config.algo)
    cls = row.load_class()
    frozen, learned = [*encoder.frozen.steps], [*encoder.learned.steps]
    first = (frozen or learned).pop(0)
    assert isinstance(first, Preprocess)
    counter = ImageCounter()
    venv = VecFrameStack(pixels, config.frame_stack or 1, channels_order="first")
    policy: dict[str, Any] = {
        "features_extractor_class": StockExtractor,
        "features_extractor_kwargs": {
            "frozen": frozen,
            "learned": learned,
            "preprocessing": first.uncounted(),
            "counter": counter,
            "units": config.head,
            "end": config.head_activation,
        },
        "normalize_images": False,  # the extractor normalises, once
    }
    if (layers := config.net_arch) is not None:  # else the class has its own, here as in ours
        policy["net_arch"] = layers
    name = row.policy.replace("Mlp", "Cnn")
    if issubclass(cls.policy_aliases[name], ActorCriticPolicy):
        policy["ortho_init"] = False  # or the pretrained weights would be gone
    chosen = arguments({**overrides(config.set, "--set"), **changes}, venv)
    return cls(name, venv, policy_kwargs=policy, seed=config.seed, device=config.device, **chosen), counter


STOCK_SLOTS = 2_000
"""Replay memory that the stock arm takes; what the configured one would take is computed from it."""


class Stock(Arm):
    """Stable-Baselines3 with the backbone as a features extractor."""

    def __init__(self, config: RlConfig) -> None:
        encoder = build(config, pinned=True)
        changes = settings(config, short=True)
        self.slots = int(overrides(config.set, "--set").get("buffer_size", 0))
        if self.slots:
            changes["buffer_size"] = STOCK_SLOTS
        options = config.env_options()
        pixels = make_vec(config.env, config.n_envs or 1, seed=config.seed, options=options, native=False)
        layout = layout_of(pixels)
        assert layout is not None
        if not layout.plain:
            pixels.close()
            raise RunError(
                f"The stock arm is a features extractor of one image, and {config.env} shows {layout}. Type --arms "
                "in-policy cached floor, or drop --pixels and --state."
            )
        self.rollout = overrides(config.set, "--set").get("n_steps", 1) / changes.get("n_steps", 1)
        model, counter = stock_model(config, encoder, pixels, changes)
        super().__init__(model, Clock(encoder.device), lambda: counter.images)
        # Without the arguments of the policy: they hold the backbone once more here, and need not.
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / "model.zip", exclude=["policy_kwargs"])
            self.checkpoint_bytes = (Path(folder) / "model.zip").stat().st_size
        watch(self.clock, model, pixels)
        for module in model.policy.modules():
            if hasattr(module, "backbone"):
                self.clock.watch(module.backbone, "forward", "encoder")

    def facts(self) -> dict[str, Any]:
        """What it takes; replay memory and rollouts as they would be at the configured size."""
        taken = summary.buffer_bytes(self.model)
        return {
            "buffer_bytes": int(taken * (self.slots / STOCK_SLOTS if self.slots else self.rollout)),
            "checkpoint_bytes": self.checkpoint_bytes,
            "peak_memory_bytes": devices.peak_memory(self.clock.device),
        }
