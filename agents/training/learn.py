"""One reinforcement-learning run, read from top to bottom."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from stillsight.agents.errors import TrainingFault
from stillsight.agents.features.acting import Actor
from stillsight.agents.features.extractor import encoder_state
from stillsight.agents.runs.folder import Run, Sink
from stillsight.agents.runs.reader import RUNS
from stillsight.agents.runs.spaces import SPACES_FILE, Spaces
from stillsight.agents.runs.tensorboard import TensorBoardSink
from stillsight.agents.runs.trust import flags
from stillsight.agents.training import callbacks as recording
from stillsight.agents.training import summary
from stillsight.agents.training.build import check_environment, make_agent
from stillsight.agents.training.checkpointing import Savepoints
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.continuing.inheritance import inherit
from stillsight.agents.training.continuing.resuming import resumed
from stillsight.agents.training.seeds import EVALUATION, env_seed
from stillsight.encoders import device as devices
from stillsight.encoders.building import build
from stillsight.encoders.system import stopping
from stillsight.encoders.system.allocator import reuse_freed_memory
from stillsight.envs import make_env
from stillsight.envs.vector import action_offset


def rl(config: RlConfig) -> dict[str, Any]:
    """Train an agent and return the run's summary; see the module's `learn`.

    Raises:
        EncoderError, EnvError, RunError, CheckpointError: a user's mistake; nothing was written.
    """
    if config.resume is not None:
        folder, going_on = config.resume, resumed(config, config.resume, "rl")
        config = going_on.config
        if going_on.word:
            print(going_on.word)
        with Run(folder, "rl", config, resumed=True, sinks=_sinks(config), changed=going_on.changed) as run:
            return learn(config, run)
    config.check()
    name = config.run_name  # before defaults are written out, which would all be in it
    config = config.resolved()
    folder = config.out or RUNS / name
    with Run(folder, "rl", config, counted=config.out is None, sinks=_sinks(config)) as run:
        return learn(config, run)


def _sinks(config: RlConfig) -> Callable[[Path], list[Sink]]:
    """Where the run's rows go besides its folder."""
    return lambda folder: [TensorBoardSink(folder / "tensorboard")] if config.tensorboard else []


def learn(config: RlConfig, run: Run, callbacks: Sequence[BaseCallback] = ()) -> dict[str, Any]:
    """The run itself: build, say what will happen, learn, evaluate, sum up.

    Args:
        config: checked and resolved.
        run: a new folder, or one to be resumed.
        callbacks: further ones, called after ours; one that returns False ends training, as a search's pruner does.

    Raises:
        Stop: Ctrl-C or SIGTERM asked for it; what was learned is saved.
        TrainingFault: a loss or a parameter is no finite number any more, or an encoder changed that is not trained.
    """
    devices.seed_everything(config.seed)
    devices.use_threads(config.threads)
    devices.fast_math()
    reuse_freed_memory()
    check_environment(config)
    encoder = build(config, pinned=True)
    goes_on = run.resumed and run.checkpoint("last").exists()
    agent = make_agent(config, encoder, n_envs=config.n_envs or 1, resumed=goes_on)
    seed, options = env_seed(config.seed + EVALUATION), config.eval_options()
    arenas = [
        make_env(config.env, options, training=False, seed=seed + index) for index in range(config.eval_envs or 1)
    ]
    ancestor = None
    if config.from_run is not None and not goes_on:
        ancestor = inherit(agent)
    savepoints = Savepoints(run, agent)
    savepoints.ancestor = None if ancestor is None else ancestor.to_json()
    evaluation = recording.Evaluate(
        run,
        Actor(agent.model, agent.venv),
        arenas,
        seed=seed,
        every=config.eval_every or 0,
        total=config.steps,
        episodes=config.eval_episodes,
        max_steps=config.eval_max_steps,
        deterministic=not config.stochastic_eval,
        savepoints=savepoints,
    )
    model = agent.model
    model.set_logger(recording.logger(run))
    if run.resumed:
        savepoints.restore()
    run.card(
        f"rl · {config.env} · {config.algo} · {config.mode.value} · seed {config.seed}",
        summary.card(agent) | summary.begins(agent, savepoints, run.changed),
    )
    run.write_json(SPACES_FILE, Spaces(agent.venv.layout, agent.venv.action_space, action_offset(agent.venv)).to_json())
    ours = [
        recording.Episodes(run, summary.whole_steps(config.steps, model)),
        recording.StaysFinite(savepoints),
        evaluation,
        recording.Checkpoint(config.checkpoint_every or 0, savepoints),
        recording.Stoppable(savepoints),
        *recording.light(config, encoder),
    ]
    with stopping.answering(deferred=True), _closing([agent.venv, *arenas]):
        with savepoints.training():
            model.learn(
                max(0, config.steps - model.num_timesteps),
                callback=[*ours, *callbacks],
                reset_num_timesteps=False,  # counters and schedules go on where a resumed run stopped
            )
        savepoints.last()
        if not config.mode.trained and agent.sha256() != savepoints.ledger.encoder_sha256:
            raise TrainingFault(
                f"The encoder changed while its agent learned, and --mode {config.mode.value} keeps it as it is: the "
                f"returns in {run.folder} are of no encoder that is known. Find what writes into it (a callback, a "
                "buffer that moves in eval mode too), and begin the run anew."
            )
        if config.mode.trained:
            # For --weights: the whole network under its official names, so that another run can start from it.
            licence = f"{encoder.provenance.licence}; trained here on {config.env}".removeprefix("none needed; ")
            facts = {"encoder": encoder.name, "env": config.env, "license": licence}
            run.save("encoder", encoder_state(encoder, model.policy), facts)
        episodes = evaluation.last()
        result = summary.summary(agent, savepoints, episodes, deterministic=not config.stochastic_eval)
        run.write_json("summary.json", result)
    run.display.close()
    run.display.card("done", summary.closing(result, run.folder, flags(config)))
    return result


@contextlib.contextmanager
def _closing(environments: Sequence[VecEnv | gym.Env[Any, Any]]) -> Iterator[None]:
    """Close environments at the end, whatever ends it: one that is drawn by SDL may not hear that it is to end."""
    try:
        yield
    except BaseException:
        for environment in environments:
            with contextlib.suppress(Exception):  # what went wrong before is what counts
                environment.close()
        raise
    for environment in environments:
        environment.close()
