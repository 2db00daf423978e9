"""A stock SB3 model of a player: its algorithm's own class and heads around a self-contained encoder."""

from __future__ import annotations

import copy
import inspect
import io
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from stillsight.agents.errors import RunError
from stillsight.agents.exchange import pixel_features
from stillsight.agents.exchange.pixel_features import PixelFeatures
from stillsight.agents.features.extractor import EncoderExtractor, canonical
from stillsight.agents.playing.player import NoEnvironment, Player
from stillsight.agents.training.algorithms import spec
from stillsight.agents.training.settings import arguments, overrides
from stillsight.encoders.atomic import to_json
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.preprocess import Preprocess

SAMPLE = 2
"""Observations that a program is traced with; it takes any number."""

TOLERANCE = 1e-3
"""How far features may differ that the exported encoder gives, in units of their largest value; rounding stays far
below it."""


class Trained(nn.Module):
    """What learns of an `EncoderExtractor`, without what only training needs: frames `[N, frames, ...]` -> features.

    Its parameters and buffers have the names that they have in the extractor.

    Args:
        learned: the extractor's own stages, or those of the critic that it looks through.
        head: of the extractor.
    """

    def __init__(self, learned: nn.ModuleList, head: nn.Module) -> None:
        super().__init__()
        self.learned = nn.Module()
        self.learned.steps = learned
        self.head = head

    def forward(self, frames: Tensor) -> Tensor:
        each = frames.flatten(0, 1)
        for step in self.learned.steps:  # type: ignore[union-attr]
            each = step(each)
        features: Tensor = self.head(each.float().unflatten(0, frames.shape[:2]))
        return features


class Source:
    """Pickles as the class `PixelFeatures` made from its source: any Python that has torch and SB3 reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        source = inspect.getsource(pixel_features)
        made = f"(lambda names: (exec({source!r}, names), names['PixelFeatures'])[1])({{'__name__': 'pixel_features'}})"
        return eval, (made,)

    def __repr__(self) -> str:
        return "PixelFeatures, from the source that is pickled here"


def observation_space(player: Player) -> spaces.Box:
    """What the stock model sees: uint8 `[frames, 3, H, W]`, oldest first, or `[3, H, W]` of a single frame."""
    frames = player.model.observation_space.shape
    assert frames is not None
    shape = player.known.pixels if frames[0] == 1 else (frames[0], *player.known.pixels)
    return spaces.Box(0, 255, shape, np.uint8)


def stock_model(player: Player, run: Mapping[str, Any]) -> BaseAlgorithm:
    """A model of the player's algorithm, as stock SB3 has it, that acts on pixels as the player does.

    Replay memory has room for one transition: who trains on gives `load` another `buffer_size`.

    Args:
        player: on the CPU.
        run: told to whoever imports the zip, as JSON.

    Raises:
        RunError: the encoder cannot be exported, or computes something else then.
    """
    config, row, venv = player.config, spec(player.config.algo), NoEnvironment(player.known)
    venv.observation_space = observation_space(player)
    eyes = {
        "frozen": _frozen_program(player.encoder, player.known.pixels),
        "trained": _trained_program(player),
        "features_dim": config.head,
        "run": to_json(run),
    }
    policy_kwargs: dict[str, Any] = {
        "features_extractor_class": PixelFeatures,
        "features_extractor_kwargs": eyes,
        "normalize_images": False,  # the encoder normalises, by the recipe of its weights
    }
    if row.net_arch is not None:
        policy_kwargs["net_arch"] = list(row.net_arch)
    chosen = overrides(config.set, "--set")
    if "buffer_size" in chosen:
        chosen["buffer_size"] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of minibatches that one environment does not fill
        model = type(player.model)(
            row.policy, venv, policy_kwargs=policy_kwargs, seed=config.seed, device="cpu", **arguments(chosen, venv)
        )
    with torch.no_grad():
        model.policy.load_state_dict(_policy_state(player, model))
    model.num_timesteps, model._total_timesteps = player.step, config.steps
    _check(player, model)
    model.policy_kwargs["features_extractor_class"] = Source()
    return model


def _policy_state(player: Player, model: BaseAlgorithm) -> dict[str, Tensor]:
    """Everything that the player's policy has learned, under the names of the stock one."""
    theirs = dict(model.policy.state_dict())
    state = {name: value for name, value in player.model.policy.state_dict().items() if name in theirs}
    for path, extractor in _extractors(player.model.policy, EncoderExtractor):
        for name, value in _trained(extractor).state_dict().items():
            state[f"{path}.trained.{name}"] = value
    return state


def _extractors(policy: nn.Module, kind: type[nn.Module]) -> Iterator[tuple[str, Any]]:
    """Every extractor of the policy with its path; one under several names comes under each."""
    for name, module in policy.named_modules(remove_duplicate=False):
        if isinstance(module, kind):
            yield name, module


def _trained(extractor: EncoderExtractor) -> Trained:
    leader = extractor._leader[0] if extractor._leader else extractor
    return Trained(_without_counter(leader.learned.steps), extractor.head)


def _without_counter(steps: nn.ModuleList) -> nn.ModuleList:
    """The same stages, by reference, which count no images."""
    return nn.ModuleList([step.uncounted() if isinstance(step, Preprocess) else step for step in steps])


def _frozen_program(encoder: Encoder, pixels: tuple[int, int, int]) -> np.ndarray | None:
    """The frozen part as a program in float32; None where there is none."""
    if not len(encoder.frozen.steps):
        return None
    stages = nn.Sequential(*copy.deepcopy(_without_counter(encoder.frozen.steps)))
    return _program(stages, torch.zeros((SAMPLE, *pixels)), encoder.name)


def _trained_program(player: Player) -> np.ndarray:
    """What learns of the encoder, and the head, as a program."""
    extractor = canonical(player.model.policy)
    frames = player.model.observation_space.shape
    assert frames is not None
    frame = player.encoder.frozen.frame_shape(player.known.pixels)
    return _program(copy.deepcopy(_trained(extractor)), torch.zeros((SAMPLE, frames[0], *frame)), player.encoder.name)


def _program(module: nn.Module, sample: Tensor, name: str) -> np.ndarray:
    """`module` for any number of observations, as the bytes uint8 `[n]` of a file of `torch.export`.

    Raises:
        RunError: its code does something that depends on the values, or that torch cannot trace.
    """
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(
                module.eval(), (sample,), dynamic_shapes=({0: torch.export.Dim("observations")},)
            )
            torch.export.save(exported, file)
    except Exception as error:  # whatever the code of a network raises when it is traced
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"The encoder {name} cannot be written as a program of its own (torch.export: {reason}). Share the run "
            "folder, which is plain files, or an agent with an encoder of `stillsight list encoders`."
        ) from error
    return np.frombuffer(file.getvalue(), np.uint8)


@torch.no_grad()
def _check(player: Player, model: BaseAlgorithm) -> None:
    """Raise `RunError` unless every extractor of `model` gives what the player's gives, on pixels of noise."""
    space = model.observation_space
    assert isinstance(space, spaces.Box)
    noise = np.random.default_rng(0).integers(0, 256, (SAMPLE + 1, *space.shape), np.uint8)
    pixels = torch.from_numpy(noise).float()
    stacks = pixels if pixels.dim() == 5 else pixels[:, None]
    frames = nn.Sequential(*_without_counter(player.encoder.frozen.steps))(stacks.flatten(0, 1)).float()
    seen = frames.unflatten(0, stacks.shape[:2])
    ours = dict(_extractors(player.model.policy, EncoderExtractor))
    for path, extractor in _extractors(model.policy, PixelFeatures):
        expected, given = _trained(ours[path]).eval()(seen), extractor(pixels)
        apart = (given - expected).abs().max().item() / max(1.0, expected.abs().max().item())
        if not apart <= TOLERANCE:
            raise RunError(
                f"The exported encoder {player.encoder.name} computes something else than the run's (features of noise "
                f"lie {apart:.2g} apart), so nothing was written. Share the run folder instead."
            )
