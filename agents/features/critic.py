"""One pair of eyes for actor and critic (SAC, TD3 ...): the critic trains the encoder, the actor looks through it."""

from __future__ import annotations

from typing import Any

from torch import nn

from stillsight.agents.features.extractor import EncoderExtractor


def follow_critic(policy: nn.Module) -> None:
    """Let the actor of SAC, TD3, TQC and whatever else has both see with what the critic learns of the encoder, as in
    DrQ-v2.

    Plain SB3 trains two encoders that drift apart, the actor's by the actor's loss; and share_features_extractor=True
    puts the one that is left into the actor's optimizer. DrQ-v2 (Yarats et al. 2021, `obs.detach()` in its drqv2.py)
    trains it by the critic's loss alone. Here the actor keeps a head of its own, and its optimizer is made anew
    without the encoder. The target actor of TD3 looks through the target critic, which follows by polyak updates.

    Args:
        policy: as SB3 has just built it. One without a critic, or whose encoder is frozen, is left as it is.
    """
    actor, critic = (_eyes(getattr(policy, name, None)) for name in ("actor", "critic"))
    if actor is None or critic is None or not critic.learned.learns:
        return
    actor.look_through(critic)
    actor_target, critic_target = (_eyes(getattr(policy, name, None)) for name in ("actor_target", "critic_target"))
    if actor_target is not None and critic_target is not None:
        actor_target.look_through(critic_target)
    owner: Any = policy
    rate = owner.actor.optimizer.param_groups[0]["lr"]
    owner.actor.optimizer = owner.optimizer_class(owner.actor.parameters(), lr=rate, **owner.optimizer_kwargs)


def follows_critic(policy: nn.Module) -> bool:
    """Whether `follow_critic` has let the actor see with what the critic learns."""
    actor = _eyes(getattr(policy, "actor", None))
    return actor is not None and actor.follows


def _eyes(network: object) -> EncoderExtractor | None:
    extractor = getattr(network, "features_extractor", None)
    return extractor if isinstance(extractor, EncoderExtractor) else None
