"""When an agent is saved and what goes into the files: best, to play; last, to go on learning."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from stillsight.agents.errors import RunError, TrainingFault
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.folder import Run
from stillsight.agents.training import games
from stillsight.agents.training import model_state as state
from stillsight.agents.training.build import Agent, check_frozen
from stillsight.encoders.encoder import fingerprint
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


class Evaluation(Protocol):
    """What plays evaluations, whose games are kept too: `callbacks.Evaluate`."""

    def state(self) -> dict[str, Any] | None:
        """Where its games stand."""

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from there."""


@dataclass(frozen=True)
class Resumption:
    """Where a run goes on.

    Attributes:
        step: environment steps that are done.
        games: None where the games go on, too; else why they begin anew, as the end of a sentence.
    """

    step: int
    games: str | None


class Savepoints:
    """The checkpoints of one run, and what adds up between them.

    Args:
        run: the run folder.
        agent: whose state is kept.
    """

    def __init__(self, run: Run, agent: Agent) -> None:
        self.run, self.agent = run, agent
        self.ledger = Ledger(encoder_sha256=agent.sha256())
        self.evaluation: Evaluation | None = None
        self.resumption: Resumption | None = None
        self.ancestor: dict[str, Any] | None = None  # of a run that began with another one's policy
        self._images = 0
        self._running_since: float | None = None

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Count the time inside as training, less that of `paused`; say how to go on after whatever stopped it.

        Raises:
            RunError: it was Ctrl-C.
            EnvFault: the environment broke.
            TrainingFault: a loss or a parameter is no finite number any more.
        """
        self._running_since = time.perf_counter()
        try:
            yield
            self.refuse_not_finite()
        except KeyboardInterrupt:
            raise RunError(f"Stopped at step {self.agent.model.num_timesteps:,}; {self.advice()}.") from None
        except TrainingFault:
            raise
        except EnvFault as fault:
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
            {
                **state.capture(self.agent.model),
                **self._facts(),
                "ledger": asdict(self.ledger),
                "ancestor": self.ancestor,
                "replay": name,
                "records": state.records(self.agent.model),
                "games": games.capture(self.agent.model, self.agent.venv),
                "evaluation": None if self.evaluation is None else self.evaluation.state(),
            },
            self._header(),
        )
        for old in self.run.checkpoint("x").parent.glob("replay-*.safetensors"):
            if old.stem != name:
                old.unlink()

    def restore(self) -> None:
        """Continue from the last checkpoint; a run that was stopped before its first one starts from the beginning.

        Raises:
            CheckpointError: the checkpoint is damaged.
            RunError: the encoder's frozen weights are not those that it was saved with, or the run is to become shorter
                than it is.
        """
        model = self.agent.model
        stored = self.run.load("last", model.device)
        if stored is None:
            self.run.rewind(0)  # what it recorded before it was stopped comes again
            self.resumption = Resumption(0, "no checkpoint was written yet")
            return
        steps = self.agent.config.steps
        if "steps" in self.run.changed and steps <= stored["step"]:
            raise RunError(
                f"{self.run.folder} stands at step {stored['step']:,}, and --steps {steps:_} does not lie beyond it. "
                f"Type a larger number, say: --steps {2 * stored['step']:_}."
            )
        replay: dict[str, Any] | None = None
        if stored["replay"] is not None:
            replay = checkpoint.load(self.run.checkpoint(stored["replay"]))
        check_frozen(self.agent.encoder, stored, self.run.folder)
        state.restore(model, stored)
        if replay is not None:
            state.restore_replay(model, replay)
        if "records" in stored:
            state.restore_records(model, stored["records"])
        anew = games.restore(model, self.agent.venv, stored.get("games"))
        if anew is not None:
            # The environments begin new episodes, and not the very ones that the run began with.
            self.agent.venv.seed(self.agent.config.seed + model.num_timesteps)
        if self.evaluation is not None:
            self.evaluation.restore(stored.get("evaluation"))
        self.resumption = Resumption(model.num_timesteps, anew)
        self.ledger = Ledger(**stored["ledger"])
        self.ancestor = stored.get("ancestor")
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
