"""What happens beside learning, all of it counted in environment steps: records, progress, evaluation, checkpoints."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger

from stillsight.agents.features.acting import Actor
from stillsight.agents.features.encoder_rate import optimizers
from stillsight.agents.features.live_units import Sample, live_units
from stillsight.agents.runs.folder import Run
from stillsight.agents.training.checkpointing import Savepoints
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.continuing.games import arrays, tensors
from stillsight.agents.training.episodes import Episode, capped_note, divide, earned, play_episodes, successes
from stillsight.agents.training.state.finite import loss_not_finite
from stillsight.encoders.encoder import Encoder
from stillsight.encoders.system import stopping
from stillsight.envs.state import objection, restore_state, save_state


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

    Each environment plays a number of episodes that is fixed beforehand. The first of its episodes has its seed, and
    its random numbers go on from there through all evaluations of the run. None is played at the last step of the run:
    `evaluate` comes there when the agent has learned from all its steps.

    Args:
        run: the run folder; eval.jsonl and checkpoints/best.safetensors go there.
        actor: the agent in training, with its eyes.
        envs: environments of their own, as `make_env(training=False)` makes them.
        seed: of the first environment; the others follow.
        every: environment steps between two evaluations; 0 for none.
        total: environment steps of the run.
        episodes: episodes in one evaluation, of all environments together.
        max_steps: agent steps after which an episode is stopped, see `play_episodes`.
        deterministic: take the most likely action.
        savepoints: where the best agent is kept.
    """

    def __init__(
        self,
        run: Run,
        actor: Actor,
        envs: Sequence[gym.Env[Any, Any]],
        *,
        seed: int,
        every: int,
        total: int,
        episodes: int,
        max_steps: int,
        deterministic: bool,
        savepoints: Savepoints,
    ) -> None:
        super().__init__()
        self.run, self.actor, self.envs, self.savepoints = run, actor, envs, savepoints
        self.every, self.total, self.episodes, self.max_steps = every, total, episodes, max_steps
        self.deterministic = deterministic
        self._first: list[int | None] = [seed + index for index in range(len(envs))]
        savepoints.evaluation = self

    def _on_training_start(self) -> None:
        self.due = Due(self.every, self.num_timesteps)

    def _on_step(self) -> bool:
        if self.due(self.num_timesteps) and self.num_timesteps < self.total:
            self.evaluate()
        return True

    def due_within(self, steps: float) -> bool:
        """Whether an evaluation is played before so many further environment steps are done."""
        reached = min(self.model.num_timesteps + steps, self.total - 1)
        return bool(self.every) and self.due.next <= reached

    def ended(self) -> bool:
        """Whether the evaluation that ends the run has its row, from a session before this one."""
        return self._final_row() is not None

    def state(self) -> dict[str, Any] | None:
        """Where the games of evaluations stand, for a checkpoint; None before the first one, and where some game cannot
        be saved: they begin with their first seeds then."""
        if self._first[0] is not None or any(objection(env) is not None for env in self.envs):
            return None
        return {"envs": [tensors(save_state(env)) for env in self.envs]}

    def restore(self, state: Mapping[str, Any] | None, evaluated: Mapping[str, Any] | None = None) -> None:
        """Go on from there; with the first seeds, where nothing was saved or the number of games is another now.

        Args:
            state: from `state`.
            evaluated: the same after the evaluation that ends the run, which counts once that has its row.

        Raises:
            EnvError: the games do not fit.
        """
        state = state if evaluated is None or self._final_row() is None else evaluated
        if state is None or len(state["envs"]) != len(self.envs) or any(objection(env) for env in self.envs):
            return
        for env, saved in zip(self.envs, state["envs"], strict=True):
            restore_state(env, arrays(saved))
        self._first = [None] * len(self.envs)

    def last(self) -> list[Episode]:
        """The evaluation of the agent that has learned all: a session that was stopped after it has recorded it."""
        row = self._final_row()
        if row is None:
            return self.evaluate(final=True)
        self.savepoints.best(row["mean"])
        outcomes = row.get("successes") or [None] * len(row["returns"])
        return [
            Episode(total, length, index >= row["capped"], index < row["capped"], outcome)
            for index, (total, length, outcome) in enumerate(zip(row["returns"], row["lengths"], outcomes, strict=True))
        ]

    def _final_row(self) -> dict[str, Any] | None:
        """Of the last evaluation of the run at this step, where a session before this one has recorded it."""
        rows = self.run.rows("eval") if self.run.resumed else []
        step = self.actor.model.num_timesteps
        return next((row for row in rows if row.get("final") and row["step"] == step), None)

    def evaluate(self, *, final: bool = False) -> list[Episode]:
        """Play now.

        Args:
            final: the row says that this was the last evaluation of its run.
        """
        model = self.actor.model
        spent, began = self.savepoints.spent(), time.time_ns()
        with self.savepoints.meter.paused(), self.run.display.paused("step"):
            self.actor.sample = Sample()
            episodes = self._play()
            live = live_units(model.policy, self.actor.sample)
            self.actor.sample = None
        if hasattr(model, "start_time"):  # by which SB3 counts time/fps
            model.start_time += time.time_ns() - began
        if final and self._due_at_the_end():  # before its row, without which it is played again, with the same games
            self.savepoints.evaluated(self.state())
        returns = [round(episode.total, 6) for episode in episodes]
        row: dict[str, Any] = {
            "step": model.num_timesteps,
            "mean": np.mean(returns),
            "std": np.std(returns),
            "returns": returns,
        }
        capped = sum(episode.capped for episode in episodes)
        lengths = [episode.length for episode in episodes]
        row |= {"lengths": lengths, "capped": capped, **successes(episodes), **spent}
        if live is not None:
            row |= live.facts
        self.run.log("eval", row | ({"final": True} if final else {}))
        note = capped_note(episodes, self.max_steps, "--eval-max-steps")
        self.run.display.note(
            f"evaluation at step {model.num_timesteps:,}: return "
            f"{earned(row['mean'], row['std'], len(returns), row.get('success_rate'))}{f'; {note}' if note else ''}"
        )
        if final and live is not None and (warning := live.warning()) is not None:
            print(f"stillsight: warning: {warning}", file=sys.stderr)
        self.savepoints.best(float(np.mean(returns)))
        return episodes

    def _due_at_the_end(self) -> bool:
        """Whether a longer run plays an evaluation where this one ends, in whose place the last one stands then."""
        model = self.actor.model
        before = (self.total - 1) // model.n_envs * model.n_envs  # the last step at which one was played if it was due
        return bool(self.every) and model.num_timesteps // self.every > before // self.every

    def _play(self) -> list[Episode]:
        counts = divide(self.episodes, len(self.envs))
        seeds = [[first, *[None] * (count - 1)] for first, count in zip(self._first, counts, strict=True) if count]
        self._first = [None] * len(self.envs)

        def watch(done: int, steps: int, _: Episode | None) -> None:
            self.run.progress("evaluation episode", done, self.episodes, steps=steps)

        episodes = play_episodes(
            self.actor,
            self.envs[: len(seeds)],
            seeds,
            deterministic=self.deterministic,
            max_steps=self.max_steps,
            watch=watch,
        )
        for env in self.envs:  # as a VecEnv begins the next episode: one environment plays what it would play in one
            env.reset()
        return episodes


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
        self.savepoints.noise_drawn()
        if self.due(self.num_timesteps):
            self.savepoints.last()

    def _on_step(self) -> bool:
        return True


class Stoppable(BaseCallback):
    """Stops training where it can be gone on with, after a signal has asked for it.

    That is before a rollout or, where none begins within `patience`, after a step of one or of the optimizer:
    `Savepoints` knows what to keep of a rollout, and which updates can be taken back. Others are waited for.

    Args:
        savepoints: that save.
        patience: seconds.
    """

    def __init__(self, savepoints: Savepoints, patience: float = 3.0) -> None:
        super().__init__()
        self.savepoints, self.patience = savepoints, patience
        self._hooks: list[Any] = []

    def _on_training_start(self) -> None:
        learners = optimizers(self.model.policy).values()
        self._hooks = [learner.register_step_post_hook(self._after_step) for learner in learners]

    def _after_step(self, *_: object) -> None:
        if self.savepoints.stepped() and stopping.waited() > self.patience:
            stopping.check()

    def _on_rollout_start(self) -> None:
        self.savepoints.update_ended()
        stopping.check()
        self.savepoints.rollout_began()

    def _on_step(self) -> bool:
        if stopping.waited() > self.patience:
            stopping.check()
        return True

    def _on_rollout_end(self) -> None:
        self.savepoints.rollout_ended()

    def _on_training_end(self) -> None:
        self.savepoints.update_ended()
        for hook in self._hooks:
            hook.remove()


class StaysFinite(BaseCallback):
    """Stops training at the first loss or parameter that is no finite number, before anything is saved.

    Losses are looked at after every update, parameters after each `every` environment steps and before each save.

    Args:
        savepoints: that say what is wrong, and where the last good checkpoint is.
        every: environment steps between two looks at the parameters, which wait for the device.
    """

    def __init__(self, savepoints: Savepoints, every: int = 1_000) -> None:
        super().__init__()
        self.savepoints, self.every = savepoints, every

    def _on_training_start(self) -> None:
        self.due = Due(self.every, self.num_timesteps)

    def _on_rollout_start(self) -> None:  # the update before it is done
        if self.due(self.num_timesteps) or loss_not_finite(self.model) is not None:
            self.savepoints.refuse_not_finite()

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
