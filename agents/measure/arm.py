"""An arm of a throughput measurement: a model that learns for as long as it is asked to; ours, cached or in-policy."""

from __future__ import annotations

import inspect
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFrequencyUnit

from stillsight.agents.errors import RunError
from stillsight.agents.features.extractor import extractors
from stillsight.agents.measure.clock import Clock
from stillsight.agents.runs import checkpoint
from stillsight.agents.training import algorithms, summary
from stillsight.agents.training.build import Agent, make_agent
from stillsight.agents.training.callbacks import light
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.settings import overrides
from stillsight.agents.training.state import model_state as state
from stillsight.encoders import device as devices
from stillsight.encoders.building import build

PREFILL = 256
"""Random steps with which replay memory is filled before anything is timed."""


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


def watch(clock: Clock, model: BaseAlgorithm, pixels: Any) -> None:
    """Let `clock` time the environment, the policy and the updates of `model`."""
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
        encoder = build(config, pinned=True)
        self.agent: Agent = make_agent(config, encoder, n_envs=config.n_envs or 1)
        clock = Clock(encoder.device)
        super().__init__(self.agent.model, clock, lambda: encoder.counter.images, light(config, encoder))
        watch(self.clock, self.agent.model, self.agent.venv.venv)
        self.clock.watch(self.agent.venv, "encode", "encoder")
        self.clock.watch(encoder.frozen, "forward", "encoder")
        for extractor in extractors(self.agent.model.policy):
            if len(extractor.learned.steps):
                self.clock.watch(extractor.learned, "forward", "encoder")

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
