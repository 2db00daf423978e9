"""A part of an encoder: a run of consecutive stages on one side of the cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from stillsight.encoders import device as devices


@contextmanager
def kept_modes(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put the train and eval flags of modules, and of all that is in them, back afterwards as they were."""
    flags = [(module, module.training) for parent in modules for module in parent.modules()]
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


class Part(nn.Module):
    """A run of consecutive stages, one side of the cut.

    Args:
        names: of the stages.
        official: keys of the stages' state_dict -> the names that the network's author gave the same tensors.
        precision: of the matrix products, see `device.autocast`.
    """

    steps: nn.ModuleList

    def __init__(self, names: Iterable[str], official: Mapping[str, str], precision: devices.Precision) -> None:
        super().__init__()
        self.names = tuple(names)
        self.official = dict(official)
        self.precision = precision

    def state(self) -> dict[str, Tensor]:
        """Every parameter and buffer under its official name; the tensors are the live ones."""
        return {self.official[key]: tensor for key, tensor in self.steps.state_dict(keep_vars=True).items()}

    def sequence(self, tensor: Tensor) -> Tensor:
        """Run the stages one after the other."""
        with devices.autocast(tensor.device, self.precision):
            for step in self.steps:
                tensor = step(tensor)
        return tensor
