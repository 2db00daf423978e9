"""When an agent is saved and what goes into the files: best, to play; last, to go on learning."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from stillsight.agents.errors import RunError, TrainingFault
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.folder import Run
from stillsight.agents.training import model_state as state
from stillsight.agents.training.build import Agent, check_frozen
from stillsight.encoders.encoder import fingerprint
from stillsight.encoders.system import stopping
from stillsight.encoders.system.stopping import Stop
from stillsight.envs.errors import EnvFault


@dataclass
class Ledger:
    """What adds up over the sessions of one run.

    Attributes:
        images: images encoded for training, evaluations left out.
        seconds: spent on training, evaluations left out.
        best: highest mean return of an evaluation.
        encoder_sha256: of the encoder before the first step.
    """

    images: int = 0
    seconds: float = 0.0
    best: float = float("-inf")
    encoder_sha256: str = ""


class Savepoints:
    """The checkpoints of one run, and what adds up between them.

    Args:
        run: the run folder.
        agent: whose state is kept.
    """

    def __init__(self, run: Run, agent: Agent) -> None:
        self.run, self.agent = run, agent
        self.ledger = Ledger(encoder_sha256=agent.sha256())
        self._images = 0
        self._running_since: float | None = None
        self._rollout: tuple[dict[str, Any], int, float] | None = None

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Count the time inside as training, less that of `paused`; say how to go on after whatever stopped it.

        Raises:
            Stop: somebody asked for it, and the agent is saved.
            RunError: it was an interrupt that nobody waited with until a safe point: nothing is saved.
            EnvFault: the environment broke.
            TrainingFault: a loss or a parameter is no finite number any more.
        """
        self._running_since = time.perf_counter()
        try:
            yield
            self.refuse_not_finite()
        except Stop as stop:
            self._save_stopped(stop, unstored=self.agent.venv.num_envs)
            raise
        except KeyboardInterrupt:
            raise RunError(f"Stopped at step {self.agent.model.num_timesteps:,}; {self.advice()}.") from None
        except TrainingFault:
            raise
        except EnvFault as fault:
            if (number := stopping.asked()) is not None:  # the signal reached the environments' processes as well
                stopped = Stop(number)
                self._save_stopped(stopped, unstored=0)
                raise stopped from None
            step = self.agent.model.num_timesteps
            broken = EnvFault(f"{fault} The run stopped at step {step:,}; {self.advice()}.")
            broken.__notes__ = [*getattr(fault, "__notes__", ())]
            raise broken from fault
        except Exception as error:
            # Policies of parameters that are NaN raise whatever their distributions say of it.
            with contextlib.suppress(KeyboardInterrupt):
                self.refuse_not_finite(error)
            error.add_note(f"Training stopped at step {self.agent.model.num_timesteps:,}; {self.advice()}.")
            raise
        finally:
            self._settle()
            self._running_since = None

    def rollout_began(self) -> None:
        """Remember where the agent stands: until `rollout_ended` it holds steps that it has not learned from."""
        self._settle()
        self._rollout = (state.counters(self.agent.model), self.ledger.images, self.ledger.seconds)

    def rollout_ended(self) -> None:
        """What was collected is whole, and learned from next."""
        self._rollout = None

    def _save_stopped(self, stop: Stop, *, unstored: int) -> None:
        """Save what training was stopped at, and say so in `stop`.

        In the middle of a rollout, an algorithm that learns from rollouts is saved as it stood when that began, and one
        with a replay memory as that stands.

        Args:
            stop: what somebody asked for.
            unstored: environment steps that were counted and did not reach the replay memory.
        """
        model = self.agent.model
        reached = model.num_timesteps
        if self._rollout is not None:
            if isinstance(model, OffPolicyAlgorithm):
                model.num_timesteps -= unstored
            else:
                counters, images, seconds = self._rollout
                self._settle()
                vars(model).update(counters)
                self.ledger.images, self.ledger.seconds = images, seconds
        if model.num_timesteps:
            self.last()
        saved = model.num_timesteps
        kept = "it is saved as it stood there" if saved == reached else f"it is saved as it stood at step {saved:,}"
        stop.sentence = (
            f"Stopped by {stop.name} at step {reached:,} of {self.agent.config.steps:,}"
            f"{f'; {kept}' if saved else ', in its first rollout'}. {self.run.advice()}"
        )

    def advice(self) -> str:
        """How to go on with a run that stopped, from its last checkpoint."""
        last = self.run.checkpoint("last")
        if not last.exists():
            return "nothing was saved yet"
        return (
            f"continue from its last checkpoint, {last}, with: stillsight {self.run.command} --resume {self.run.folder}"
        )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Count neither the time inside nor its images: an evaluation is no training."""
        self._settle()
        running, self._running_since = self._running_since is not None, None
        try:
            with self.agent.encoder.counter.paused():
                yield
        finally:
            self._running_since = time.perf_counter() if running else None

    def seconds(self) -> float:
        """Seconds of training until now, evaluations left out."""
        self._settle()
        return self.ledger.seconds

    def _settle(self) -> None:
        """Move what the clock and the counter gathered since the last time into the ledger."""
        if self._running_since is not None:
            now = time.perf_counter()
            self.ledger.seconds += now - self._running_since
            self._running_since = now
        images = self.agent.encoder.counter.images
        self.ledger.images += images - self._images
        self._images = images

    def refuse_not_finite(self, cause: Exception | None = None) -> None:
        """Raise `TrainingFault` if a loss or a parameter is no finite number, naming the last good checkpoint.

        Args:
            cause: what was raised meanwhile, if anything.
        """
        model = self.agent.model
        what = state.not_finite(model)
        if what is None:
            return
        last = self.run.checkpoint("last")
        kept = f"Nothing was saved over {last}, which is good" if last.exists() else "Nothing was saved yet"
        resume = f", or go on from there: --resume {self.run.folder}" if last.exists() else ""
        raise TrainingFault(
            f"Training left the numbers at step {model.num_timesteps:,}: {what}. {kept}. Start again with a lower rate "
            f"(--set learning_rate=...){resume or ' or smaller rewards (--clip-rewards)'}."
        ) from cause

    def best(self, mean: float) -> None:
        """Keep what acting needs, if `mean` beats every evaluation before it."""
        if mean > self.ledger.best:
            self.refuse_not_finite()
            self.ledger.best = mean
            self.run.save("best", {**state.learned(self.agent.model), **self._facts(), "mean": mean}, self._header())

    def last(self) -> None:
        """Keep all that learning on needs. The replay memory goes first, into a file that the other one names."""
        self.refuse_not_finite()
        self._settle()
        step = self.agent.model.num_timesteps
        replay = state.capture_replay(self.agent.model)
        name = f"replay-{step}" if replay is not None else None
        if name is not None and replay is not None:
            self.run.save(name, replay)
        self.run.save(
            "last",
            {**state.capture(self.agent.model), **self._facts(), "ledger": asdict(self.ledger), "replay": name},
            self._header(),
        )
        for old in self.run.checkpoint("x").parent.glob("replay-*.safetensors"):
            if old.stem != name:
                old.unlink()

    def restore(self) -> None:
        """Continue from the last checkpoint; a run that was stopped before its first one starts from the beginning.

        Raises:
            CheckpointError: the checkpoint is damaged.
            RunError: the encoder's frozen weights are not those that it was saved with.
        """
        model = self.agent.model
        stored = self.run.load("last", model.device)
        if stored is None:
            self.run.rewind(0)  # what it recorded before it was stopped comes again
            return
        replay: dict[str, Any] | None = None
        if stored["replay"] is not None:
            replay = checkpoint.load(self.run.checkpoint(stored["replay"]))
        check_frozen(self.agent.encoder, stored, self.run.folder)
        state.restore(model, stored)
        if replay is not None:
            state.restore_replay(model, replay)
        # The environments begin new episodes, and not the very ones that the run began with.
        self.agent.venv.seed(self.agent.config.seed + model.num_timesteps)
        self.ledger = Ledger(**stored["ledger"])
        best = self.run.load("best", model.device)
        if best is not None:  # it may be younger than the checkpoint from which learning goes on
            self.ledger.best = max(self.ledger.best, best["mean"])
        self.run.rewind(model.num_timesteps)
        self._images = self.agent.encoder.counter.images

    def _facts(self) -> dict[str, Any]:
        encoder = self.agent.encoder
        return {
            "step": self.agent.model.num_timesteps,
            "encoder": encoder.name,
            "tap": encoder.tap,
            "unfreeze": encoder.unfreeze,
            "frozen_sha256": fingerprint(encoder.frozen.state()),
        }

    def _header(self) -> dict[str, str]:
        return {"stillsight": "agent", "encoder": self.agent.encoder.name, "algorithm": self.agent.config.algo}
