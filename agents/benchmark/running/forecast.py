"""How long a cell takes, by what a trial of its kind took; without torch."""

from __future__ import annotations

import math

from stillsight.agents.benchmark.grid.cell import CLEAN, Work
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.settings import overrides


def forecast(trial: dict[str, float], work: Work) -> float:
    """Seconds that a cell takes, from what a trial of its kind took.

    Args:
        trial: a `schema.TrialRecord`.
        work: an agent's, of the cell.
    """
    assert isinstance(work.config, RlConfig)
    config = work.config.resolved()
    waiting = min(config.steps, waits(config))
    training = trial["waiting_step"] * waiting + trial["step"] * (config.steps - waiting)
    evaluations = math.ceil(config.steps / config.eval_every) if config.eval_every else 1
    rounds = math.ceil(config.eval_episodes / (config.eval_envs or 1))
    played = work.episodes * len((CLEAN, *work.shifts)) + work.videos
    return trial["start"] + training + trial["evaluation"] * evaluations * rounds + trial["episode"] * played


def waits(config: RlConfig) -> int:
    """Env steps that a resolved run only collects."""
    return int(overrides(config.set, "--set").get("learning_starts", 0) or 0)
