"""What a throughput measurement compares, each in a process of its own: stock SB3, in-policy, cached, and the floor."""

from __future__ import annotations

import inspect
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFrequencyUnit

from stillsight.agents.errors import RunError
from stillsight.agents.features.extractor import EncoderExtractor
from stillsight.agents.measure.clock import Clock
from stillsight.agents.measure.stock import stock_model
from stillsight.agents.runs import checkpoint
from stillsight.agents.training import algorithms, summary
from stillsight.agents.training import model_state as state
from stillsight.agents.training.build import Agent, make_agent
from stillsight.agents.training.callbacks import light
from stillsight.agents.training.learn import RlConfig
from stillsight.agents.training.model import overrides
from stillsight.encoders import device as devices
from stillsight.envs import make_vec

PREFILL = 256
"""Random steps with which replay memory is filled before anything is timed."""

STOCK_SLOTS = 2_000
"""Replay memory that the stock arm takes; what the configured one would take is computed from it."""


def settings(config: RlConfig, *, short: bool) -> dict[str, Any]:
    """The settings of a measurement that differ from those of a run, so that each timed step is a typical one.

    Args:
        config: resolved.
        short: rollouts of one minibatch, for arms that encode each frame many times. A step costs the same in them.
    """
    chosen = overrides(config.set, "--set")
    cls = algorithms.spec(config.algo).load_class()
    known = inspect.signature(cls).parameters
    found: dict[str, Any] = {}
    if "learning_starts" in known:
        found["learning_starts"] = PREFILL
    if "exploration_initial_eps" in known:  # a random action asks no network, and most of a run's are not random
        default = known["exploration_final_eps"].default
        found["exploration_initial_eps"] = chosen.get("exploration_final_eps", default)
    if short and "n_steps" in chosen and "batch_size" in chosen:
        found["n_steps"] = min(chosen["n_steps"], max(1, -(-chosen["batch_size"] // (config.n_envs or 1))))
    return found


class Arm:
    """A model that learns for as long as it is asked to, and says where its time went.

    Args:
        model: an SB3 model.
        clock: watching its parts.
        images: gives the number of images encoded so far.
        callbacks: that a run has too.
    """

    def __init__(self, model: BaseAlgorithm, clock: Clock, images: Any, callbacks: Sequence[BaseCallback] = ()) -> None:
        self.model, self.clock, self.images = model, clock, images
        self.callbacks = list(callbacks)
        model.set_logger(Logger(None, []))
        if isinstance(model, OffPolicyAlgorithm):
            frequency: Any = model.train_freq  # SB3 has made a TrainFreq of whatever it was given
            if frequency.unit is TrainFrequencyUnit.EPISODE:
                raise RunError(
                    "throughput times updates by steps, and train_freq counts episodes. Type --set train_freq=1."
                )
            self.unit = int(frequency.frequency) * model.n_envs
            self._learn(PREFILL)
        else:
            self.unit = int(model.n_steps) * model.n_envs  # type: ignore[attr-defined]
        began = time.perf_counter()
        self._learn(self.unit)
        self.rate = self.unit / (time.perf_counter() - began)

    def _learn(self, steps: int) -> None:
        self.model.learn(steps, callback=self.callbacks, reset_num_timesteps=False)

    def measure(self, seconds: float) -> dict[str, Any]:
        """Learn for about `seconds`, one update at least."""
        steps = self.unit * max(1, round(seconds * self.rate / self.unit))
        images, before = self.images(), self.model.num_timesteps
        self.clock.seconds.clear()
        began = time.perf_counter()
        self._learn(steps)
        devices.synchronize(self.clock.device)
        spent = time.perf_counter() - began
        done = self.model.num_timesteps - before
        self.rate = done / spent
        return {
            "env_steps": done,
            "seconds": spent,
            "env_steps_per_s": self.rate,
            "images_encoded_per_env_step": (self.images() - images) / done,
            "shares": {part: value / spent for part, value in self.clock.read(spent).items()},
        }


def _watch(clock: Clock, model: BaseAlgorithm, pixels: Any) -> None:
    for method in ("step_async", "step_wait", "reset"):
        clock.watch(pixels, method, "environment")
    for method in ("forward", "predict", "predict_values"):
        if hasattr(model.policy, method):
            clock.watch(model.policy, method, "policy")
    clock.watch(model, "train", "update")


class Ours(Arm):
    """stillsight, cached or in-policy."""

    def __init__(self, config: RlConfig) -> None:
        chosen = {**overrides(config.set, "--set"), **settings(config, short=config.in_policy)}
        config = replace(config, set=tuple(f"{name}={value!r}" for name, value in chosen.items()))
        encoder = config.build_encoder(pinned=True)
        self.agent: Agent = make_agent(config, encoder, n_envs=config.n_envs or 1)
        clock = Clock(encoder.device)
        super().__init__(self.agent.model, clock, lambda: encoder.counter.images, light(config, encoder))
        _watch(self.clock, self.agent.model, self.agent.venv.venv)
        self.clock.watch(self.agent.venv, "encode", "encoder")
        self.clock.watch(encoder.frozen, "forward", "encoder")
        for module in self.agent.model.policy.modules():
            if isinstance(module, EncoderExtractor) and len(module.learned.steps):
                self.clock.watch(module.learned, "forward", "encoder")

    def facts(self) -> dict[str, Any]:
        """What it takes."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "last.safetensors"
            checkpoint.save(path, state.capture(self.model))
            learning_on = path.stat().st_size
            checkpoint.save(path, state.learned(self.model))
            playing = path.stat().st_size
        return {
            "buffer_bytes": summary.buffer_bytes(self.model),
            "checkpoint_bytes": learning_on,
            "playing_checkpoint_bytes": playing,
            "peak_memory_bytes": devices.peak_memory(self.clock.device),
            "engine": str(self.agent.encoder.frozen.engine),
        }


class Stock(Arm):
    """Stable-Baselines3 with the backbone as a features extractor."""

    def __init__(self, config: RlConfig) -> None:
        encoder = config.build_encoder(pinned=True)
        changes = settings(config, short=True)
        self.slots = int(overrides(config.set, "--set").get("buffer_size", 0))
        if self.slots:
            changes["buffer_size"] = STOCK_SLOTS
        options = config.env_options()
        pixels = make_vec(config.env, config.n_envs or 1, seed=config.seed, options=options, native=False)
        self.rollout = overrides(config.set, "--set").get("n_steps", 1) / changes.get("n_steps", 1)
        model, counter = stock_model(config, encoder, pixels, changes)
        super().__init__(model, Clock(encoder.device), lambda: counter.images)
        # Without the arguments of the policy: they hold the backbone once more here, and need not.
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / "model.zip", exclude=["policy_kwargs"])
            self.checkpoint_bytes = (Path(folder) / "model.zip").stat().st_size
        _watch(self.clock, model, pixels)
        for module in model.policy.modules():
            if hasattr(module, "backbone"):
                self.clock.watch(module.backbone, "forward", "encoder")

    def facts(self) -> dict[str, Any]:
        """What it takes; replay memory and rollouts as they would be at the configured size."""
        taken = summary.buffer_bytes(self.model)
        return {
            "buffer_bytes": int(taken * (self.slots / STOCK_SLOTS if self.slots else self.rollout)),
            "checkpoint_bytes": self.checkpoint_bytes,
            "peak_memory_bytes": devices.peak_memory(self.clock.device),
        }


class Floor:
    """What no implementation can go below: stepping, encoding each new frame once, updating the head, each alone."""

    def __init__(self, config: RlConfig) -> None:
        self.ours = Ours(config)
        agent = self.ours.agent
        self.venv = agent.venv.venv
        self.frames = np.asarray(self.venv.reset())

    def measure(self, seconds: float) -> dict[str, Any]:
        """Seconds per environment step of each part, and the rate if there were nothing else."""
        share = seconds / 3
        parts = {
            "environment": self._time(self._step, share) / self.venv.num_envs,
            "encoder": self._time(self._encode, share) / self.venv.num_envs,
            "update": self._update(share),
        }
        return {"seconds_per_env_step": parts, "env_steps_per_s": 1 / sum(parts.values())}

    def _step(self) -> None:
        self.venv.step(np.array([self.venv.action_space.sample() for _ in range(self.venv.num_envs)]))

    def _encode(self) -> None:
        self.ours.agent.venv.encode(self.frames)

    def _update(self, seconds: float) -> float:
        model: Any = self.ours.model
        if not isinstance(model, OffPolicyAlgorithm):
            return self._time(model.train, seconds) / float(self.ours.unit)
        updates = model.gradient_steps if model.gradient_steps > 0 else self.ours.unit
        spent = self._time(lambda: model.train(gradient_steps=updates, batch_size=model.batch_size), seconds)
        return spent / float(self.ours.unit)

    def _time(self, call: Any, seconds: float) -> float:
        """Mean seconds of a call: the mean, because a run meets the slow ones too (games that start anew, say)."""
        calls = 0
        with devices.stopwatch(self.ours.clock.device) as read:
            while calls < 3 or read() < seconds:
                call()
                calls += 1
            return read() / calls

    def facts(self) -> dict[str, Any]:
        """Nothing that the cached arm does not say."""
        return {}


ARMS: dict[str, Any] = {
    "stock": Stock,
    "in-policy": lambda config: Ours(replace(config, in_policy=True)),
    "cached": Ours,
    "floor": Floor,
}


def serve(connection: Connection, name: str, config: RlConfig) -> None:
    """The life of a measuring process: build an arm, answer each number of seconds with a measurement, None with facts.

    An error goes back as itself, for the parent to raise.
    """
    try:
        devices.seed_everything(config.seed)
        devices.use_threads(config.threads)
        devices.fast_math()
        arm = ARMS[name](config)
        connection.send({})
        while (seconds := connection.recv()) is not None:
            connection.send(arm.measure(seconds))
        connection.send(arm.facts())
    except Exception as error:
        error.add_note(traceback.format_exc())  # pickling drops the traceback
        connection.send(error)
