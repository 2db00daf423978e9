"""When an agent is saved and what goes into the files: best, to play; last, to go on learning."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from stillsight.agents.errors import CheckpointError, RunError, TrainingFault
from stillsight.agents.features import gsde
from stillsight.agents.runs import checkpoint, history, schema
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.place import place
from stillsight.agents.runs.trust import flags
from stillsight.agents.training.build import Agent, check_step
from stillsight.agents.training.continuing import games
from stillsight.agents.training.continuing.best_agent import EVALUATED, restore_best
from stillsight.agents.training.continuing.rollback import Rollback
from stillsight.agents.training.ledger import Ledger, Meter
from stillsight.agents.training.seeds import RESUMED, env_seed
from stillsight.agents.training.state import model_state as state
from stillsight.agents.training.state.encoder_facts import check_encoder, encoder_facts
from stillsight.agents.training.state.finite import check_finite, not_finite
from stillsight.agents.training.state.fit import check_fit
from stillsight.agents.training.state.rollout_length import rollout_steps
from stillsight.encoders.errors import DiskFault, as_typed
from stillsight.encoders.system import stopping
from stillsight.encoders.system.stopping import Stop
from stillsight.envs.errors import EnvFault


class Evaluation(Protocol):
    """What plays evaluations, whose games are kept too: `callbacks.Evaluate`."""

    def state(self) -> dict[str, Any] | None:
        """Where its games stand."""

    def restore(self, state: Mapping[str, Any] | None, evaluated: Mapping[str, Any] | None = None) -> None:
        """Go on from there, or from `evaluated` where the evaluation that ends the run has its row."""

    def due_within(self, steps: float) -> bool:
        """Whether one is played before so many further environment steps are done."""

    def ended(self) -> bool:
        """Whether that which ends the run has its row."""


@dataclass(frozen=True)
class Resumption:
    """Where a run goes on.

    Attributes:
        step: environment steps that are done.
        games: None where the games go on, too; else why they begin anew, as the end of a sentence.
        best: None where the best agent of before is to be beaten; else why it is not, in words.
    """

    step: int
    games: str | None
    best: str | None = None


class Savepoints:
    """The checkpoints of one run, and what adds up between them.

    Args:
        run: the run folder.
        agent: whose state is kept.
    """

    def __init__(self, run: Run, agent: Agent) -> None:
        self.run, self.agent = run, agent
        self.meter = Meter(Ledger(encoder_sha256=agent.sha256()), agent.encoder.counter)
        self.evaluation: Evaluation | None = None
        self.resumption: Resumption | None = None
        self.ancestor: dict[str, Any] | None = None  # of a run that began with another one's policy
        self._saved: int | None = None  # step of the last checkpoint that is known to be good
        self._best: int | None = None  # step of the best agent
        self._ended: dict[str, Any] | None = None  # the last checkpoint, where it is that of the end of the run
        self._rollback = Rollback(agent.model)
        self._drawn = False  # whether SB3 has drawn the noise of gSDE for a rollout that has not ended
        self._to_draw: Mapping[str, Any] | None = None  # the checkpoint whose noise the next rollout goes on with

    @property
    def ledger(self) -> Ledger:
        """What adds up between the checkpoints."""
        return self.meter.ledger

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Count the time inside as training, less that of `paused`; say how to go on after whatever stopped it.

        Raises:
            Stop: somebody asked for it, and the agent is saved.
            RunError: it was an interrupt that nobody waited with until a safe point: nothing is saved.
            EnvFault: the environment broke.
            DiskFault: a file of the run could not be written.
            TrainingFault: a loss or a parameter is no finite number any more.
        """
        try:
            with self.meter.running():
                yield
            self.refuse_not_finite()
        except Stop as stop:
            self._save_stopped(stop, unstored=self.agent.venv.num_envs)
            raise
        except KeyboardInterrupt:
            raise RunError(f"Stopped at step {self.agent.model.num_timesteps:,}; {self.advice()}.") from None
        except (TrainingFault, DiskFault):  # of what is kept after the latter the run speaks
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

    def noise_drawn(self) -> None:
        """A rollout begins, for which SB3 has drawn the noise of gSDE: in one that a checkpoint was written before, let
        that noise act, and random numbers go on, as they did there."""
        if self._to_draw is not None:
            gsde.put_back(self.agent.model, self._to_draw["sde_noise"])
            state.set_random_state(self.agent.model, self._to_draw["random"])
            self._to_draw = None
        self._drawn = True

    def rollout_began(self) -> None:
        """Remember where the agent stands: until `rollout_ended` it holds steps that it has not learned from."""
        self.meter.settle(hurried=True)
        evaluated = self.evaluation is not None and self.evaluation.due_within(rollout_steps(self.agent.model))
        self._rollback.rollout_began(self.ledger, self._whole, evaluated=evaluated)

    def rollout_ended(self) -> None:
        """What was collected is whole, and learned from next."""
        self._rollback.rollout_ended()
        self._drawn = False

    def stepped(self) -> bool:
        """An optimizer has made a step of the update that is under way; whether a run that is stopped there is saved as
        it stood before the rollout. An update that cannot be taken back has to be waited for."""
        return self._rollback.stepped()

    def update_ended(self) -> None:
        """All was learned that the rollout before was collected for."""
        self._rollback.update_ended()

    def _save_stopped(self, stop: Stop, *, unstored: int) -> None:
        """Save what training was stopped at, as far as it is something to go on with, and say so in `stop`.

        Args:
            stop: what somebody asked for.
            unstored: environment steps that were counted and did not reach the replay memory.
        """
        model = self.agent.model
        reached = model.num_timesteps
        begun = self._rollback.take_back(unstored)
        if begun is not None:
            self.meter.settle()
            self.meter.ledger = replace(begun.ledger, best=self.ledger.best)
            if self._best is not None and self._best > model.num_timesteps:
                history.put_best(self.run.folder, history.BEST_ROLLOUT)
        if model.num_timesteps and not (begun is not None and self._saved == model.num_timesteps):
            self.last(None if begun is None else begun.whole)
        saved = model.num_timesteps
        kept = "it is saved as it stood there" if saved == reached else f"it is saved as it stood at step {saved:,}"
        stop.sentence = (
            f"Stopped by {stop.name} at step {reached:,} of {self.agent.config.steps:,}"
            f"{f'; {kept}' if saved else f', in its first {self._rollback.within}'}. {self.run.advice()}"
        )

    def advice(self) -> str:
        """How to go on with a run that stopped, from its last checkpoint."""
        last = self.run.checkpoint("last")
        if not last.exists():
            return "nothing was saved yet"
        return (
            f"continue from its last checkpoint, {last}, with: stillsight {self.run.command} --resume "
            f"{as_typed(self.run.folder)}{flags(self.agent.config)}"
        )

    def spent(self) -> dict[str, float]:
        """Time of training until now, evaluations left out: `train_seconds`, and `train_cpu_seconds` of all processes
        that work for it, if known."""
        self.meter.settle()
        spent = {"train_seconds": self.ledger.seconds}
        if self.ledger.all_cpu_seconds is not None:
            spent["train_cpu_seconds"] = self.ledger.all_cpu_seconds
        return spent

    def refuse_not_finite(self, cause: Exception | None = None) -> None:
        """Raise `TrainingFault` if a loss or a parameter is no finite number, naming the last good checkpoint.

        Args:
            cause: what was raised meanwhile, if anything.
        """
        model = self.agent.model
        what = not_finite(model)
        if what is None:
            return
        last = self.run.checkpoint("last")
        kept = f"Nothing was saved over {last}, which is good" if last.exists() else "Nothing was saved yet"
        resume = f", or go on from there: --resume {as_typed(self.run.folder)}" if last.exists() else ""
        raise TrainingFault(
            f"Training left the numbers at step {model.num_timesteps:,}: {what}. {kept}. Start again with a lower rate "
            f"(--set learning_rate=...){resume or ' or smaller rewards (--clip-rewards)'}."
        ) from cause

    def best(self, mean: float) -> None:
        """Keep what acting needs, if `mean` beats every evaluation before it that it can be compared with.

        The best agent up to the last checkpoint stays beside one that is younger, until the next checkpoint, and so
        does that up to the rollout under way: a run goes on without the evaluations that a crash, or a stop, took back.
        """
        if mean > self.ledger.best:
            self.refuse_not_finite()
            if self._best is not None and self._best <= (self._saved or 0):
                history.keep_best(self.run.folder, history.BEST_BEFORE)
            elif self._best is not None and self._best <= (self._rollback.began or 0):
                history.keep_best(self.run.folder, history.BEST_ROLLOUT)
            self.ledger.best, self._best = mean, self.agent.model.num_timesteps
            facts = {**self._facts(), "mean": mean, "evaluated": self._evaluated()}
            self.run.save("best", {**state.learned(self.agent.model), **facts}, self._header())

    def last(self, whole: Mapping[str, Any] | None = None) -> None:
        """Keep all that learning on needs. The replay memory goes first, into a file that the other one names.

        The checkpoint before it stays, under its step, with its replay memory: should the new one be damaged, learning
        goes on from there. Before the next one is written its replay memory goes, so that the disk never holds more
        than two. At the end of the run only those that --keep asks for stay; they are without replay memory.

        Args:
            whole: what `_whole` gave when the counters stood where they stand now; as all stands now by default.
        """
        self.refuse_not_finite()
        self.meter.settle()
        step, keep = self.agent.model.num_timesteps, self.agent.config.keep
        if self._saved is not None and self._saved != step:
            history.keep_before(self.run.folder, self._saved, max(1, keep))
        self._drop_replays(self._saved)
        replay = state.capture_replay(self.agent.model)
        name = f"replay-{step}" if replay is not None else None
        ended = step >= self.agent.config.steps
        written = ended and self._saved == step  # by the session before, which was killed after that
        if name is not None and replay is not None and not written:
            self.run.save(name, replay)
        content = {
            **(self._whole() if whole is None else whole),
            **self._facts(),
            "ledger": asdict(self.ledger),
            "ancestor": self.ancestor,
            "replay": name,
        }
        try:
            if not written:
                self.run.save("last", content, self._header())
        except DiskFault:  # a memory that no checkpoint names would only fill the disk
            if name is not None:
                self.run.checkpoint(name).unlink(missing_ok=True)
            raise
        self._saved = step
        history.drop_best(self.run.folder, history.BEST_ROLLOUT)
        if self._best is not None and self._best <= step:
            history.drop_best(self.run.folder, history.BEST_BEFORE)
        if ended:
            self._ended = content
            history.prune(self.run.folder, keep)
            self._drop_replays(step)

    def evaluated(self, evaluation: Mapping[str, Any] | None) -> None:
        """Keep where the games of evaluations stand after the one that ends the run, for a run that becomes longer.

        It is kept beside where they stood before: a run that is killed before the row plays that one again from there.

        Args:
            evaluation: what `Evaluation.state` gives.
        """
        if self._ended is not None and evaluation is not None:
            self.run.save("last", {**self._ended, "evaluated": evaluation}, self._header())

    def _whole(self) -> dict[str, Any]:
        """What learning goes on with, beside facts and sums: the model, its random numbers and notes, and its games."""
        model = self.agent.model
        return {
            **state.capture(model),
            "sde_noise": gsde.matrices(model) if self._drawn else None,
            "records": state.records(model),
            # In the middle of a rollout the games are ahead of what is saved of the agent.
            "games": None if self._rollback.collecting else games.capture(model, self.agent.venv),
            "evaluation": None if self.evaluation is None else self.evaluation.state(),
        }

    def _drop_replays(self, spared: int | None) -> None:
        """Remove replay memories but that of the checkpoint at step `spared`."""
        for old in place(self.run.folder, "checkpoints").glob("replay-*.safetensors"):
            if old.stem != f"replay-{spared}":
                old.unlink()

    def restore(self) -> None:
        """Continue from the last checkpoint, or from the newest good one where that is damaged, which is said.

        A run that was stopped before its first one starts from the beginning.

        Raises:
            CheckpointError: no checkpoint that learning can go on from is good.
            RunError: the encoder's frozen weights are not those that it was saved with, or the run is to become shorter
                than it is.
        """
        model = self.agent.model
        candidates = [name for name in history.names(self.run.folder) if name != "best"]
        if not candidates:
            self.run.rewind(0)  # what it recorded before it was stopped comes again
            self.resumption = Resumption(0, "no checkpoint was written yet")
            return
        taken, stored = history.newest_good(self.run.folder, candidates, self._read)
        steps = self.agent.config.steps
        if "steps" in self.run.changed and steps <= stored["step"]:
            raise RunError(
                f"{self.run.folder} stands at step {stored['step']:,}, and --steps {steps:_} does not lie beyond it. "
                f"Type a larger number, say: --steps {2 * stored['step']:_}."
            )
        replay = stored.pop("replay_memory")
        state.restore(model, stored)
        check_encoder(self.agent.encoder, model.policy, self.agent.venv.layout, stored, self.run.folder)
        if replay is not None:
            state.restore_replay(model, replay)
        if "records" in stored:
            state.restore_records(model, stored["records"])
        anew = games.restore(model, self.agent.venv, stored.get("games"))
        if anew is not None:
            # The environments begin new episodes, and not the very ones that the run began with.
            self.agent.venv.seed(env_seed(self.agent.config.seed + RESUMED + model.num_timesteps))
        if stored.get("sde_noise") is not None:
            gsde.check_noise(model, stored["sde_noise"], self.agent.venv.num_envs)
            self._to_draw = stored
        if self.evaluation is not None:
            self.evaluation.restore(stored.get("evaluation"), stored.get("evaluated"))
        self.meter.ledger = Ledger.restored(stored["ledger"])
        self.ancestor = stored.get("ancestor")
        best = restore_best(self.run.folder, model.num_timesteps)
        self._best, self.ledger.best = (None, float("-inf")) if best is None else (best.step, best.mean)
        word = None
        ended = self.evaluation is not None and self.evaluation.ended()  # and none of another kind is to come
        if best is not None and not ended and (others := best.others(self._evaluated(), self.run.changed)):
            self.ledger.best = float("-inf")
            stays = f"that of step {best.step:,} stays until the next evaluation"
            word = f"{stays}, which is of another kind: {'; '.join(others)}"
        self.resumption = Resumption(model.num_timesteps, anew, word)
        self.run.rewind(model.num_timesteps)
        self.meter.skip_images()
        self._saved = model.num_timesteps
        if taken != "last":
            history.put_last(self.run.folder, taken)
        for later in history.kept_steps(self.run.folder):  # which are damaged
            if later > model.num_timesteps:
                history.checkpoint_file(self.run.folder, str(later)).unlink()

    def _read(self, path: Path) -> dict[str, Any]:
        """A checkpoint that learning can go on from, with its replay memory.

        Raises:
            CheckpointError: it is damaged, or its replay memory is missing or damaged.
        """
        stored = checkpoint.load(path, self.agent.model.device)
        facts = checkpoint.facts(stored, schema.LearningFacts, path)
        check_finite(stored, path)
        before = self.run.changed.get("steps", (0, 0))[0]  # of a run that becomes shorter, which is refused otherwise
        check_step(replace(self.agent.config, steps=max(self.agent.config.steps, before)), stored, path)
        check_fit(self.agent.model, stored, path)
        name = facts["replay"]
        if name is not None and not re.fullmatch(r"replay-\d+", name):
            raise CheckpointError(f"The checkpoint {path} names a replay memory {name!r} that cannot be its own.")
        replay = None if name is None else checkpoint.load(self.run.checkpoint(name))
        return {**stored, "replay_memory": replay}

    def _facts(self) -> dict[str, Any]:
        model = self.agent.model
        eyes = encoder_facts(self.agent.encoder, model.policy, self.agent.venv.layout)
        return {"step": model.num_timesteps, **eyes}

    def _evaluated(self) -> dict[str, int]:
        """What the means of evaluations are of now."""
        return {name: getattr(self.agent.config, name) for name in EVALUATED}

    def _header(self) -> dict[str, str]:
        return {"stillsight": "agent", "encoder": self.agent.encoder.name, "algorithm": self.agent.config.algo}
