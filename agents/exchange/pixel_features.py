"""PixelFeatures: a whole encoder as a features extractor that needs torch and Stable-Baselines3 alone.

The source of this file travels in every exported zip, and is run there: it imports nothing of stillsight.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class PixelFeatures(BaseFeaturesExtractor):
    """Pixels 0..255 `[N, frames, 3, H, W]`, or `[N, 3, H, W]` of a single frame, -> features `[N, features_dim]`.

    Both parts are programs of `torch.export`, in float32. The frozen one is held by reference and is no sub-module:
    Stable-Baselines3 neither averages, optimises, re-initialises nor saves it once more. The trained one learns on
    where the policy does; its BatchNorm statistics stay as they are.

    Args:
        observation_space: uint8 pixels.
        frozen: a program, `[M, 3, H, W]` -> what a frame becomes; None where all of the encoder is trained.
        trained: a program, frames `[N, frames, ...]` -> features.
        features_dim: their number.
        run: JSON that tells stillsight which run this was; it is not looked at here.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        frozen: np.ndarray | None,
        trained: np.ndarray,
        features_dim: int,
        run: str = "",  # noqa: ARG002 - kept by SB3 among the arguments
    ) -> None:
        super().__init__(observation_space, features_dim)
        self._frozen = () if frozen is None else (_module(frozen).requires_grad_(False),)
        self.trained = _module(trained)

    def train(self, mode: bool = True) -> PixelFeatures:
        """Note the mode alone: exported programs compute as in evaluation, whatever it is."""
        self.training = mode
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> PixelFeatures:
        # nn.Module's own door for `.to()`, `.cuda()` and the like.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.zeros(0)).device
        for program in (*self._frozen, self.trained):
            if program is not self.trained:
                program._apply(fn, recurse)
            for node in program.graph.nodes:  # what a program makes anew, it makes where it was exported
                if "device" in node.kwargs:
                    node.kwargs = {**node.kwargs, "device": device}
            program.recompile()
        return self

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        stacks = observations if observations.dim() == 5 else observations.unsqueeze(1)
        frames = stacks.flatten(0, 1).float()
        with torch.no_grad():
            for program in self._frozen:
                frames = program(frames)
        features: torch.Tensor = self.trained(frames.unflatten(0, stacks.shape[:2]))
        return features


def _module(program: np.ndarray) -> Any:
    """The program in the bytes uint8 `[n]` of a file of `torch.export`, as a module with its weights."""
    module: nn.Module = torch.export.load(io.BytesIO(program.tobytes())).module()
    return module
