"""The floor of a throughput measurement: the parts of a step that no implementation can do without, each alone."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from stillsight.agents.measure.arm import Ours
from stillsight.agents.training.config import RlConfig
from stillsight.encoders import device as devices
from stillsight.envs.random_play import random_play
from stillsight.envs.vector import shown_by


class Floor:
    """What no implementation can go below: stepping, encoding each new frame once, updating the head, each alone."""

    def __init__(self, config: RlConfig) -> None:
        self.ours = Ours(config)
        agent = self.ours.agent
        self.venv = agent.venv.venv
        self.frames, self.draw = shown_by(self.venv.reset()), random_play(self.venv)

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
        self.venv.step(self.draw())

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
