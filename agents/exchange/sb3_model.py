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
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor, nn

from stillsight.agents.errors import RunError
from stillsight.agents.exchange import pixel_features
from stillsight.agents.exchange.pixel_features import PixelFeatures
from stillsight.agents.features.extractor import EncoderExtractor, canonical, join
from stillsight.agents.playing.player import NoEnvironment, Player
from stillsight.agents.training.algorithms import spec
from stillsight.agents.training.model import playing_model
from stillsight.agents.training.settings import arguments, overrides
from stillsight.agents.training.state.exploration import exploration
from stillsight.encoders.atomic import to_json
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.errors import first_line
from stillsight.encoders.preprocess import Preprocess

SAMPLE = 2
"""Observations that a program is traced with; it takes any number."""

TOLERANCE = 1e-3
"""How far features may differ that the exported encoder gives, in units of their largest value; rounding stays far
below it."""


class Trained(nn.Module):
    """What learns of an `EncoderExtractor`, without what only training needs: frames `[N, frames, ...]` -> features.

    Where it sees parts, frames are `[N, frames, images, ...]`, and states `[N, frames, numbers]` come second.

    Its parameters and buffers have the names that they have in the extractor.

    Args:
        learned: the extractor's own stages, or those of the critic that it looks through.
        head, state_head: of the extractor.
        parts: whether it sees several images or a state.
    """

    def __init__(
        self, learned: nn.ModuleList, head: nn.Module, state_head: nn.Module | None = None, parts: bool = False
    ) -> None:
        super().__init__()
        self.learned = nn.Module()
        self.learned.steps = learned
        self.head = head
        self.state_head = state_head
        self.parts = parts

    def forward(self, frames: Tensor, state: Tensor | None = None) -> Tensor:
        images = frames if self.parts else frames.unsqueeze(2)
        each = images.flatten(0, 2)
        for step in self.learned.steps:  # type: ignore[union-attr]
            each = step(each)
        return join(self.head, self.state_head, each.float().unflatten(0, images.shape[:3]), state)


class TrainedOnState(nn.Module):
    """The same of an extractor that sees no image: states `[N, frames, numbers]` -> features."""

    def __init__(self, state_head: nn.Module) -> None:
        super().__init__()
        self.state_head = state_head

    def forward(self, state: Tensor) -> Tensor:
        features: Tensor = self.state_head(state)
        return features


class Source:
    """Pickles as the class `PixelFeatures` made from its source: any Python that has torch and SB3 reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        source = inspect.getsource(pixel_features)
        made = f"(lambda names: (exec({source!r}, names), names['PixelFeatures'])[1])({{'__name__': 'pixel_features'}})"
        return eval, (made,)

    def __repr__(self) -> str:
        return "PixelFeatures, from the source that is pickled here"


def observation_space(player: Player) -> spaces.Box | spaces.Dict:
    """What the stock model sees: uint8 `[frames, 3, H, W]`, oldest first, or `[3, H, W]` of a single frame; a Dict of
    such images and of vectors float32 `[frames, D]`, or `[D]`, where the run saw parts."""
    layout, count = player.known.layout, frames(player)
    lead = () if count == 1 else (count,)
    images = {image.key: spaces.Box(0, 255, (*lead, *image.shape), np.uint8) for image in layout.images}
    if layout.plain:
        return next(iter(images.values()))
    vectors = {vector.key: spaces.Box(-np.inf, np.inf, (*lead, vector.width), np.float32) for vector in layout.vectors}
    return spaces.Dict({**images, **vectors})


def frames(player: Player) -> int:
    """How many frames an observation of the player's policy has."""
    shape = player.model.observation_space.shape
    assert shape is not None
    return int(shape[0])


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
    eyes: dict[str, Any] = {
        "frozen": _frozen_program(player.encoder, player.known.pixels) if player.known.layout.images else None,
        "trained": _trained_program(player),
        "features_dim": canonical(player.model.policy).features_dim,
        "run": to_json(run),
    }
    policy = row.policy
    if not player.known.layout.plain:
        eyes["images"] = tuple(image.key for image in player.known.layout.images)
        eyes["vectors"] = tuple(vector.key for vector in player.known.layout.vectors)
        policy = policy.replace("Mlp", "MultiInput")
    policy_kwargs: dict[str, Any] = {
        "features_extractor_class": PixelFeatures,
        "features_extractor_kwargs": eyes,
        "normalize_images": False,  # the encoder normalises, by the recipe of its weights
    }
    if (layers := config.net_arch) is not None:
        policy_kwargs["net_arch"] = layers
    chosen = overrides(config.set, "--set")
    cls = type(player.model)
    if issubclass(cls, OffPolicyAlgorithm) and not player.known.layout.plain:  # SB3 has no n-step returns of a Dict
        chosen.pop("n_steps", None)
    model = playing_model(
        cls, policy, venv, policy_kwargs=policy_kwargs, seed=config.seed, device="cpu", **arguments(chosen, venv)
    )
    with torch.no_grad():
        model.policy.load_state_dict(_policy_state(player, model))
    model.num_timesteps, model._total_timesteps = player.step, config.steps
    vars(model).update(exploration(player.model))
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


def _trained(extractor: EncoderExtractor) -> Trained | TrainedOnState:
    leader = extractor._leader[0] if extractor._leader else extractor
    if extractor.head is None:
        assert extractor.state_head is not None
        return TrainedOnState(extractor.state_head)
    steps = _without_counter(leader.learned.steps)
    return Trained(steps, extractor.head, extractor.state_head, extractor.row is not None)


def _without_counter(steps: nn.ModuleList) -> nn.ModuleList:
    """The same stages, by reference, which count no images."""
    return nn.ModuleList([step.uncounted() if isinstance(step, Preprocess) else step for step in steps])


def _frozen_program(encoder: Encoder, pixels: tuple[int, int, int]) -> np.ndarray | None:
    """The frozen part as a program in float32; None where there is none."""
    if not len(encoder.frozen.steps):
        return None
    stages = nn.Sequential(*copy.deepcopy(_without_counter(encoder.frozen.steps)))
    return _program(stages, (torch.zeros((SAMPLE, *pixels)),), encoder.name)


def _trained_program(player: Player) -> np.ndarray:
    """What learns of the encoder, and the head, as a program."""
    extractor, layout, count = canonical(player.model.policy), player.known.layout, frames(player)
    samples: list[Tensor] = []
    if layout.images:
        frame = player.encoder.frozen.frame_shape(player.known.pixels)
        images = () if layout.plain else (len(layout.images),)
        samples.append(torch.zeros((SAMPLE, count, *images, *frame)))
    if layout.vectors:
        samples.append(torch.zeros((SAMPLE, count, layout.state)))
    return _program(copy.deepcopy(_trained(extractor)), tuple(samples), player.encoder.name)


def _program(module: nn.Module, samples: tuple[Tensor, ...], name: str) -> np.ndarray:
    """`module` for any number of observations, as the bytes uint8 `[n]` of a file of `torch.export`.

    Raises:
        RunError: its code does something that depends on the values, or that torch cannot trace.
    """
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            observations = torch.export.Dim("observations")
            exported = torch.export.export(
                module.eval(), samples, dynamic_shapes=tuple({0: observations} for _ in samples)
            )
            torch.export.save(exported, file)
    except Exception as error:  # whatever the code of a network raises when it is traced
        reason = first_line(error)
        raise RunError(
            f"The encoder {name} cannot be written as a program of its own (torch.export: {reason}). Share the run "
            "folder, which is plain files, or an agent with an encoder of `stillsight list encoders`."
        ) from error
    return np.frombuffer(file.getvalue(), np.uint8)


@torch.no_grad()
def _check(player: Player, model: BaseAlgorithm) -> None:
    """Raise `RunError` unless every extractor of `model` gives what the player's gives, on pixels of noise."""
    observations, seen = _noise(player, model.observation_space)
    ours = dict(_extractors(player.model.policy, EncoderExtractor))
    for path, extractor in _extractors(model.policy, PixelFeatures):
        expected, given = _trained(ours[path]).eval()(*seen), extractor(observations)
        apart = (given - expected).abs().max().item() / max(1.0, expected.abs().max().item())
        if not apart <= TOLERANCE:
            raise RunError(
                f"The exported encoder {player.encoder.name} computes something else than the run's (features of noise "
                f"lie {apart:.2g} apart), so nothing was written. Share the run folder instead."
            )


def _noise(player: Player, space: spaces.Space[Any]) -> tuple[Tensor | dict[str, Tensor], list[Tensor]]:
    """Observations of noise as the stock model gets them, and as what learns gets them: frames, and states."""
    layout, draws = player.known.layout, np.random.default_rng(0)
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    shown = {}
    for key, part in parts.items():
        assert isinstance(part, spaces.Box)
        shape = (SAMPLE + 1, *part.shape)
        noise = draws.integers(0, 256, shape, np.uint8) if part.dtype == np.uint8 else draws.standard_normal(shape)
        shown[key] = torch.from_numpy(noise).float()
    single, seen = frames(player) == 1, []
    if layout.images:
        images = torch.stack([shown[image.key] for image in layout.images], dim=-4)  # before 3, H, W
        stacks = images.unsqueeze(1) if single else images
        each = nn.Sequential(*_without_counter(player.encoder.frozen.steps))(stacks.flatten(0, 2)).float()
        several = each.unflatten(0, stacks.shape[:3])
        seen.append(several.squeeze(2) if layout.plain else several)
    if layout.vectors:
        state = torch.cat([shown[vector.key] for vector in layout.vectors], dim=-1)
        seen.append(state.unsqueeze(1) if single else state)
    return (shown[layout.images[0].key] if layout.plain else shown), seen
