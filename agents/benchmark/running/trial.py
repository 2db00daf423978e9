"""The trial of a cell: an agent's run for a moment, timed part by part, and what the whole run would take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from stable_baselines3.common.callbacks import BaseCallback

from stillsight.agents.benchmark.grid.cell import Work
from stillsight.agents.benchmark.running.forecast import waits
from stillsight.agents.playing.play import returns
from stillsight.agents.playing.player import load
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.trust import NOTHING, Trust
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.learn import learn
from stillsight.agents.training.seeds import PLAY
from stillsight.agents.training.settings import overrides

MOMENT = 8.0
"""Seconds in which a trial learns, once it goes at its pace; more where three rollouts take longer."""
WAITING = 256
"""Env steps before a trial of an off-policy algorithm begins to learn; the run itself may wait for thousands."""


class Mark(NamedTuple):
    """A moment between an update and the next rollout."""

    step: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """What a trial measured, in seconds.

    Attributes:
        waiting_step, step, evaluation, episode: see `schema.TrialRecord`.
        measured: what they come to in the trial itself; what is left of its whole time comes once.
    """

    waiting_step: float
    step: float
    evaluation: float
    episode: float
    measured: float


def try_agent(work: Work, folder: Path, trust: Trust = NOTHING) -> Trial:
    """Begin the run of a planned cell, stop it when its pace is known, and play an episode.

    Args:
        work: an agent's.
        folder: of the run, which does not exist.
        trust: what the cell may ask for.
    """
    assert isinstance(work.config, RlConfig)
    config = _shortened(replace(work.config, out=folder).resolved())
    pace = Pace(learning_starts=waits(config))
    with Run(folder, "rl", config) as run:
        learn(config, run, [pace])
    evaluated = time.perf_counter()
    player = load(folder, "last", device=config.device, trust=trust.names)
    loaded = time.perf_counter()
    returns(player, episodes=1, seed=PLAY, deterministic=not config.stochastic_eval)
    episode = time.perf_counter() - loaded
    waiting_step, step = pace.steps()
    evaluation = evaluated - pace.ended.seconds
    training = waiting_step * min(pace.ended.step, pace.learning_starts)
    training += step * max(0, pace.ended.step - pace.learning_starts)
    return Trial(waiting_step, step, evaluation, episode, measured=training + evaluation + episode)


class Pace(BaseCallback):
    """Notes when each rollout begins, and stops training when the pace is known.

    Args:
        learning_starts: env steps before learning begins.
    """

    def __init__(self, learning_starts: int) -> None:
        super().__init__()
        self.learning_starts = learning_starts
        self.marks: list[Mark] = []
        self.ended = Mark(0, 0.0)

    def _on_rollout_start(self) -> None:
        self.marks.append(Mark(self.num_timesteps, time.perf_counter()))

    def _on_step(self) -> bool:
        _, learning = self.parts()
        return len(learning) < 3 or learning[-1].seconds - learning[0].seconds < MOMENT

    def _on_training_end(self) -> None:
        self.ended = Mark(self.num_timesteps, time.perf_counter())

    def parts(self) -> tuple[list[Mark], list[Mark]]:
        """Marks before learning began, and those after the first update: what comes before either is its delay."""
        first = next((at for at, mark in enumerate(self.marks) if mark.step > self.learning_starts), len(self.marks))
        return self.marks[1:first], self.marks[first:]

    def steps(self) -> tuple[float, float]:
        """Seconds of an env step before learning begins and after, each from what was tried of it; of a run that is
        shorter than that, what all of it took."""
        waiting, learning = map(_slope, self.parts())
        everything = _slope([*self.marks[:1], self.ended]) or 0.0
        step = learning if learning is not None else waiting if waiting is not None else everything
        return (waiting if waiting is not None else step), step


def _slope(marks: Sequence[Mark]) -> float | None:
    """Seconds a step between the first mark and the last; None where they are one."""
    if len(marks) < 2 or marks[-1].step == marks[0].step:
        return None
    return (marks[-1].seconds - marks[0].seconds) / (marks[-1].step - marks[0].step)


def _shortened(config: RlConfig) -> RlConfig:
    """A resolved run that soon learns at its pace: an early first update, one batch a rollout, and no evaluation before
    the last, of one episode in each environment."""
    chosen = overrides(config.set, "--set")
    if "learning_starts" in chosen:
        chosen["learning_starts"] = min(waits(config), WAITING)
    batch, rollout = chosen.get("batch_size"), chosen.get("n_steps")
    if isinstance(batch, int) and isinstance(rollout, int) and "learning_starts" not in chosen:
        chosen["n_steps"] = min(rollout, max(1, -(-batch // (config.n_envs or 1))))  # as many batches for each step
    settings = tuple(f"{name}={value!r}" for name, value in chosen.items())
    return replace(config, set=settings, eval_every=0, eval_episodes=config.eval_envs or 1, checkpoint_every=0)
