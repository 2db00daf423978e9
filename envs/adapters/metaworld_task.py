"""MetaWorldTask: a task of Meta-World that begins by the seed of its reset, and says whether it has succeeded."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding

from stillsight.envs.options import EnvOptions
from stillsight.envs.wrappers.rules import skip_frames


class MetaWorldTask(gym.Wrapper[Any, Any, Any, Any]):
    """Gives the generator of the bare environment the seed of a reset, which Meta-World (3.1) ignores, and says in
    `info["is_success"]` whether `info["success"]` was 1 in any step of the episode so far.

    Which of the fifty places of things an episode has is drawn by that generator, from those that the environment was
    made with (its argument `seed`). An episode goes on to its time limit, and the arm may leave the goal again; the
    package's own `metaworld.evaluation` ends an episode at its first success and counts it.

    Pictures of a camera that hangs upside down in the scene (corner, corner2, corner3) are turned by 180 degrees.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._succeeded = False

    def render(self) -> Any:
        """A picture, upright."""
        frame: Any = self.env.render()
        return np.ascontiguousarray(frame[::-1, ::-1]) if hangs(self.env.unwrapped) else frame

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new episode, which has not succeeded; with a seed, the same one each time."""
        self._succeeded = False
        if seed is not None:
            bare: Any = self.env.unwrapped
            bare.np_random, _ = seeding.np_random(seed)
            bare.goal_space.seed(seed)
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """A step of the task."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._succeeded = self._succeeded or bool(info.get("success", False))
        return observation, reward, terminated, truncated, info | {"is_success": self._succeeded}


HANGING = -0.3
"""Height of a camera's own upward direction, 1 long, below which it hangs upside down. Of one that looks straight down
it is 0."""


def hangs(bare: Any) -> bool:
    """Whether the camera that draws a MuJoCo environment of Gymnasium's is fixed to the world upside down."""
    camera = bare.mujoco_renderer.camera_id
    if camera is None or camera < 0 or bare.model.cam_bodyid[camera] != 0:
        return False
    return bool(bare.data.cam_xmat[camera].reshape(3, 3)[2, 1] < HANGING)


def draw_seeded(env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
    """`env` as a `MetaWorldTask`, its frames skipped."""
    return skip_frames(MetaWorldTask(env), options)
