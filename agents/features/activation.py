"""Activation: what a head does to the numbers of its linear layer."""

from __future__ import annotations

from typing import Literal

from torch import nn

Activation = Literal["relu", "tanh"]


def activation(name: Activation, units: int) -> nn.Module:
    """The module behind a linear layer of `units`, `[N, units]` -> `[N, units]`.

    relu is that of Mnih et al. 2015. tanh is LayerNorm and then tanh, the end of the trunk of SAC-AE (Yarats et al.
    2019), and after it of CURL, DrQ and DrQ-v2: what the critic of SAC or TD3 sees beside an action keeps its scale.
    """
    return nn.ReLU() if name == "relu" else nn.Sequential(nn.LayerNorm(units), nn.Tanh())
