"""The flags of `evaluate` and `record`; they are checked before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from stillsight.agents.errors import RunError
from stillsight.agents.runs.history import checkpoint_name
from stillsight.agents.training.algorithms import DRAWS_NOTHING, spec
from stillsight.agents.training.config import MOST_ENVS, RlConfig
from stillsight.agents.training.seeds import PLAY
from stillsight.agents.training.settings import overrides
from stillsight.encoders.config import check_seed, refuse
from stillsight.envs.options import OFF, EnvOptions
from stillsight.envs.registry import check_shift

SIDES = (16, 4_096)
"""Pixels that the shorter side of a film may have."""


@dataclass(frozen=True, kw_only=True)
class PlayChoice:
    """Which agent plays, and how."""

    checkpoint: str | None = None
    """best: of the evaluations during training. last: at the end of training, or where it stopped. 40_000: the one of
    that step, of those that --keep kept. By default best, and the newest good one where there is none or it is
    damaged."""
    episodes: int = 20
    """Whole episodes to play."""
    seed: int = PLAY
    """Seed of the first episode; the others follow. By default those of a benchmark's last evaluation."""
    stochastic: bool = False
    """Sample actions instead of taking the most likely one; agents of DQN and QR-DQN explore at the rate of the
    checkpoint."""
    max_steps: int | None = None
    """Agent steps after which an episode is stopped, with what it has earned until then; so is one in which nothing
    happened for 1,000 steps. 0 plays to the end; by default as the run's own evaluations (--eval-max-steps)."""
    weights: Path | None = None
    """The encoder's weights, if they are not any more where the run found them."""
    shift: str | None = None
    """Show the game otherwise: a name that `stillsight look ENV` shows, NAME:STRENGTH, NAME@PATH for pictures of your
    own, or several joined by +; none for the game as it is. As in the run's evaluations by default."""
    shift_strength: float | None = None
    """Strength of --shift, 0 (nothing changes) to 1; by default that of its row in envs/shifts/README.md, often 0.5."""
    env_set: tuple[str, ...] = ()
    """Arguments of the environment itself, as name=value, on top of those of the run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    trust: tuple[str, ...] = ()
    """What the run asks for and stillsight does not know of itself, as the refusal names it: code (module:name), a
    Gymnasium id, a NAME=VALUE, or a folder to write into."""

    def check(self) -> None:
        """Raise `RunError` for counts that play nothing, `CheckpointError` for what is no name of a checkpoint,
        `EnvError` for a shift that there is not, `EncoderError` for a seed out of range."""
        check_seed(self.seed)
        if self.checkpoint is not None:
            checkpoint_name(self.checkpoint)
        if self.episodes < 1:
            raise RunError(f"--episodes {self.episodes} plays nothing. Type a number from 1.")
        if self.max_steps is not None and self.max_steps < 0:
            raise RunError(
                f"--max-steps {self.max_steps} is no number of steps. Type a number from 0, which is no limit."
            )
        EnvOptions().through(self.shift, self.shift_strength)
        overrides(self.env_set, "--env-set")

    def options(self, config: RlConfig) -> EnvOptions:
        """How the environment of a run is shown here.

        Args:
            config: of the run.

        Raises:
            EncoderError: a shift of a run that sees no image.
            EnvError: no such shift, one that this environment does not have, or a strength out of range.
        """
        if self.shift is not None and config.pixels == (OFF,):
            refuse(("shift",), ("shift",), "on a run of --pixels off, whose agent sees no image. Play another run")
        own = config.eval_options().merge(kwargs=overrides(self.env_set, "--env-set") or None)
        options = own.through(self.shift, self.shift_strength)
        check_shift(config.env, options.shift)
        return options

    def deterministic(self, config: RlConfig) -> bool:
        """Whether the agent of a run takes the most likely actions here.

        Args:
            config: of the run.

        Raises:
            EncoderError: it draws none, and was asked to.
        """
        if self.stochastic and not spec(config.algo).draws:
            why = f"on a run of --algo {config.algo}, {DRAWS_NOTHING}. Play another run"
            refuse(("stochastic",), ("stochastic",), why)
        return not self.stochastic

    def limit(self, config: RlConfig) -> int:
        """Agent steps after which an episode of a run is stopped; 0 for none."""
        return config.eval_max_steps if self.max_steps is None else self.max_steps


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(PlayChoice):
    """Play whole episodes with a trained agent and print their returns, beside those of random play; or classify the
    images of a cifar run again and compare with what it recorded."""

    n_envs: int = 1
    """Environments to play side by side. Each episode has a seed of its own: this changes the speed, and the episodes
    no more than by the rounding of a batch."""
    random_episodes: int = 20
    """Episodes of random play to compare with; 0 for none."""
    split: Literal["test", "validation"] = "test"
    """Of a cifar run: which images."""
    data: Path | None = None
    """Of a cifar run: the folder of its data set, if it has moved."""
    out: Path | None = None
    """Folder of evaluations.jsonl, to which the result is appended, and of the report on a cifar run; the run's own
    folder by default. For runs that lie where nothing can be written."""
    json: bool = False
    """Print one JSON object and nothing else on the standard output; progress goes to the standard error."""

    def check(self) -> None:
        """Raise `RunError` for numbers that play nothing."""
        super().check()
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise RunError(f"--out {self.out} is a file. Type a folder; evaluations.jsonl is a file in it.")
        if not 1 <= self.n_envs <= MOST_ENVS:
            raise RunError(f"--n-envs {self.n_envs:,} is no number of games. Type a number from 1 to {MOST_ENVS:,}.")

    def check_command(self, folder: Path, command: str) -> None:
        """Refuse flags that a run of `command` has no use for, instead of passing over them."""
        for item in fields(self):
            fits = item.name in ("weights", "device", "out", "json", "trust") or (item.name in ("split", "data")) == (
                command == "cifar"
            )
            if not fits and getattr(self, item.name) != item.default:
                flag = item.name.replace("_", "-")
                other = "rl" if command == "cifar" else "cifar"
                raise RunError(f"--{flag} is for {other} runs, and {folder} is a run of {command}. Drop it.")


@dataclass(frozen=True, kw_only=True)
class RecordConfig(PlayChoice):
    """Record whole episodes of a trained agent as mp4 files, with their returns beside them."""

    episodes: int = 1
    """Whole episodes to record, a file each."""
    fps: int | None = None
    """Frames a second; the environment's own by default, divided by its frame skip."""
    size: int | None = None
    """Shorter side of the film in pixels, 16 to 4096. By default the environment's own frames, enlarged by a whole
    number where they have fewer than 256."""
    out: Path | None = None
    """Folder of the films; videos/ of the run by default."""

    def check(self) -> None:
        """Raise `RunError` for numbers that record nothing."""
        super().check()
        if self.fps is not None and self.fps < 1:
            raise RunError(f"--fps {self.fps} shows nothing. Type a number from 1.")
        if self.size is not None and not SIDES[0] <= self.size <= SIDES[1]:
            raise RunError(
                f"--size {self.size} is no size of a film. Type a number of pixels, {SIDES[0]} to {SIDES[1]}."
            )
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise RunError(f"--out {self.out} is a file. Type a folder; each episode is a file of its own in it.")
