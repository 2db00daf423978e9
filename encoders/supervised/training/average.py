"""Average weights over updates (EMA), which generalises better than the last of them, at the cost of one copy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the parameters and buffers of `model`, as `module` of what is returned.

    The decay of update n is min(`decay`, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage, so that a
    short run is not left with its random first weights. BatchNorm's statistics belong to the weights and are averaged
    with them; its counter is copied.

    Args:
        model: on its device; copied.
        decay: 0..1, of one update.
    """

    def step(averages: Sequence[Tensor], currents: Sequence[Tensor], _: object) -> None:
        # Its own counter lies on the CPU, while the one it hands over would make the host wait for the device.
        updates = int(average.n_averaged)
        weight = 1 - min(decay, (1 + updates) / (10 + updates))
        for mean, current in zip(averages, currents, strict=True):
            mean.lerp_(current, weight) if mean.is_floating_point() else mean.copy_(current)

    average = AveragedModel(model, multi_avg_fn=step, use_buffers=True)
    return average
