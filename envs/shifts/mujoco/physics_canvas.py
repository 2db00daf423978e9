"""PhysicsCanvas: dm_control's `Physics` as a canvas."""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillsight.envs.shifts.mujoco.canvas import Canvas, View


class PhysicsCanvas(Canvas):
    """dm_control's `Physics`: its method `render`, which all that sees goes through."""

    def __init__(self, physics: Any) -> None:
        super().__init__()
        self._physics, self._render = weakref.ref(physics), type(physics).render
        self._signature = inspect.signature(self._render)
        self.model, self.data = physics.model.ptr, physics.data.ptr
        physics.render = self.render

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """As dm_control's, through the scenes."""
        physics: Any = self._physics()
        asked = self._signature.bind(physics, *args, **kwargs)
        asked.apply_defaults()
        arguments = asked.arguments
        camera = arguments["camera_id"]
        if isinstance(camera, str):
            camera = physics.model.name2id(camera, "camera")
        colours = not (arguments["depth"] or arguments["segmentation"])

        def ids() -> NDArray[np.int32]:
            several = {key: arguments[key] for key in ("height", "width", "camera_id", "scene_option")}
            found: NDArray[np.int32] = self._render(physics, **several, segmentation=True)
            return found

        view = View(self.model, self.data, int(camera))
        return self.drawn(view, lambda: self._render(*asked.args, **asked.kwargs), ids if colours else None)
