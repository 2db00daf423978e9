"""Rollout length: how many environment steps an SB3 model makes between two updates, and which of them it makes."""

from __future__ import annotations

from math import inf

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit


def rollout_steps(model: BaseAlgorithm) -> float:
    """Environment steps of one rollout, of all environments; infinity where that is not known before it ends."""
    if isinstance(model, OnPolicyAlgorithm):
        return model.n_steps * model.n_envs
    often: object = model.train_freq if isinstance(model, OffPolicyAlgorithm) else None  # by then no plain number
    if not isinstance(often, TrainFreq) or often.unit is not TrainFrequencyUnit.STEP:
        return inf
    return often.frequency * model.n_envs


def learns_at(model: BaseAlgorithm, step: float) -> bool:
    """Whether an update follows a rollout that ends at this step: of a replay memory SB3 learns after some steps."""
    return not isinstance(model, OffPolicyAlgorithm) or step > model.learning_starts


def least_share(model: BaseAlgorithm, steps: int) -> float:
    """Share (0..1) of a run of `steps` below which what falls linearly does not fall, see `settings.arguments`."""
    return min(1.0, rollout_steps(model) / steps) if isinstance(model, OnPolicyAlgorithm) else 0.0
