"""Exploration: how many of its actions an epsilon-greedy agent draws at random, kept beside what it has learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

EXPLORATION = "exploration_rate"
"""Where SB3's epsilon-greedy algorithms keep how many of their actions are random."""


def exploration(model: BaseAlgorithm) -> dict[str, float]:
    """The share of its actions that an epsilon-greedy agent (DQN, QR-DQN) now draws at random, wherever it is not asked
    for the most likely ones; empty for others, whose policies say themselves how they draw."""
    return {EXPLORATION: float(getattr(model, EXPLORATION))} if _is_epsilon_greedy(model) else {}


def _is_epsilon_greedy(model: BaseAlgorithm) -> bool:
    return hasattr(model, EXPLORATION) and hasattr(model, "exploration_schedule")


def exploration_rate(state: Mapping[str, Any]) -> Any:
    """What `learned`, or `capture` among its counters, gave of it; None where there is none."""
    return state.get("counters", state).get(EXPLORATION)


def restore_exploration(model: BaseAlgorithm, state: Mapping[str, Any], done: float) -> None:
    """Let an epsilon-greedy agent explore as it did when `learned` or `capture` gave its state; nothing for others.

    Args:
        model: of the run's configuration.
        state: checked by `check_learned`.
        done: share of its run that lay behind it. Older versions kept no rate beside the best agent, and the schedule
            says what it was.
    """
    if _is_epsilon_greedy(model):
        rate, scheduled = exploration_rate(state), vars(model)["exploration_schedule"]
        vars(model)[EXPLORATION] = scheduled(1.0 - done) if rate is None else rate
