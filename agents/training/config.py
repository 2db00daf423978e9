"""The flags of a reinforcement-learning run; they are checked before torch is imported."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from stillsight.agents.errors import RunError
from stillsight.agents.runs.schema import MOST_STEPS
from stillsight.agents.runs.trust import Trust, open_run
from stillsight.agents.training.algorithms import DRAWS_NOTHING, AlgorithmSpec, check_actions, spec
from stillsight.agents.training.continuing.resuming import resumed
from stillsight.agents.training.presets import preset
from stillsight.agents.training.settings import net_arch, overrides, settings
from stillsight.encoders.config import EncoderConfig, Idle
from stillsight.encoders.taps.tap import taps
from stillsight.encoders.zoo.registry import spec as encoder_spec
from stillsight.envs.options import OFF, EnvOptions
from stillsight.envs.registry import check_shift, resolve
from stillsight.envs.shifts.terms import spelled_out

MOST_ENVS = 4_096
"""Environments side by side that may be asked for; each is a game of its own, and more are a slip of the finger."""

MAX_STEPS = 10_000
"""Agent steps after which an evaluation stops an episode, unless asked otherwise. The longest game of Pong in
results/published took 6,926; ALE's own limit is 27,000 steps of four frames."""


@dataclass(frozen=True, kw_only=True)
class RlConfig(EncoderConfig):
    """Train an agent whose policy looks through an encoder."""

    GROUPS: ClassVar[Mapping[str, str]] = {
        "encoder": "encoder",
        "env": "environment",
        "algo": "algorithm",
        "n_envs": "environment",
        "set": "algorithm",
        "head": "head, and how the encoder learns and runs",
        "eval_every": "evaluation",
        "seed": "run",
        "checkpoint_every": "run",
    }
    """Field -> heading of it and of those that follow, up to the next; see `stillsight.agents.command_line.flag`."""
    RESUMABLE: ClassVar[tuple[str, ...]] = (
        *("steps", "workers", "engine", "tensorboard"),
        *("eval_every", "eval_episodes", "eval_envs", "eval_max_steps", "checkpoint_every"),
        *EncoderConfig.RESUMABLE,
    )
    """Flags that may change when a run is resumed: where and how it is done, and for how long."""
    LENGTH: ClassVar[str] = "steps"
    COUNTS: ClassVar[tuple[str, ...]] = ("eval_max_steps", *EncoderConfig.COUNTS)  # returns count until there
    WORDS: ClassVar[Mapping[str, str]] = {"from_run": "from"}

    env: str = "stillsight/Orchard-v0"
    """A name of `stillsight list envs`, any Gymnasium id with pixels or rendering, or module:Id."""
    algo: str = "ppo"
    """A name of `stillsight list algos`, or module:Class of any SB3 algorithm."""
    steps: int = 100_000
    """Environment steps (agent steps, all environments together; a frame skip of 4 makes 4 frames of each). Algorithms
    that learn from rollouts end with a whole one."""
    n_envs: int | None = None
    """Environments side by side; the number of the environment's preset or the algorithm's own by default."""
    workers: Literal["auto", "on", "off"] = "auto"
    """A process for each environment. auto steps them both ways first, where stepping is slow, and keeps the faster."""
    native: str = "auto"
    """Who steps the environments that learn: a name of what steps all of them by itself, off for one after the other or
    --workers. Atari has ale and envpool, an id with a vector environment of its own gymnasium. auto takes ale, or
    gymnasium where that observes images and can begin episodes alone. Each draws other random numbers."""
    frame_stack: int | None = None
    """Frames in an observation, whose features are stacked, so that each frame is encoded once. 4 unless the
    environment's preset says otherwise."""
    fusion: Literal["stack", "difference", "stack+difference"] = "stack"
    """How the head sees the frames of a stack. stack: side by side. difference: the differences of neighbours alone.
    stack+difference: both (FLARE, Shang et al. 2021)."""
    size: int | None = None
    """Side of the environment's images in pixels, 0 for its native size; without it, the size of its row in `stillsight
    list envs`, or its native size where it has none."""
    pixels: tuple[str, ...] = ()
    """Images of a Dict observation that the agent sees, by their keys, several cameras side by side; rendering is what
    the environment draws, and off shows none. Its only image by default."""
    state: tuple[str, ...] = ()
    """Numbers of the observation that the agent sees beside its images: on for all, or their keys; off by default. They
    are standardised as features are (--standardise)."""
    frame_skip: int | None = None
    """Repeat each action this often; the environment's default otherwise."""
    clip_rewards: bool | None = None
    """Learn from the sign of rewards; returns are recorded unclipped. The environment's default otherwise."""
    max_episode_steps: int | None = None
    """Truncate episodes after this many agent steps."""
    step_timeout: float = 600.0
    """Seconds that a step or a reset of an environment may take before the run ends, naming it; 0 waits for ever.
    Time in which the run was stopped, as by Ctrl-Z, does not count."""
    shift: str | None = None
    """Train and evaluate under a visual shift: a name that `stillsight look ENV` shows, NAME:STRENGTH, NAME@PATH for
    pictures of your own, or several joined by +, say camera:0.2+colours:0.2+background@films. `stillsight evaluate
    --shift` plays an agent under one that it never saw."""
    shift_strength: float | None = None
    """Strength of --shift, 0 to 1; by default that of its row in envs/shifts/README.md, 0.5 for most."""
    eval_shift: str | None = None
    """Evaluate under this one, as --shift is written; none for the game as it is. As --shift by default."""
    env_set: tuple[str, ...] = ()
    """Arguments of the environment itself, as name=value."""
    set: tuple[str, ...] = ()
    """Arguments of the algorithm in place of its preset, as name=value; lin_2.5e-4 falls linearly to zero, which
    would be reached after the last update."""
    replay_dtype: Literal["float16", "float32"] = "float16"
    """How replay memory keeps features; each frame's are kept once. Pixels stay bytes."""
    head: int = 512
    """Units of the head between encoder and policy, the same in every mode."""
    activation: Literal["relu", "tanh"] | None = None
    """At the end of the head and of the state's layer: relu, or tanh with a LayerNorm before it, as the trunk of CURL
    and DrQ-v2. The algorithm's by default: tanh for sac, td3 and tqc."""
    compress: int = 32
    """Channels to which the head's 1 x 1 convolution brings the features of each place of each frame; 0 does without
    it."""
    standardise: int = 512
    """Frames of random play, of all environments together, by which the head standardises features, and numbers of a
    state, before it begins to learn; 0 leaves them as they are."""
    standardise_features: bool | None = None
    """Standardise features, and not the state alone. By default unless --mode is scratch: such an encoder leaves fixed
    numbers behind."""
    encoder_lr: float = 1.0
    """Learning rate of the part of the encoder that learns, as a multiple of the algorithm's, whose schedule it
    follows."""
    augment: Literal["none", "shift"] = "none"
    """shift: while a replay memory is learned from, an encoder that learns as a whole sees its images moved by up to 4
    pixels each way (DrQ, Kostrikov et al. 2021)."""
    in_policy: bool = False
    """Run even a frozen encoder inside the policy, as plain SB3 does: the slow reference for the cached path."""
    engine: Literal["auto", "eager", "folded", "compiled", "onnx", "graph"] = "auto"
    """How the frozen part is run: eager as its author wrote it; folded with BatchNorm folded and weights rounded once;
    compiled by torch; onnx by ONNX Runtime; graph as a CUDA graph. auto measures what the length of the run repays."""
    eval_every: int | None = None
    """Environment steps between evaluations, 0 for none but the last; by default a tenth of the run, and no less than a
    rollout, between whose updates the agent is the same."""
    eval_episodes: int = 10
    """Episodes in an evaluation."""
    eval_envs: int | None = None
    """Environments that an evaluation plays side by side, each a fixed number of its episodes; as many as learn, and no
    more than episodes, by default."""
    eval_max_steps: int = MAX_STEPS
    """Agent steps after which an evaluation stops an episode; its return counts until then, and the row says so. So is
    an episode in which nothing happened for 1,000 steps. 0 plays to the end."""
    stochastic_eval: bool = False
    """Sample actions in evaluations instead of taking the most likely one; DQN and QR-DQN explore as they do while they
    learn."""
    checkpoint_every: int | None = None
    """Environment steps between checkpoints; a tenth of the run by default."""
    keep: int = 0
    """Checkpoints before the last one that stay, each under its step, besides best: `stillsight evaluate RUN
    --checkpoint 40_000` plays one. They are without replay memory."""
    tensorboard: bool = False
    """Write TensorBoard event files beside metrics.jsonl."""
    out: Path | None = None
    """The run folder; results/runs/<name> by default."""
    resume: Path | None = None
    """Continue the run in this folder where its last checkpoint stands; a finished one with more --steps. Beside it,
    --steps, --checkpoint-every, the numbers of evaluations (--eval-every, --eval-episodes, --eval-envs,
    --eval-max-steps), --engine, --workers, --device, --threads, --weights, --weights-folder and --tensorboard may
    change; all else is read from the folder. Schedules follow the new length."""
    from_run: Path | None = None
    """Begin with the policy of the run in this folder: all that it learned, SAC's temperature too, with fresh counters,
    optimizer and replay memory. Its encoder, head, spaces and algorithm must be the same; environment and settings may
    differ."""
    from_checkpoint: str = "best"
    """Which checkpoint of the run --from takes: best, last, or the steps of one that --keep kept."""
    trust: tuple[str, ...] = ()
    """With --resume and --from: what the run asks for and stillsight does not know of itself, as the refusal names it:
    code (module:name), a Gymnasium id, a NAME=VALUE, or a folder to write into."""

    @property
    def run_name(self) -> str:
        """Default name of the run folder: what runs, and what differs from the defaults."""
        parts = (self.env.rpartition("/")[2], self.algo, self.encoder, self.mode.value)
        return self.name_with((part.lower() for part in parts), ("env", "algo", "encoder", "mode"))

    def env_options(self) -> EnvOptions:
        """The environment's options: its row's defaults with what was asked for on top."""
        return resolve(self.env).options.merge(
            size=self.size,
            frame_skip=self.frame_skip,
            clip_rewards=self.clip_rewards,
            max_episode_steps=self.max_episode_steps,
            shift=self.shift,
            shift_strength=self.shift_strength,
            step_timeout=self.step_timeout,
            pixels=self.pixels or None,
            state=self.state or None,
            kwargs=overrides(self.env_set, "--env-set") or None,
        )

    def eval_options(self) -> EnvOptions:
        """The environment's options in evaluations, and wherever else a trained agent plays: --eval-shift in place of
        --shift."""
        return self.env_options().through(self.eval_shift)

    def resolved(self) -> RlConfig:
        """With every default written out, so that config.json says what ran even where rows and presets change later.

        Raises:
            RunError: the algorithm takes no such setting.
        """
        row, options = spec(self.algo), self.env_options()  # registered, it is known whose presets it has
        chosen = settings(row, self.env, overrides(self.set, "--set"))
        return replace(
            self.for_control(),
            n_envs=self.n_envs or preset(self.env, self.algo).n_envs or row.n_envs,
            frame_stack=self.frame_stack or preset(self.env, self.algo).frame_stack,
            size=options.size,
            frame_skip=options.frame_skip,
            clip_rewards=options.clip_rewards,
            max_episode_steps=options.max_episode_steps,
            shift=options.shift,
            shift_strength=options.shift_strength,
            pixels=options.pixels,
            state=options.state,
            activation=self.activation or row.activation,
            eval_shift=self.eval_shift and spelled_out(self.eval_shift),
            standardise_features=self.features_standardised,
            batchnorm="frozen" if self.batchnorm is None and self.mode.trained else self.batchnorm,
            set=tuple(f"{name}={value!r}" for name, value in chosen.items()),
        ).completed()

    def completed(self) -> RlConfig:
        """With the numbers of evaluations and checkpoints filled in, once `n_envs` is known.

        Raises:
            RunError: see `rollout`.
        """
        tenth = max(1, self.steps // 10)
        # Between two updates the agent is the same, and would be evaluated again and again.
        every = max(tenth, self.rollout or 1) if self.eval_every is None else self.eval_every
        return replace(
            self,
            eval_envs=self.eval_envs or min(self.n_envs or 1, self.eval_episodes),
            eval_every=every,
            checkpoint_every=tenth if self.checkpoint_every is None else self.checkpoint_every,
        )

    @property
    def features_standardised(self) -> bool:
        """Whether features are standardised by a first look.

        Those of a network that begins at random and learns are not by default. They move on without bound, fixed
        numbers stay behind, and what lies beyond the clip looks the same whatever is shown.
        """
        chosen = self.standardise_features
        return self.mode.pretrained or not self.mode.trained if chosen is None else chosen

    @property
    def head_activation(self) -> Literal["relu", "tanh"]:
        """That of the head, once resolved; relu of runs that were made before it was a choice."""
        return self.activation or "relu"

    @property
    def net_arch(self) -> list[int] | dict[str, list[int]] | None:
        """Hidden layers behind the head, see `settings.net_arch`."""
        return net_arch(spec(self.algo), overrides(self.set, "--set"))

    @property
    def rollout(self) -> int | None:
        """Environment steps between two updates; None of whole episodes, or of a class of which that is not known.

        Raises:
            RunError: there is no such algorithm, or it is not installed.
        """
        row, chosen = spec(self.algo), overrides(self.set, "--set")
        name = "train_freq" if row.off_policy else "n_steps"
        parameter = inspect.signature(row.load_class()).parameters.get(name)
        rollout = chosen.get(name, None if parameter is None else parameter.default)
        if isinstance(rollout, list | tuple) and len(rollout) == 2 and rollout[1] == "step":
            rollout = rollout[0]
        if type(rollout) is not int or rollout < 1:
            return None
        return rollout * (self.n_envs or preset(self.env, self.algo).n_envs or row.n_envs)

    @property
    def most_steps(self) -> int:
        """Environment steps beyond which the run has no checkpoint: --steps, and the rollout that was under way then.

        Raises:
            RunError: see `rollout`.
        """
        rollout = self.rollout
        return MOST_STEPS if rollout is None else self.steps + rollout

    def check(self) -> None:
        """Refuse names and combinations that cannot work, before torch is imported.

        Raises:
            EncoderError, EnvError, RunError: what is wrong, what is allowed, what to type.
        """
        if self.resume is not None:  # every other flag is read from there, and checked then
            open_run(self.resume, Trust(self.trust), writes=True)
            return
        row = spec(self.algo)
        if self.native not in ("auto", "off") and self.workers == "on":
            raise RunError(
                f"--native {self.native} steps all environments by itself, and --workers on asks for a process for "
                "each. Drop one of them."
            )
        self.for_control().check_encoder()
        options = self.env_options()
        for shift in (options.shift, self.eval_options().shift):
            check_shift(self.env, shift)
        self.for_control().check_encoder(options.size or None)
        if not self.env_set:  # an argument may change the actions; then the made environment says what they are
            check_actions(row, resolve(self.env).actions, self.env)
        overrides(self.set, "--set")
        self._check_rate(row)
        self._check_augment(row)
        self._check_fusion()
        self._check_blind()
        self.check_ranges()
        if self.tensorboard and find_spec("tensorboard") is None:
            raise RunError(
                'TensorBoard is not installed. Run: pip install "stillsight[tensorboard]", or drop --tensorboard.'
            )

    def check_ranges(self) -> None:
        """Refuse numbers that no run can have; of names nothing is looked up.

        Raises:
            EncoderError, RunError: which number, what is allowed, what to type.
        """
        super().check_ranges()
        for flag, least, most in (
            ("steps", 1, MOST_STEPS),
            ("n_envs", 1, MOST_ENVS),
            ("frame_stack", 1, 1_000_000),
            ("head", 1, 1_000_000_000),
            ("compress", 0, 1_000_000_000),
            ("standardise", 0, 1_000_000_000),
            ("eval_episodes", 1, 1_000_000),
            ("eval_envs", 1, MOST_ENVS),
            ("eval_max_steps", 0, MOST_STEPS),
            ("eval_every", 0, MOST_STEPS),
            ("checkpoint_every", 0, MOST_STEPS),
            ("keep", 0, 1_000_000),
        ):
            value = getattr(self, flag)
            word = f"--{flag.replace('_', '-')} {value}"
            if value is not None and value < least:
                raise RunError(f"{word} is too small. Type a number from {least}.")
            if value is not None and value > most and most == MOST_ENVS:
                raise RunError(
                    f"--{flag.replace('_', '-')} {value:,} asks for more games than one machine plays. Type a number "
                    f"up to {MOST_ENVS:,}, say 16."
                )
            if value is not None and value > most:
                raise RunError(f"{word} is too large. Type a number up to {most:_}.")

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags that were typed and have no effect beside the others, see `EncoderConfig.check_given`.

        Raises:
            EncoderError, RunError: which flag, why, and what to type.
        """
        if self.resume is not None:
            self.note_typed(given)
            if (self.resume / "config.json").is_file():  # else `check` has said so
                resumed(self, self.resume, "rl")
            return
        super().check_given(given)
        for flag, settings_given in (("--set", self.set), ("--env-set", self.env_set)):
            names = Counter(setting.partition("=")[0] for setting in settings_given)
            for name in (name for name, times in names.items() if times > 1):
                raise RunError(f"{flag} was given {name} {names[name]} times. Give it once: {flag} {name}=VALUE.")

    def idle(self) -> Iterator[Idle]:
        """What has no effect beside the other flags, see `EncoderConfig.idle`.

        Raises:
            EncoderError, RunError: there is no such encoder or algorithm, or it has no such tap.
        """
        if self.from_run is None and self.resume is None:
            why = "without --resume or --from: what you type yourself is trusted"
            yield Idle(("trust",), why, "Type --resume RUN")
        yield from super().idle()
        if self.from_run is None:
            why = "without --from, which names the run that it is of"
            yield Idle(("from_checkpoint",), why, "Type --from RUN")
        else:
            brought = ("standardise", "standardise_features")
            yield Idle(brought, "beside --from, whose run brings what it standardises by", "Drop --from")
        if self.standardise == 0:
            yield Idle(
                ("standardise_features",), "with --standardise 0, which looks at nothing", "Drop --standardise 0"
            )
        if self.checkpoint_every == 0:
            why = "with --checkpoint-every 0, which writes none before the last one"
            yield Idle(("keep",), why, "Type, say: --checkpoint-every 10_000")
        algo = f"with --algo {self.algo}"
        if not spec(self.algo).off_policy:
            yield Idle(("replay_dtype",), f"{algo}, which has no replay memory", "Type --algo dqn or --algo sac")
        if not spec(self.algo).draws:
            yield Idle(("stochastic_eval",), f"{algo}, {DRAWS_NOTHING}", "Type --algo sac")
        if self.mode.trained and self.unfreeze in (None, "all"):
            why = f"where all of the encoder learns, as --mode {self.mode.value} has it: none of it is run beforehand"
            beforehand = ("replay_dtype", "in_policy", "engine")
            yield Idle(beforehand, why, "Type --unfreeze STAGE, or --mode frozen")
        elif self.in_policy:
            yield Idle(("replay_dtype",), "with --in-policy, where replay memory keeps pixels", "Drop --in-policy")
        if self.pixels == (OFF,):
            learner = ("compress", "fusion", "augment", "in_policy", "engine", "replay_dtype", "size", "head")
            eyes = ("encoder", "tap", "pooling", "resolution", "weights", "weights_folder")
            shifts = ("shift", "shift_strength", "eval_shift")
            why = "with --pixels off, where no image is seen"
            yield Idle((*learner, *eyes, *shifts), why, "Drop --pixels off")
        row, chosen = encoder_spec(self.encoder), self.for_control()
        pooling = chosen.pooling or row.pooling
        if not any(tap.places for tap in taps(chosen.tap or row.tap, pooling)):
            why = "whose features are no channels" if pooling == "flatten" else "which leaves nothing to compress"
            yield Idle(("compress",), f"with --pooling {pooling}, {why}", "Type --pooling grid4")

    def _check_blind(self) -> None:
        """Refuse an encoder that is to learn where no image is seen."""
        if self.pixels == (OFF,) and self.mode.trained:
            raise RunError(
                f"--pixels off shows an encoder nothing, and --mode {self.mode.value} is to train it. Type --mode "
                "frozen, or drop --pixels off."
            )

    def _check_augment(self, row: AlgorithmSpec) -> None:
        if self.augment == "none":
            return
        if not self.mode.trained or self.unfreeze not in (None, "all"):
            raise RunError(
                "--augment shift moves the images that an encoder learns from, and here its first stages do not learn: "
                "what they give is computed once. Type --mode scratch or --mode finetune, or drop --augment."
            )
        if not row.off_policy:
            raise RunError(
                f"--augment shift needs a replay memory, and --algo {self.algo} learns from what its policy did on the "
                "images as they were. Type --algo dqn or --algo sac, or drop --augment."
            )

    def _check_fusion(self) -> None:
        frames = self.frame_stack or preset(self.env, self.algo).frame_stack
        if self.fusion != "stack" and frames < 2:
            raise RunError(
                f"--fusion {self.fusion} takes differences of frames, and an observation is one frame here. Type "
                "--frame-stack 4, or --fusion stack."
            )

    def _check_rate(self, row: AlgorithmSpec) -> None:
        if not 0 < self.encoder_lr < float("inf"):
            raise RunError(
                f"--encoder-lr {self.encoder_lr:g} is no multiple of a learning rate. Type a number above 0, say 0.1; "
                "to keep the encoder as it is, type --mode frozen."
            )
        if self.encoder_lr == 1.0:
            return
        if not self.mode.trained:
            raise RunError(
                f"--encoder-lr {self.encoder_lr:g} is the rate of an encoder that learns, and with --mode "
                f"{self.mode.value} it does not. Type --mode finetune, or drop --encoder-lr."
            )
        if row.natural_gradient:
            raise RunError(
                f"--encoder-lr {self.encoder_lr:g} has no use with --algo {self.algo}, whose natural-gradient step has "
                "no learning rate. Drop --encoder-lr, or type --algo ppo."
            )
