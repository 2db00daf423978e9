"""An agent in training: encoder, environments and SB3 model, put together from one configuration in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium import Space
from stable_baselines3.common.base_class import BaseAlgorithm

from stillsight.agents.errors import CheckpointError, RunError
from stillsight.agents.features.acting import check_masks
from stillsight.agents.features.encoded_vec_env import EncodedVecEnv
from stillsight.agents.features.extractor import canonical, encoder_state, extractors
from stillsight.agents.features.standardise import gather_statistics
from stillsight.agents.training import algorithms
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.model import make_model
from stillsight.agents.training.seeds import STANDARDISE, env_seed
from stillsight.agents.training.settings import overrides
from stillsight.agents.training.state.model_state import keeps_half
from stillsight.encoders.encoder import Encoder, fingerprint
from stillsight.envs import make_env, make_vec, workers_pay
from stillsight.envs.vector import layout_of
from stillsight.envs.wrappers.actions import kind, objection
from stillsight.envs.wrappers.layout import Layout


@dataclass
class Agent:
    """A policy with its eyes, and the environments that it learns in.

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

    def sha256(self) -> str:
        """Hash of the encoder as the policy uses it now, parameters and buffers."""
        return fingerprint(encoder_state(self.encoder, self.model.policy))


def check_step(config: RlConfig, stored: Mapping[str, Any], path: Path) -> None:
    """Raise `CheckpointError` for a checkpoint of a step that a run of `config` never comes to."""
    if stored["step"] > config.most_steps:
        raise CheckpointError(
            f"The checkpoint {path} says that it is of step {stored['step']:,}, and by its config.json the run has "
            f"{config.steps:,} steps. Restore the one or the other."
        )


def check_environment(config: RlConfig) -> None:
    """Make one environment of `config` and look at it, before an encoder is loaded and others are made.

    Raises:
        EnvError: see `make_env`.
        RunError: the algorithm cannot act here.
    """
    env = make_env(config.env, config.env_options(), seed=config.seed)
    space = env.action_space
    env.close()
    check_action_space(config.algo, space, config.env)


def check_action_space(algo: str, space: Space[Any], env: str) -> None:
    """Raise `RunError` if `algo`, or every algorithm, cannot act in the action space of a made environment."""
    if (reason := objection(space)) is not None:
        raise RunError(
            f"{env} {reason}. Agents act in Discrete, MultiDiscrete and MultiBinary spaces, and in a Box of floats "
            "between finite bounds. Wrap the environment so that it has one of these."
        )
    algorithms.check_actions(algorithms.spec(algo), kind(space), env)


def make_venv(config: RlConfig, encoder: Encoder, *, n_envs: int, training: bool, seed: int) -> EncodedVecEnv:
    """Environments as the policy of `config` sees them.

    Args:
        config: resolved.
        encoder: built from `config`.
        n_envs: environments side by side.
        training: False shows the true game: rewards unclipped, lives unended.
        seed: of the first environment; the others follow.

    Raises:
        EncoderError: the images are too small for the encoder.
        EnvError: see `make_vec`.
    """
    options = config.env_options()
    native = {"auto": None, "off": False}.get(config.native, config.native) if training else None
    wanted = training and config.workers != "off" and not native
    if wanted and config.workers == "auto":
        wanted = workers_pay(config.env, n_envs, options, seed=seed, native=native)
    workers = n_envs if wanted else 0
    shown = make_vec(config.env, n_envs, seed=seed, options=options, training=training, workers=workers, native=native)
    layout = layout_of(shown)
    assert layout is not None
    prepare(config, encoder, layout, n_envs, forwards=config.steps // n_envs if training else 0)
    return EncodedVecEnv(shown, None if config.in_policy else encoder, config.frame_stack or 1)


def prepare(config: RlConfig, encoder: Encoder, layout: Layout, n_envs: int, forwards: int = 0) -> None:
    """Make the encoder ready for the images of a layout; once, for the training environments, which come first.

    Raises:
        EncoderError: the images are too small for it, or the engine that was asked for is not to be had.
    """
    if not layout.images:
        return
    for side in sorted(set(layout.pixels[1:])):  # both must be multiples of a patch
        config.check_encoder(side)
    if not encoder.frozen.prepared:
        ahead = 0 if config.in_policy else forwards
        batch = n_envs * len(layout.images)
        encoder.frozen.prepare(layout.pixels, wanted=config.engine, batch=batch, forwards=ahead)


def make_agent(config: RlConfig, encoder: Encoder, *, n_envs: int, resumed: bool = False) -> Agent:
    """Put an agent together that will learn.

    Args:
        config: resolved.
        encoder: built from `config`.
        n_envs: environments side by side.
        resumed: a checkpoint brings what features are standardised by, and its run began with the replay memory that
            it has: what that rounds is not looked at again.

    Raises:
        RunError: the algorithm cannot act here, or takes no such setting, or its replay memory would round features
            away.
        EncoderError, EnvError: see `make_venv`.
    """
    venv = make_venv(config, encoder, n_envs=n_envs, training=True, seed=env_seed(config.seed))
    check_action_space(config.algo, venv.action_space, config.env)
    model = assemble(config, encoder, venv)
    if config.standardise:
        seed = env_seed(config.seed + STANDARDISE)
        looked_at = make_vec(config.env, n_envs, seed=seed, options=config.env_options())
        learned = canonical(model.policy).learned if config.features_standardised else None
        half = keeps_half(model) and not resumed
        look = gather_statistics(looked_at, encoder, learned, config.standardise, half=half)
        looked_at.close()
        for extractor in extractors(model.policy):
            extractor.take(look)
    venv.seed(env_seed(config.seed))  # SB3 has seeded them by the seed of its model
    return Agent(config, encoder, venv, model)


def assemble(
    config: RlConfig,
    encoder: Encoder,
    venv: EncodedVecEnv,
    *,
    playing: bool = False,
) -> BaseAlgorithm:
    """The SB3 model of `config` on `venv`.

    Args:
        config: resolved.
        encoder: built from `config`.
        venv: what it sees, from `make_venv`, or its spaces alone.
        playing: it will not learn, and has no memory to learn from.

    Raises:
        RunError: the algorithm takes no such setting.
    """
    if not playing:
        check_masks(algorithms.spec(config.algo).load_class(), venv, config.env)
    chosen = overrides(config.set, "--set")
    eyes = {
        "encoder": encoder,
        "features_dim": config.head,
        "compress": config.compress,
        "shift": config.augment == "shift",
        "in_policy": config.in_policy,
        "fusion": config.fusion,
        "activation": config.head_activation,
    }
    replay = {"dtype": config.replay_dtype}
    return make_model(
        algorithms.spec(config.algo),
        venv,
        eyes,
        chosen,
        replay,
        seed=config.seed,
        device=config.device,
        encoder_lr=config.encoder_lr,
        steps=config.steps,
        playing=playing,
    )
