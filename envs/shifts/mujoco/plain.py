"""Plain: a scene drawn without what takes most of the time to draw."""

from __future__ import annotations

from typing import Any

from stillsight.envs.shifts.mujoco.canvas import Canvas
from stillsight.envs.shifts.mujoco.scene import MujocoScene


class Plain(MujocoScene):
    """No shadows, no smoothed edges, and reflections weaker by `strength`, none at 1.

    MuJoCo draws a scene once more for each light that casts shadows, into a map of 2,048 x 2,048 pixels or more, and
    once more for each mirror; each pixel in four samples. In software that is most of the time.
    """

    _changed: Any = None

    def hang(self, there: Canvas) -> None:
        """Change the model, once and for good: its samples are read when the first picture is drawn, and physics knows
        none of the three."""
        super().hang(there)
        if (model := there.model) is self._changed:
            return
        self._changed = model
        model.light_castshadow[:] = 0
        model.mat_reflectance[:] *= 1.0 - self._strength
        model.vis.quality.offsamples = 0
