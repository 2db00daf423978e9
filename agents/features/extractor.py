"""EncoderExtractor: a policy's eyes, what learns of the encoder and the head behind it."""

from __future__ import annotations

import copy

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from stillsight.agents.buffers.distinct import distinct
from stillsight.agents.buffers.row import RowSpace
from stillsight.agents.errors import RunError
from stillsight.agents.features.activation import Activation
from stillsight.agents.features.fusion import Fusion
from stillsight.agents.features.head import HEAD_FEATURES, Head
from stillsight.agents.features.random_shift import RandomShift
from stillsight.agents.features.standardise import FirstLook
from stillsight.agents.features.state_head import STATE_UNITS, StateHead
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.learned import Learned


class EncoderExtractor(BaseFeaturesExtractor):
    """A policy's eyes: what learns of the encoder, and the head that every mode shares.

    `[N, frame_stack, *frame]` -> `[N, features_dim]`: each frame through the learned part, then all of them through the
    `Head`. What a frame is, it is told: what the frozen part gives, where an `EncodedVecEnv` with the same encoder runs
    that before the policy, or pixels, where the frozen part runs in here (`in_policy`).

    Of a `RowSpace` each row is taken apart first: all images of a frame go through the learned part, their features
    side by side through the head, and its state through a layer of its own (`StateHead`), whose result is joined behind
    the head's.

    The frozen part is held by reference and is no sub-module: Stable-Baselines3 neither copies, averages, optimises,
    re-initialises nor saves it.

    Args:
        observation_space: of an `EncodedVecEnv`.
        encoder: the one that the `EncodedVecEnv` has; in-policy, that has none.
        features_dim: width of the head; that of the state's layer comes on top.
        compress: channels that the head's 1 x 1 convolution leaves at each place of each frame; 0 does without it.
        shift: see pixels through `RandomShift`.
        in_policy: frames are pixels, and the frozen part runs here, at every look.
        fusion: of the frames of a stack, see `fusion.fuse`.
        activation: at the end of the head and of the state's layer, see `activation.activation`.

    Raises:
        RunError: frames are pixels where the frozen part's output is expected, or the other way round.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        encoder: Encoder,
        features_dim: int = HEAD_FEATURES,
        compress: int = 32,
        shift: bool = False,
        in_policy: bool = False,
        fusion: Fusion = "stack",
        activation: Activation = "relu",
    ) -> None:
        row = observation_space if isinstance(observation_space, RowSpace) else None
        images, state = (1, 0) if row is None else (row.images, row.state)
        super().__init__(observation_space, features_dim * bool(images) + STATE_UNITS * bool(state))
        self.row = row
        if images:
            _check_frames(observation_space, encoder, in_policy)
        self.shift = RandomShift() if shift else nn.Identity()
        encoder.in_policy = True
        self._frozen = (encoder.frozen,)  # in a tuple, because nn.Module would register it
        self.in_policy = in_policy
        self.learned = copy.deepcopy(encoder.learned)
        self._leader: tuple[EncoderExtractor, ...] = ()
        count, *shape = observation_space.shape if row is None else (row.shape[0], *row.part)
        if images:
            _check_fusion(fusion, count)
        self.head = None
        if images:
            with torch.no_grad(), encoder.counter.paused():
                sample = torch.zeros((1, *shape), device=encoder.frozen.device)
                if in_policy or not len(encoder.frozen.steps):
                    sample = encoder.frozen(sample)
                width = self.learned(sample.to(_device(self.learned))).shape[1]
            blocks = encoder.blocks(width)
            self.head = Head(count, blocks, compress, features_dim, fusion, images, activation)
        self.state_head = StateHead(count, state, activation) if state else None

    def forward(self, observations: Tensor) -> Tensor:
        if self.row is None:
            frames, state = self.shift(observations).unsqueeze(2), None
        else:
            frames, state = self.row.split(observations)
            if frames.shape[2] and not isinstance(self.shift, nn.Identity):  # each image by a draw of its own
                moved = self.shift(frames.transpose(1, 2).flatten(0, 1))
                frames = moved.unflatten(0, (len(frames), -1)).transpose(1, 2)
        counts, features = frames.shape[:3], None
        if self.head is not None:
            each = frames.flatten(0, 2)
            if self.in_policy:
                frozen = self._frozen[0]
                each = frozen(each.to(frozen.device)).to(observations.device)
            features = self._look(each).unflatten(0, counts)
        return join(self.head, self.state_head, features, state)

    def take(self, look: FirstLook) -> None:
        """Standardise features and state by what a first look gathered, see `gather_statistics`, from now on.

        Raises:
            RunError: replay memory would round features away that the head is to see.
        """
        if self.head is not None and look.features is not None:
            self.head.standardise.take(look.features)
            if look.rounding is not None:
                self.head.standardise.check_rounding(look.features, look.rounding)
        if self.state_head is not None and look.state is not None:
            self.state_head.standardise.take(look.state)

    def look_through(self, leader: EncoderExtractor) -> None:
        """Drop the learned part and use that of `leader` from now on, by reference and without training it."""
        self.learned = Learned({}, {})
        self._leader = (leader,)  # in a tuple, because nn.Module would register it

    @property
    def follows(self) -> bool:
        """Whether it looks through another one."""
        return bool(self._leader)

    def _look(self, frames: Tensor) -> Tensor:
        if self._leader:
            with torch.no_grad():
                return self._leader[0]._look(frames)
        # While it learns from batches of stacks, which share frames: on a CPU, and not where BatchNorm gathers
        # statistics, for which a frame counts as often as it is there.
        once = torch.is_grad_enabled() and self.learned.learns and not self.learned.moves_statistics
        alike = distinct(frames) if once and frames.device.type == "cpu" else None
        features: Tensor = self.learned(frames if alike is None else frames[alike.first])
        return features if alike is None else features[alike.kind]


def join(head: nn.Module | None, state_head: nn.Module | None, features: Tensor | None, state: Tensor | None) -> Tensor:
    """Features `[N, frames, images, D]` and states `[N, frames, numbers]` -> `[N, features_dim]`.

    What there is no head for is not looked at.
    """
    parts: list[Tensor] = [] if head is None or features is None else [head(features.flatten(2))]
    parts += [] if state_head is None or state is None else [state_head(state)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _check_fusion(fusion: Fusion, frames: int) -> None:
    """Refuse differences of a single frame, of which there are none."""
    if fusion != "stack" and frames < 2:
        raise RunError(
            f"--fusion {fusion} takes differences of frames, and an observation is one frame here. Type "
            "--frame-stack 4, or --fusion stack."
        )


def _check_frames(space: spaces.Box, encoder: Encoder, in_policy: bool) -> None:
    """Refuse observations that are not what the extractor was told."""
    pixels = space.dtype == np.uint8
    if in_policy and not pixels:
        raise RunError(
            f"EncoderExtractor(in_policy=True) takes stacks of pixels, and these observations are {space.dtype} "
            f"{list(space.shape)}. Leave in_policy out, or make the environments with EncodedVecEnv(venv)."
        )
    if not in_policy and pixels and len(encoder.frozen.steps):
        raise RunError(
            f"EncoderExtractor takes what the frozen part of {encoder.name} gives, and these observations are pixels "
            f"{list(space.shape)}. Make the environments with EncodedVecEnv(venv, encoder), or pass in_policy=True."
        )


def _device(module: nn.Module) -> torch.device:
    """Where `module` lives; a part of a transformer has no buffers, and one that only passes on has no parameters."""
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def canonical(policy: nn.Module) -> EncoderExtractor:
    """The extractor whose learned part stands for the policy's encoder where there are several copies.

    The critic's, where there is one (SAC, TD3, TQC), because it is the one that the temporal difference trains; else
    the Q network's (DQN, QR-DQN), else the only one (PPO, A2C, TRPO).
    """
    for owner in ("critic", "q_net", "quantile_net"):
        extractor = getattr(getattr(policy, owner, None), "features_extractor", None)
        if isinstance(extractor, EncoderExtractor):
            return extractor
    found = extractors(policy)
    if not found:
        raise RunError("This policy has no EncoderExtractor, so there is no encoder of stillsight in it.")
    return found[0]


def extractors(policy: nn.Module) -> list[EncoderExtractor]:
    """All of a policy's, those of its target networks included."""
    return [module for module in policy.modules() if isinstance(module, EncoderExtractor)]


def encoder_state(encoder: Encoder, policy: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the encoder as `policy` uses it now, under their official names."""
    return encoder.frozen.state() | canonical(policy).learned.state()
