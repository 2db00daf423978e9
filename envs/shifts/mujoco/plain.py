"""Plain: a scene drawn without what takes most of the time to draw."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from stillsight.envs.shifts.mujoco.scene import MujocoScene
from stillsight.envs.shifts.pictures import Pictures


class Plain(MujocoScene):
    """No shadows, no smoothed edges, and reflections weaker by `strength`, none at 1.

    MuJoCo draws a scene once more for each light that casts shadows, into a map of 2,048 x 2,048 pixels or more, and
    once more for each mirror; each pixel in four samples. In software that is most of the time.
    """

    def __init__(self, env: gym.Env[Any, Any], strength: float, pictures: Pictures | None) -> None:
        super().__init__(env, strength, pictures)
        # For good: the samples are read once, when the first picture is drawn, and physics knows none of the three.
        model = self.canvas.model
        model.light_castshadow[:] = 0
        model.mat_reflectance[:] *= 1.0 - strength
        model.vis.quality.offsamples = 0
