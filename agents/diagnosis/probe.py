"""Probe a policy: find the vision network in it, and measure what reaches that without changing anything."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from stillsight.agents.features.extractor import EncoderExtractor
from stillsight.encoders.part import kept_modes

Observation = np.ndarray[Any, Any] | dict[str, "Observation"]
_DOMINANT = 0.9
"""Share of an extractor's vision parameters that makes one sub-module its backbone, and the rest a head."""


@dataclass(frozen=True)
class Network:
    """A backbone and the features extractor that looks through it.

    Attributes:
        where: its path in the policy.
        extractor: that holds it.
        module: the backbone.
        held: it is a sub-module of the policy, so that SB3 meets it; what stillsight freezes is none.
    """

    where: str
    extractor: BaseFeaturesExtractor
    module: nn.Module
    held: bool

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers, under official names where these are known."""
        if isinstance(self.extractor, EncoderExtractor):
            return (self.extractor.learned if self.held else self.extractor._frozen[0]).state()
        return self.module.state_dict()


@dataclass(frozen=True)
class ForwardPass:
    """Measurements of the forward passes of a black, a white and a noise observation.

    Attributes:
        ran: the modules of the backbone that took part.
        learns: some layer of the backbone passes gradients on.
        images: that one observation becomes before the backbone.
        bounded: the observation space says what black and white are; without that the numbers below mean nothing.
        low, high: of all that reached the first convolution.
        span: largest difference that one channel there shows between black and white.
        mean, std: of noise, there.
    """

    ran: frozenset[nn.Module]
    learns: bool
    images: int
    bounded: bool
    low: float
    high: float
    span: float
    mean: float
    std: float


def is_vision(module: nn.Module) -> bool:
    """Whether a layer is a convolution or attention."""
    return isinstance(module, nn.Conv2d | nn.MultiheadAttention) or type(module).__name__.endswith("Attention")


def networks(policy: nn.Module) -> list[Network]:
    """Find the backbone of each features extractor, online ones before their targets; one that is shared comes once.

    A backbone is the largest sub-module of the extractor that holds its convolutions or attention; where these lie in
    the extractor itself, it is the extractor.
    """
    by_module: dict[int, Network] = {}
    outer: list[str] = []
    held = {id(module) for module in policy.modules()}
    for path, module in policy.named_modules():
        if not isinstance(module, BaseFeaturesExtractor) or any(path.startswith(f"{name}.") for name in outer):
            continue
        outer.append(path)
        for name, part in _candidates(module):
            if _sees(part):
                where = f"{path}.{name}" if name else path
                by_module.setdefault(id(part), Network(where, module, part, id(part) in held))
                break
    return list(by_module.values())


def _candidates(extractor: BaseFeaturesExtractor) -> list[tuple[str, nn.Module]]:
    if isinstance(extractor, EncoderExtractor):  # whose head has convolutions too, and is no backbone
        return [("learned", extractor.learned), ("frozen", extractor._frozen[0].steps)]
    path, module = "", cast(nn.Module, extractor)
    wrappers = BaseFeaturesExtractor | nn.ModuleDict | nn.ModuleList | nn.Sequential
    while isinstance(module, wrappers):
        sizes = {name: _parameters(child) for name, child in module.named_children() if _sees(child)}
        largest = max(sizes, key=lambda name: sizes[name], default="")
        child = getattr(module, largest, None)
        if not isinstance(child, nn.Module) or is_vision(child) or sizes[largest] < _DOMINANT * sum(sizes.values()):
            break
        path, module = f"{path}.{largest}".strip("."), child
    return [(path, module)]


def _sees(module: nn.Module) -> bool:
    return any(map(is_vision, module.modules()))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def untouched(policy: nn.Module, backbones: list[Network]) -> Iterator[None]:
    """Put back, afterwards, train and eval flags, buffers, random generators and stillsight's count of images."""
    roots = [policy, *(network.module for network in backbones)]
    modules = list({id(module): module for root in roots for module in root.modules()}.values())
    buffers = [
        (module, name, b, b.clone()) for module in modules for name, b in module._buffers.items() if b is not None
    ]
    states = random.getstate(), np.random.get_state()
    devices = sorted({p.device.index for p in policy.parameters() if p.device.type == "cuda"})
    with ExitStack() as stack, kept_modes(roots), torch.random.fork_rng(devices=devices):
        for network in backbones:
            if isinstance(network.extractor, EncoderExtractor):
                stack.enter_context(network.extractor._frozen[0].counter.paused())
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.data.copy_(value)


def initialised_layers(network: Network) -> list[nn.Conv2d | nn.Linear]:
    """List the layers of the backbone that SB3's orthogonal initialisation reaches: those that `apply` passes on."""
    own = set(network.module.modules())
    layers: list[nn.Conv2d | nn.Linear] = []

    def note(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear) and module in own:
            layers.append(module)

    network.extractor.apply(note)
    return layers


def switched_to_train_mode(policy: BasePolicy, backbones: list[Network]) -> set[nn.Module]:
    """Modules of the backbones in train mode once an update begins, with `policy.set_training_mode(True)`."""
    policy.set_training_mode(True)
    return {module for network in backbones for module in network.module.modules() if module.training}


def forward_pass(policy: BasePolicy, network: Network) -> ForwardPass:
    """Pass a black, a white and a noise observation through the features extractor, as SB3 would, in eval mode.

    Gradients are enabled, because whether a layer passes them on tells a frozen backbone from one that learns: some are
    frozen by `requires_grad_(False)`, others by `torch.no_grad()` in `forward`. Nothing runs backward.
    """
    network.extractor.train(False)
    policy.set_training_mode(False)
    ran: set[nn.Module] = set()
    doors: list[nn.Module] = []
    entered: list[Tensor] = []
    passing: list[bool] = []

    def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        ran.add(module)
        if isinstance(module, nn.Conv2d):
            doors[:] = doors or [module]
            if module is doors[0]:
                entered.append(arguments[0].detach().float())

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and any(True for _ in module.parameters(recurse=False)):
            passing.append(output.requires_grad)

    def counted() -> int:
        # The frozen part of an encoder may run compiled, past all hooks, and counts by itself.
        return network.extractor._frozen[0].counter.images if isinstance(network.extractor, EncoderExtractor) else 0

    seen = []
    with ExitStack() as hooks, torch.enable_grad():
        for module in network.module.modules():
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        for fill in (_black, _white, _Noise()):
            entered.clear()
            before = counted()
            observation = _tensors(_sample(policy.observation_space, fill), policy.device)
            network.extractor(preprocess_obs(observation, policy.observation_space, policy.normalize_images))
            seen.append(torch.cat(entered) if entered else torch.zeros(0))
    black, white, noise = seen
    every = torch.cat(seen)
    images = max(len(noise), counted() - before)
    if not every.numel():
        return ForwardPass(frozenset(ran), any(passing), images, False, 0.0, 0.0, 0.0, 0.0, 0.0)
    return ForwardPass(
        frozenset(ran),
        any(passing),
        images,
        _bounded(policy.observation_space),
        float(every.min()),
        float(every.max()),
        float((white - black).abs().max()),
        float(noise.mean()),
        float(noise.std((0, 2, 3)).max()),
    )


def _box_bounded(space: spaces.Box) -> bool:
    # Bounds of 1e38 are how some environments write infinity.
    return bool((np.abs(space.low) < 1e6).all() and (np.abs(space.high) < 1e6).all())


def _bounded(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return all(_bounded(part) for part in space.values())
    return not isinstance(space, spaces.Box) or len(space.shape) < 3 or _box_bounded(space)


def _black(space: spaces.Box) -> np.ndarray[Any, Any]:
    return space.low if _box_bounded(space) else np.zeros(space.shape)


def _white(space: spaces.Box) -> np.ndarray[Any, Any]:
    return space.high if _box_bounded(space) else np.ones(space.shape)


class _Noise:
    """Uniform noise from a generator of its own: a space's `sample` would advance the space's."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def __call__(self, space: spaces.Box) -> np.ndarray[Any, Any]:
        low, high = _black(space).astype(float), _white(space).astype(float)
        return np.asarray(low + (high - low) * self._random.random(space.shape))


def _sample(space: spaces.Space[Any], fill: Callable[[spaces.Box], np.ndarray[Any, Any]]) -> Observation:
    """One observation, with a batch axis in front; what is no Box is zero."""
    if isinstance(space, spaces.Dict):
        return {name: _sample(part, fill) for name, part in space.items()}
    shape = space.shape or ()
    value = fill(space) if isinstance(space, spaces.Box) else np.zeros(shape)
    return np.asarray(value).astype(space.dtype)[None]


def _tensors(observation: Observation, device: torch.device) -> Any:
    if isinstance(observation, dict):
        return {name: _tensors(part, device) for name, part in observation.items()}
    return torch.as_tensor(observation, device=device)
