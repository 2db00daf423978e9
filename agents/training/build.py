"""An agent: encoder, environments and SB3 model, put together from one configuration in one place."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from stillsight.agents.errors import RunError
from stillsight.agents.features.extractor import EncodedVecEnv, FrameStack, encoder_state
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.folder import read_config, revive
from stillsight.agents.training import algorithms
from stillsight.agents.training import model_state as state
from stillsight.agents.training.first_look import first_look
from stillsight.agents.training.learn import RlConfig
from stillsight.agents.training.model import make_model, overrides
from stillsight.encoders.encoder import Encoder, fingerprint
from stillsight.encoders.mode import Mode
from stillsight.envs import make_vec, workers_pay


@dataclass
class Agent:
    """A policy with its eyes, which acts on pixels.

    Attributes:
        config: of the run.
        encoder: frozen part and counter; the learned part that the policy uses lives in the policy.
        venv: encoded environments.
        model: the SB3 algorithm.
    """

    config: RlConfig
    encoder: Encoder
    venv: EncodedVecEnv
    model: BaseAlgorithm

    def __post_init__(self) -> None:
        self._stack: FrameStack | None = None
        self._memory: Any = None

    def reset(self) -> None:
        """Forget the frames seen so far: the next frame begins an episode."""
        self._stack, self._memory = None, None

    def predict(self, pixels: np.ndarray, deterministic: bool = True) -> np.ndarray:
        """Act on the next frame of one environment.

        The agent remembers the frames before it; call `reset` where an episode begins.

        Args:
            pixels: uint8 `[3, H, W]`, as `make_vec(env)` gives them.
            deterministic: take the most likely action.

        Returns:
            The action, as the environment's action space has it.
        """
        frame = self.venv.encode(pixels[None])
        began = self._stack is None
        if self._stack is None:
            shape = self.venv.observation_space.shape
            assert shape is not None
            self._stack = FrameStack(1, shape[0], shape[1:], frame.dtype)
            observation = self._stack.start(frame)
        else:
            observation = self._stack.push(frame, np.zeros(1, dtype=bool))
        action, self._memory = self.model.predict(observation, self._memory, np.array([began]), deterministic)
        return np.asarray(action[0])

    def check_frozen(self, stored: Mapping[str, Any], folder: Path) -> None:
        """Raise `RunError` unless the frozen weights are, to the bit, those that checkpoint `stored` was saved with."""
        found = fingerprint(self.encoder.frozen.state())
        if stored["frozen_sha256"] != found:
            raise RunError(
                f"{folder} was trained on frozen {self.encoder.name} weights with sha256 "
                f"{stored['frozen_sha256'][:12]}, and {self.encoder.provenance.name} gives {found[:12]}. "
                "Say where the right ones are: --weights FILE."
            )

    def sha256(self) -> str:
        """Hash of the encoder as the policy uses it now, parameters and buffers."""
        return fingerprint(encoder_state(self.encoder, self.model.policy))


def make_venv(config: RlConfig, encoder: Encoder, *, n_envs: int, training: bool, seed: int) -> EncodedVecEnv:
    """Environments as the policy of `config` sees them.

    Args:
        config: resolved.
        encoder: from `config.build_encoder`.
        n_envs: environments side by side.
        training: False shows the true game: rewards unclipped, lives unended.
        seed: of the first environment; the others follow.

    Raises:
        EncoderError: the images are too small for the encoder.
        EnvError: see `make_vec`.
    """
    options = config.env_options()
    wanted = training and config.workers != "off"
    if wanted and config.workers == "auto":
        wanted = workers_pay(config.env, n_envs, options, seed=seed)
    workers = n_envs if wanted else 0
    pixels = make_vec(config.env, n_envs, seed=seed, options=options, training=training, workers=workers)
    shape = pixels.observation_space.shape
    assert shape is not None
    config.check_encoder(min(shape[1:]))
    if not encoder.frozen.prepared:  # once, for the training environments, which come first
        ahead = config.steps // n_envs if training and not config.in_policy else 0
        encoder.frozen.prepare((3, shape[1], shape[2]), wanted=config.engine, batch=n_envs, forwards=ahead)
    return EncodedVecEnv(pixels, None if config.in_policy else encoder, config.frame_stack or 1)


def make_agent(
    config: RlConfig, encoder: Encoder, *, n_envs: int, training: bool = True, playing: bool = False
) -> Agent:
    """Put an agent together; see `make_venv` for the arguments.

    Args:
        playing: give the algorithm the smallest replay memory, because it will not learn.

    Raises:
        RunError: the algorithm cannot act here, or takes no such setting.
        EncoderError, EnvError: see `make_venv`.
    """
    row = algorithms.spec(config.algo)
    chosen = overrides(config.set, "--set")
    if playing and "buffer_size" in chosen:
        chosen["buffer_size"] = 1
    venv = make_venv(config, encoder, n_envs=n_envs, training=training, seed=config.seed)
    discrete = isinstance(venv.action_space, spaces.Discrete)
    algorithms.check_actions(row, "discrete" if discrete else "continuous", config.env)
    # One that will not learn gets the numbers from its checkpoint.
    statistics = None if playing else first_look(config, encoder, n_envs)
    eyes = {
        "encoder": encoder,
        "features_dim": config.head,
        "compress": config.compress,
        "statistics": statistics,
        "shift": config.augment == "shift",
    }
    replay = {"dtype": config.replay_dtype}
    with warnings.catch_warnings():
        if playing:  # SB3 warns of minibatches that one environment does not fill, and none will be asked for
            warnings.simplefilter("ignore", UserWarning)
        model = make_model(
            row, venv, eyes, chosen, replay, seed=config.seed, device=config.device, encoder_lr=config.encoder_lr
        )
    return Agent(config, encoder, venv, model)


def load(
    run: Path | str, which: str = "best", *, weights: Path | None = None, device: str = "auto", seed: int | None = None
) -> Agent:
    """The agent of a run folder, ready to act. Nothing in the folder is executed.

    Args:
        run: the folder.
        which: "best" or "last".
        weights: where the encoder's weights lie now, if they have moved.
        device: to act on.
        seed: of its environments; the run's own by default.

    Raises:
        RunError: no run there, or the encoder's weights are not those that it was trained with.
        CheckpointError: the checkpoint is missing or damaged.
    """
    folder = Path(run)
    record = read_config(folder)
    if record.get("command") != "rl":
        raise RunError(f"{folder} is a {record.get('command')} run, and only rl runs hold an agent that can play.")
    path = folder / "checkpoints" / f"{which}.safetensors"
    if which == "best" and not path.exists():
        path = folder / "checkpoints" / "last.safetensors"
    stored = checkpoint.load(path)
    config = revive(RlConfig, record)
    config = replace(
        config, device=device, weights=weights or config.weights, seed=config.seed if seed is None else seed
    )
    # A wholly trained encoder lies in the checkpoint: the weights that it began with are not needed any more.
    needs_weights = not (config.mode is Mode.FINETUNE and config.unfreeze is None)
    encoder = replace(config, seed=record["seed"]).build_encoder(pinned=True, weights=needs_weights)
    agent = make_agent(config, encoder, n_envs=1, training=False, playing=True)
    agent.check_frozen(stored, folder)
    state.restore_learned(agent.model, stored)
    return agent
