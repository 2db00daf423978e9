"""The player: a trained policy with its eyes, from pixels to actions, without its environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from stillsight.agents.errors import RunError
from stillsight.agents.features.acting import Actor
from stillsight.agents.features.encoded_vec_env import EncodedVecEnv
from stillsight.agents.features.extractor import encoder_state
from stillsight.agents.playing.pixel_policy import PixelPolicy
from stillsight.agents.runs import checkpoint, history, schema
from stillsight.agents.runs.reader import IMPORTED
from stillsight.agents.runs.spaces import SPACES_FILE, Spaces
from stillsight.agents.runs.trust import Trust, open_run
from stillsight.agents.training.build import assemble, check_step, prepare
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.state import model_state
from stillsight.agents.training.state.encoder_facts import check_encoder
from stillsight.agents.training.state.exploration import restore_exploration
from stillsight.agents.training.state.finite import check_finite
from stillsight.agents.training.state.fit import check_learned
from stillsight.encoders.building import build
from stillsight.encoders.encoder import Encoder, fingerprint
from stillsight.encoders.mode import Mode
from stillsight.envs import make_vec
from stillsight.envs.vector import action_offset, layout_of
from stillsight.envs.wrappers.layout import Observation, alone, count


@dataclass
class Player:
    """A policy that acts on pixels; get one from `load`.

    Attributes:
        config: of the run.
        encoder: its frozen part; the learned part lies in the policy.
        known: what one environment shows, and how it is acted in.
        model: the SB3 algorithm, which has no environment to learn in.
        step: environment steps after which its checkpoint was written.
        checkpoint: name of the checkpoint: best, last or a number of steps.
    """

    config: RlConfig
    encoder: Encoder
    known: Spaces
    model: BaseAlgorithm
    step: int = 0
    checkpoint: str = "best"

    def __post_init__(self) -> None:
        venv = self.model.get_env()
        assert isinstance(venv, EncodedVecEnv)
        self.actor = Actor(self.model, venv)

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Of one environment."""
        return self.known.action

    @property
    def module(self) -> PixelPolicy:
        """One `nn.Module` from stacks of pixels to what the policy says, differentiable to the pixels.

        Raises:
            RunError: the policy is recurrent, or of a kind that is not known.
        """
        return PixelPolicy(self.encoder, self.model.policy)

    def sha256(self) -> str:
        """Hash of the encoder as the policy uses it, parameters and buffers."""
        return fingerprint(encoder_state(self.encoder, self.model.policy))

    def encode(self, pixels: Observation) -> np.ndarray:
        """Encode uint8 pixels `[N, 3, H, W]`, or a batch of dicts, as far as the frozen part goes: what the policy sees
        of each frame."""
        return self.actor.eyes.encode(pixels)

    def reset(self) -> None:
        """Forget the frames seen so far: the next frames begin episodes."""
        self.actor.reset()

    def predict(
        self,
        pixels: Observation,
        deterministic: bool = True,
        began: Sequence[bool] | np.ndarray | None = None,
        masks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Act on the next frame of one environment, or of several side by side.

        The player remembers the frames before it; call `reset` where all episodes begin, or say in which they do.

        Args:
            pixels: uint8 `[3, H, W]`, as `make_env` gives them, or `[N, 3, H, W]`; of an agent that sees several images
                or a state, the dict that `make_env` gives, of one environment or of N side by side.
            deterministic: take the most likely action. If not, an agent of DQN or QR-DQN explores at the rate that it
                had when its checkpoint was written, and one of TD3 or DDPG acts the same: it draws nothing.
            began: bool `[N]`, in which environments an episode begins with this frame; by default in none after the
                first call.
            masks: bool `[actions]`, or `[N, actions]` of a batch: which actions are allowed now. Agents that were
                trained with masks (MaskablePPO) need them, and others take none.

        Returns:
            The action as the environment of `make_env` takes it, or `[N, ...]` of them. Choices are counted from 0; a
            game of your own whose space starts elsewhere takes this plus `known.offset`.

        Raises:
            RunError: an observation of another shape or dtype than the agent was trained on, or of another number of
                environments than before without a `reset`; masks missing, of another shape, or not asked for.
        """
        batch, single = self._checked(pixels)
        allowed = np.asarray(masks)[None] if masks is not None and single else masks
        starting = None if began is None else np.asarray(began, bool)
        actions = self.actor.act(batch, deterministic=deterministic, began=starting, masks=allowed)
        # [()] makes a number of a single choice, as in training: a game may look it up in a dictionary.
        answer: np.ndarray = np.asarray(actions[0] if single else actions)[()]
        return answer

    def _checked(self, shown: Observation) -> tuple[Observation, bool]:
        """`shown` as a batch, and whether it is of one environment."""
        layout = self.known.layout
        given: Observation = (
            {key: np.asarray(part) for key, part in shown.items()}
            if isinstance(shown, Mapping)
            else (np.asarray(shown))
        )
        why = layout.objection(given)
        if why is not None and layout.plain and not isinstance(given, Mapping):
            raise RunError(
                f"This agent sees uint8 pixels {list(layout.pixels)}, and got {given.dtype} {list(given.shape)}. "
                "Give one frame, or a batch [N, 3, H, W] of them, as stillsight.envs.make_env shows them."
            )
        if why is not None:
            raise RunError(
                f"This agent sees {layout}, and got an observation that {why}. Give one of one environment, or a batch "
                "of them, as stillsight.envs.make_env shows them with the run's options (player.config.env_options())."
            )
        single = not layout.batched(given)
        batch = alone(given) if single else given
        playing = self.actor.environments
        if playing is not None and playing != count(batch):
            raise RunError(
                f"The agent was playing {playing} environments, and got frames of {count(batch)}. Call reset() first."
            )
        return batch, single


class NoEnvironment(VecEnv):
    """The spaces of an environment, in its place: nothing can be reset or stepped.

    Args:
        known: the spaces.
    """

    def __init__(self, known: Spaces) -> None:
        self.render_mode = None
        self.layout = known.layout
        super().__init__(1, known.layout.space, known.action)

    def reset(self) -> np.ndarray:
        """Raise `RunError`."""
        raise RunError("A player has no environment. Make one: stillsight.envs.make_env(player.config.env).")

    def step_async(self, actions: np.ndarray) -> None:
        """Raise `RunError`."""
        del actions
        self.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Raise `RunError`."""
        self.reset()
        raise AssertionError

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """SB3 asks for the render mode alone."""
        del indices
        return [getattr(self, attr_name)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """There is nothing to set it on."""

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Raise `RunError`."""
        del method_name, method_args, indices, method_kwargs
        self.reset()
        return []

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """False."""
        del wrapper_class, indices
        return [False]

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Nothing is random here."""
        return [seed]


def load(
    run: Path | str,
    which: str | None = None,
    *,
    weights: Path | None = None,
    device: str = "auto",
    seed: int | None = None,
    trust: Sequence[str] = (),
) -> Player:
    """The player of a run folder. Nothing in the folder is executed, and no environment is made.

    Nor is anything imported that the folder names, unless `trust` names it too.

    Runs of versions that kept no spaces.json are the exception: their environment is asked for its spaces.

    Args:
        run: the folder.
        which: "best", "last", or the steps of one that --keep kept, say "40000". By default best, and the newest good
            one where there is none or it is damaged, which is said on the error stream.
        weights: where the encoder's weights lie now, if they have moved.
        device: to act on.
        seed: of actions that are drawn; the run's own by default.
        trust: what the run may ask for that stillsight does not know of itself, say its encoder "my_encoders:tiny".

    Raises:
        RunError: no run there, it asks for what nobody allowed, or the encoder's weights are not those that it was
            trained with.
        CheckpointError: the checkpoint is missing, damaged, or holds a policy of NaN.
    """
    folder = Path(run)
    opened = open_run(folder, Trust(tuple(trust)), weights=weights, device=device)
    if opened.command != "rl":
        raise RunError(f"{folder} is a {opened.command} run, and only rl runs hold an agent that can play.")
    config = opened.expect(RlConfig)
    trained = config.seed
    config = replace(config, seed=trained if seed is None else seed)
    encoder = build(_to_build(config, trained))
    known = read_spaces(folder, config)
    model = unlearned(config, encoder, known)

    def read(path: Path) -> dict[str, Any]:
        stored = read_policy(path)
        if not (folder / IMPORTED).exists():  # which SB3 may have trained on for any time
            check_step(config, stored, path)
        check_learned(model, stored, path)
        return stored

    name, stored = history.find(folder, which, read)
    model_state.restore_learned(model, stored)
    check_encoder(encoder, model.policy, known.layout, stored, folder)
    restore_exploration(model, stored, stored["step"] / config.steps)
    return Player(config, encoder, known, model, step=stored["step"], checkpoint=name)


def unlearned(config: RlConfig, encoder: Encoder, known: Spaces) -> BaseAlgorithm:
    """The SB3 model of a run, without its environment and before it takes over what was learned.

    Args:
        config: of the run.
        encoder: built from `config`.
        known: the run's spaces.

    Raises:
        EncoderError, RunError: see `prepare` and `assemble`.
    """
    prepare(config, encoder, known.layout, n_envs=1)
    venv = EncodedVecEnv(NoEnvironment(known), None if config.in_policy else encoder, config.frame_stack or 1)
    return assemble(config, encoder, venv, playing=True)


def read_policy(path: Path) -> dict[str, Any]:
    """A checkpoint that can be played; `model_state.restore_learned` takes it.

    Raises:
        CheckpointError: it is missing, damaged, holds no policy, or one of numbers that are none.
    """
    stored = checkpoint.load(path)
    check_finite(stored, path)
    checkpoint.facts(stored, schema.AgentFacts, path)
    return stored


def _to_build(config: RlConfig, seed: int) -> RlConfig:
    """What the encoder is built from: a wholly trained one lies in the checkpoint, and needs no weights before that."""
    if config.mode is Mode.FINETUNE and config.unfreeze is None:
        return replace(config, mode=Mode.SCRATCH, weights=None, seed=seed)
    return replace(config, seed=seed)


def read_spaces(folder: Path, config: RlConfig) -> Spaces:
    """The spaces of a run, from its folder; from its environment where the folder does not say.

    Raises:
        RunError: the file is damaged.
        EnvError: there is no such file, and the environment cannot be made.
    """
    path = folder / SPACES_FILE
    if path.is_file():
        return Spaces.read(path)
    venv = make_vec(config.env, options=config.env_options(), training=False)
    layout = layout_of(venv)
    assert layout is not None
    known = Spaces(layout, venv.action_space, action_offset(venv))
    venv.close()
    return known
