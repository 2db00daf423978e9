"""PixelPolicy: a whole policy as one differentiable module, from stacks of pixels to what it says of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from torch import Tensor, nn

from stillsight.agents.errors import RunError
from stillsight.agents.features.extractor import EncoderExtractor, canonical, join
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.preprocess import Preprocess


class PixelPolicy(nn.Module):
    """Pixels 0..255 `[N, frames, 3, H, W]` (uint8 or float) -> what the policy says of them, float32 `[N, ...]`.

    Of a policy that sees several images or a state: pixels `[N, frames, images, 3, H, W]`, images in the order of their
    keys, and the state `[N, frames, numbers]` as a second argument, where it has one.

    What that is depends on the algorithm, see `says`: "logits" of each action (PPO, A2C, TRPO; discrete), "mean" of the
    actions before they are clipped (the same; continuous), "values" of each action (DQN, QR-DQN: the mean over the
    quantiles), or the "action" itself (SAC, TD3, TQC; deterministic).

    Nothing in it stops gradients: not the frozen part, which computes in float32 here, and not the actor of SAC, TD3
    and TQC, which looks through the critic's eyes. Dropout and BatchNorm stay in eval mode. The weights are those of
    the policy, by reference, and the frozen part is a copy.

    Args:
        encoder: whose frozen part stands before the policy.
        policy: of the SB3 model.

    Raises:
        RunError: the policy is recurrent, or of a kind that is not known.
    """

    def __init__(self, encoder: Encoder, policy: BasePolicy) -> None:
        super().__init__()
        self.says, extractor, self.heads, self._answer = _parts(policy)
        pixels, *stages = encoder.frozen.steps or [nn.Identity()]
        first = pixels.uncounted() if isinstance(pixels, Preprocess) else pixels
        self.frozen = nn.Sequential(first, *copy.deepcopy(stages)).to(encoder.frozen.device)
        self.learned = canonical(policy).learned
        if extractor.head is None:
            raise RunError("This policy sees no pixels, so no module begins with them. Use player.predict.")
        self.head, self.state_head = extractor.head, extractor.state_head
        self.train(False)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 - nn.Module's signature
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, pixels: Tensor, state: Tensor | None = None) -> Tensor:
        if (state is None) != (self.state_head is None):
            told = "sees a state, which comes as a second argument" if state is None else "sees no state, and got one"
            raise RunError(f"This policy {told}. Call it as module(pixels{', state' if state is None else ''}).")
        images = pixels if pixels.dim() == 6 else pixels.unsqueeze(2)
        frames = self.frozen(images.flatten(0, 2)).float()
        features = join(self.head, self.state_head, self.learned(frames).unflatten(0, images.shape[:3]), state)
        answer: Tensor = self._answer(self.heads, features)
        return answer


Answer = Callable[[nn.ModuleList, Tensor], Tensor]


def _parts(policy: BasePolicy) -> tuple[str, EncoderExtractor, nn.ModuleList, Answer]:
    """What a policy says, its actor's extractor, the modules behind it, and how they answer features."""
    owner: Any = policy
    if hasattr(policy, "lstm_actor"):
        raise RunError(
            "A recurrent policy remembers, so no module from one stack of pixels to an action stands for it. "
            "Use player.predict."
        )
    if isinstance(policy, ActorCriticPolicy):
        extractor = policy.pi_features_extractor
        assert isinstance(extractor, EncoderExtractor)
        says = "logits" if not hasattr(policy, "log_std") else "mean"
        return says, extractor, nn.ModuleList([policy.mlp_extractor.policy_net, policy.action_net]), _in_turn
    if hasattr(policy, "quantile_net"):
        net = owner.quantile_net
        return "values", net.features_extractor, nn.ModuleList([net.quantile_net]), _mean_quantile(net.n_quantiles)
    if hasattr(policy, "q_net"):
        return "values", owner.q_net.features_extractor, nn.ModuleList([owner.q_net.q_net]), _in_turn
    actor = getattr(policy, "actor", None)
    if actor is not None and isinstance(actor.features_extractor, EncoderExtractor):
        space = policy.action_space
        low, high = (torch.as_tensor(bound, device=policy.device) for bound in (space.low, space.high))  # type: ignore[attr-defined]
        stochastic = hasattr(actor, "latent_pi")
        heads = [actor.latent_pi, actor.mu] if stochastic else [actor.mu]
        return "action", actor.features_extractor, nn.ModuleList(heads), _scaled(low, high, squash=stochastic)
    raise RunError(f"The parts of a {type(policy).__name__} are not known. Use player.predict.")


def _in_turn(heads: nn.ModuleList, features: Tensor) -> Tensor:
    for module in heads:
        features = module(features)
    return features


def _mean_quantile(count: int) -> Answer:
    return lambda heads, features: _in_turn(heads, features).unflatten(1, (count, -1)).mean(1)


def _scaled(low: Tensor, high: Tensor, *, squash: bool) -> Answer:
    """From -1..1, where SB3's actors act, to the bounds of the action space. TD3's own last layer is a tanh."""

    def answer(heads: nn.ModuleList, features: Tensor) -> Tensor:
        action = _in_turn(heads, features)
        action = torch.tanh(action) if squash else action
        return low + 0.5 * (action + 1.0) * (high - low)

    return answer
