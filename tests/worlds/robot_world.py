"""Robot: an arm with two cameras, joints and a mission, which costs nothing; `--env robot_world:Robot-v0`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SIDE = 16
ACTIONS = 3


class Robot(gym.Env[Any, Any]):
    """An arm of three joints moves a square; each camera sees two of the joints, and the reward depends on the third.

    Args:
        continuous: take three speeds, else one of three choices.
        extra: more entries of the observation, by name, whose elements are drawn anew in each step.
        draws: render `rgb_array`.
        length: steps of an episode; one in three ends by the rules, the others by their length.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        continuous: bool = False,
        extra: Mapping[str, gym.Space[Any]] | None = None,
        draws: bool = False,
        length: int = 11,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode if draws else None
        self.extra, self.length = dict(extra or {}), length
        self.action_space: gym.Space[Any] = spaces.Discrete(ACTIONS)
        if continuous:
            self.action_space = spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)
        self.observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8),
            wrist=spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8),
            joints=spaces.Box(-np.inf, np.inf, (ACTIONS,), np.float64),
            mission=spaces.Text(20),
            **self.extra,
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.joints = self.np_random.uniform(-1.0, 1.0, ACTIONS) * [1.0, 20.0, 0.01]
        self.steps, self.ends = 0, int(self.np_random.integers(3))
        return self._observed(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        move = np.asarray(action, np.float64) if np.ndim(action) else np.eye(ACTIONS)[int(action)] - 0.3
        self.joints = self.joints + move * [0.2, 4.0, 0.002] + self.np_random.normal(0.0, 0.01, ACTIONS)
        self.steps += 1
        reward = float(np.cos(self.joints[0]) + 50.0 * self.joints[2])
        over = self.steps >= self.length - self.ends
        return self._observed(), reward, over and self.ends == 0, over and self.ends > 0, {}

    def _observed(self) -> dict[str, Any]:
        wrist = self._picture(self.joints[1] / 20.0, self.joints[2] * 100.0)
        extra = {name: space.sample() for name, space in self.extra.items()}
        return {
            "image": self._picture(self.joints[0], self.joints[1] / 20.0),
            "wrist": wrist.transpose(2, 0, 1),
            "joints": self.joints.copy(),
            "mission": f"reach joint {self.ends}",
            **extra,
        }

    def _picture(self, down: float, right: float) -> np.ndarray:
        y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
        waves = [np.sin(6.0 * (y + down)), np.cos(7.0 * (x - right)), np.sin(5.0 * (x + y + down * right))]
        return np.rint(127.5 + 127.0 * np.stack(waves, axis=2)).astype(np.uint8)

    def render(self) -> np.ndarray:
        return np.repeat(np.repeat(self._picture(*self.joints[:2]), 2, axis=0), 2, axis=1)

    def snapshot(self) -> dict[str, Any]:
        return {"joints": self.joints, "steps": self.steps, "ends": self.ends}

    def restore_snapshot(self, values: Mapping[str, Any]) -> None:
        self.joints = np.array(values["joints"])
        self.steps, self.ends = int(values["steps"]), int(values["ends"])


def register() -> None:
    """Make the ids known; twice does no harm."""
    gym.register("Robot-v0", Robot, disable_env_checker=True)
    gym.register("RobotArm-v0", Robot, kwargs={"continuous": True}, disable_env_checker=True)
    gym.register("RobotSeen-v0", Robot, kwargs={"draws": True}, disable_env_checker=True)


register()
