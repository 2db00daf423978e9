"""The state's own layer, beside the head: what a policy makes of joint angles, speeds and other numbers."""

from __future__ import annotations

from torch import Tensor, nn

from stillsight.agents.buffers.footprint import check_memory, head_bytes
from stillsight.agents.features.activation import Activation, activation
from stillsight.agents.features.standardise import Standardise

STATE_UNITS = 256
"""Width of the state's layer: that of the first layer of Haarnoja et al. 2018 (SAC), which sees a state alone."""


class StateHead(nn.Module):
    """Standardise, Linear, activation. What comes out is joined behind the head.

    Policies that have no layer of their own there (PPO, A2C, DQN) would be linear in a state that was joined as it is.

    Each number is standardised for itself, for they are of different units.

    Args:
        frames: in a stack; the states of all of them are seen side by side.
        width: numbers of a state.
        end: activation behind the linear layer, see `activation`.

    Raises:
        RunError: the machine has no memory free for so many weights; nothing was taken.
    """

    def __init__(self, frames: int, width: int, end: Activation = "relu") -> None:
        super().__init__()
        needed = head_bytes(frames * width, STATE_UNITS)
        check_memory(needed, frames, what="state's layer", flag="--frame-stack ", fewer="--state KEY")
        self.standardise = Standardise(width, [1] * width, state=True)
        self.linear = nn.Linear(frames * width, STATE_UNITS)
        self.activation = activation(end, STATE_UNITS)

    def forward(self, state: Tensor) -> Tensor:
        """`[N, frames, width]` -> `[N, STATE_UNITS]`."""
        layer: Tensor = self.linear(self.standardise(state.to(self.standardise.mean.dtype)).flatten(1))
        features: Tensor = self.activation(layer)
        return features
