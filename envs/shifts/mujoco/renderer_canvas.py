"""RendererCanvas: Gymnasium's `MujocoRenderer` as a canvas."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillsight.envs.shifts.mujoco.canvas import Canvas, View


class RendererCanvas(Canvas):
    """Gymnasium's `MujocoRenderer`."""

    def __init__(self, renderer: Any) -> None:
        super().__init__()
        self._renderer, self._render = weakref.ref(renderer), type(renderer).render
        self.model, self.data = renderer.model, renderer.data
        renderer.render = self.render

    def render(self, render_mode: str | None) -> Any:
        """As Gymnasium's, through the scenes; a window shows all as it is."""
        renderer: Any = self._renderer()
        if render_mode == "human":
            return self._render(renderer, render_mode)
        viewer = renderer._get_viewer(render_mode)
        camera = renderer.camera_id
        view = View(self.model, self.data, -1 if camera is None else int(camera), viewer.cam)
        ids = (lambda: _ids(viewer)) if render_mode == "rgb_array" else None
        return self.drawn(view, lambda: self._render(renderer, render_mode), ids)


def _ids(viewer: Any) -> NDArray[np.int32]:
    """Number and type `[H, W, 2]` of what is seen in each pixel of the scene that a viewer has just drawn; its own code
    for it stumbles over numpy 2, whose bytes cannot be multiplied by 256."""
    import mujoco

    flags = (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR)
    for flag in flags:
        viewer.scn.flags[flag] = 1
    pixels = np.zeros((viewer.viewport.height, viewer.viewport.width, 3), np.uint8)
    try:
        mujoco.mjr_render(viewer.viewport, viewer.scn, viewer.con)
        mujoco.mjr_readPixels(pixels, None, viewer.viewport, viewer.con)
    finally:
        for flag in flags:
            viewer.scn.flags[flag] = 0
    numbers = pixels.astype(np.int64) @ np.array([1, 2**8, 2**16])
    table = np.full((viewer.scn.ngeom + 1, 2), -1, np.int32)
    for geom in viewer.scn.geoms[: viewer.scn.ngeom]:
        if geom.segid != -1:
            table[geom.segid + 1] = geom.objid, geom.objtype
    numbers[numbers > viewer.scn.ngeom] = 0
    seen: NDArray[np.int32] = table[numbers[::-1]]  # OpenGL's first row is the lowest
    return seen
