"""What happens beside learning, all of it counted in environment steps: records, progress, evaluation, checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecEnv

from stillsight.agents.runs.folder import Run
from stillsight.agents.training.checkpointing import Savepoints
from stillsight.agents.training.config import RlConfig
from stillsight.encoders.encoder import Encoder


class Due:
    """Says when `every` further environment steps are done; never where `every` is 0."""

    def __init__(self, every: int, start: int) -> None:
        self.every = every
        self.next = start - start % every + every if every else 0

    def __call__(self, step: int) -> bool:
        if not self.every or step < self.next:
            return False
        self.next = step - step % self.every + self.every
        return True


class Episodes(BaseCallback):
    """Records each finished episode and shows progress."""

    def __init__(self, run: Run, total: int) -> None:
        super().__init__()
        self.run, self.total = run, total
        self.recent: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                episode = info["episode"]
                self.recent = [*self.recent[-19:], float(episode["r"])]
                self.run.log("episodes", {"step": self.num_timesteps, "return": episode["r"], "length": episode["l"]})
        facts = {"return": f"{np.mean(self.recent):.2f} (last {len(self.recent)})"} if self.recent else {}
        self.run.progress("step", min(self.num_timesteps, self.total), self.total, **facts)
        return True


class Evaluate(BaseCallback):
    """Plays whole episodes every so many environment steps, records their returns, and keeps the best agent.

    Args:
        run: the run folder; eval.jsonl and checkpoints/best.safetensors go there.
        venv: environments of their own, as `make_vec(training=False)` makes them, encoded like the training ones.
        every: environment steps between two evaluations; 0 for none.
        episodes: episodes in one evaluation.
        deterministic: take the most likely action.
        savepoints: where the best agent is kept.
    """

    def __init__(
        self,
        run: Run,
        venv: VecEnv,
        *,
        every: int,
        episodes: int,
        deterministic: bool,
        savepoints: Savepoints,
    ) -> None:
        super().__init__()
        self.run, self.venv = run, venv
        self.every, self.episodes, self.deterministic, self.savepoints = every, episodes, deterministic, savepoints

    def _on_training_start(self) -> None:
        self.due = Due(self.every, self.num_timesteps)

    def _on_step(self) -> bool:
        if self.due(self.num_timesteps):
            self.evaluate()
        return True

    def evaluate(self) -> list[float]:
        """Play now; returns the episodes' returns."""
        trained = self.savepoints.seconds()
        with self.savepoints.paused():
            returns, lengths = evaluate_policy(
                self.model, self.venv, self.episodes, deterministic=self.deterministic, return_episode_rewards=True
            )
        assert isinstance(returns, list)
        row = {"step": self.num_timesteps, "mean": np.mean(returns), "std": np.std(returns), "returns": returns}
        self.run.log("eval", {**row, "lengths": lengths, "train_seconds": trained})
        self.savepoints.best(float(np.mean(returns)))
        return returns


class Checkpoint(BaseCallback):
    """Saves the whole agent every so many environment steps, between an update and the next rollout.

    There, and only there, nothing is half done: a rollout that was collected but not learned from would be lost.
    """

    def __init__(self, every: int, savepoints: Savepoints) -> None:
        super().__init__()
        self.every, self.savepoints = every, savepoints

    def _on_training_start(self) -> None:
        self.due = Due(self.every, self.num_timesteps)

    def _on_rollout_start(self) -> None:
        if self.due(self.num_timesteps):
            self.savepoints.last()

    def _on_step(self) -> bool:
        return True


class LightSteps(BaseCallback):
    """One CPU thread for the policy while it acts; all of them for the encoder and for updates.

    To act, a policy on ready features multiplies a few rows. To wake the other threads for that takes longer than it
    saves: for eight environments on two cores 0.6 ms a step in place of 0.2.

    Args:
        encoder: frozen to its end, and run before the policy.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.frozen = encoder.frozen

    def _on_rollout_start(self) -> None:
        self.frozen.threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def _on_rollout_end(self) -> None:
        if self.frozen.threads is not None:
            torch.set_num_threads(self.frozen.threads)
            self.frozen.threads = None

    def _on_training_end(self) -> None:
        self._on_rollout_end()

    def _on_step(self) -> bool:
        return True


def light(config: RlConfig, encoder: Encoder) -> list[BaseCallback]:
    """`LightSteps`, where the policy gets ready features."""
    return [LightSteps(encoder)] if encoder.unfreeze is None and not config.in_policy else []


class MetricsWriter(KVWriter):
    """Puts what SB3's logger records (losses, rates, schedules) into metrics.jsonl."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],  # noqa: ARG002 - SB3's signature
        step: int = 0,
    ) -> None:
        """Append one line with every number of this dump."""
        numbers = {key: value for key, value in key_values.items() if isinstance(value, int | float | np.number)}
        self.run.log("metrics", {"step": step, **numbers})

    def close(self) -> None:
        """Nothing is open between two lines."""


def logger(run: Run) -> Logger:
    """SB3's logger, writing into the run folder and so to its sinks."""
    return Logger(str(run.folder), [MetricsWriter(run)])
