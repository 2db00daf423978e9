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

    Of several images, or of vectors `[N, frames, D]` or `[N, D]` beside them, it takes a dict.

    Both parts are programs of `torch.export`, in float32. The frozen one is held by reference and is no sub-module:
    Stable-Baselines3 neither averages, optimises, re-initialises nor saves it once more. The trained one learns on
    where the policy does; its BatchNorm statistics stay as they are.

    Args:
        observation_space: uint8 pixels, or a Dict of such and of float vectors.
        frozen: a program, `[M, 3, H, W]` -> what a frame becomes; None where all of the encoder is trained.
        trained: a program, frames `[N, frames, ...]` -> features; of a dict, frames `[N, frames, images, ...]`, and
            vectors side by side `[N, frames, numbers]`, as far as there are any.
        features_dim: their number.
        run: JSON that tells stillsight which run this was; it is not looked at here.
        images, vectors: keys of a dict, in the order of the programs; both empty for pixels alone.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        frozen: np.ndarray | None,
        trained: np.ndarray,
        features_dim: int,
        run: str = "",  # noqa: ARG002 - kept by SB3 among the arguments
        images: tuple[str, ...] = (),
        vectors: tuple[str, ...] = (),
    ) -> None:
        super().__init__(observation_space, features_dim)
        self.images, self.vectors = tuple(images), tuple(vectors)
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

    def forward(self, observations: Any) -> torch.Tensor:
        if self.images or self.vectors:
            return self._of_parts(observations)
        stacks = observations if observations.dim() == 5 else observations.unsqueeze(1)
        frames = stacks.flatten(0, 1).float()
        with torch.no_grad():
            for program in self._frozen:
                frames = program(frames)
        features: torch.Tensor = self.trained(frames.unflatten(0, stacks.shape[:2]))
        return features

    def _of_parts(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        seen = [observations[key] for key in self.images]
        inputs = []
        if seen:
            stacks = torch.stack([one if one.dim() == 5 else one.unsqueeze(1) for one in seen], dim=2)
            frames = stacks.flatten(0, 2).float()
            with torch.no_grad():
                for program in self._frozen:
                    frames = program(frames)
            inputs.append(frames.unflatten(0, stacks.shape[:3]))
        felt = [observations[key].float() for key in self.vectors]
        if felt:
            inputs.append(torch.cat([one if one.dim() == 3 else one.unsqueeze(1) for one in felt], dim=2))
        features: torch.Tensor = self.trained(*inputs)
        return features


def _module(program: np.ndarray) -> Any:
    """The program in the bytes uint8 `[n]` of a file of `torch.export`, as a module with its weights."""
    module: nn.Module = torch.export.load(io.BytesIO(program.tobytes())).module()
    return module
