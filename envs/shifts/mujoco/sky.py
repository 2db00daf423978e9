"""Sky and Background: pictures in place of what is behind a scene."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stillsight.envs.shifts.covering import blended, drawn
from stillsight.envs.shifts.mujoco.scene import MujocoScene
from stillsight.envs.shifts.rows import Image

_GEOM = 5
"""`mjtObj.mjOBJ_GEOM`."""
_PLANE = 0
"""`mjtGeom.mjGEOM_PLANE`."""


class Sky(MujocoScene):
    """Waves, or a user's own pictures, in place of the sky, mixed in at `strength`; by MuJoCo's own segmentation."""

    covers = True
    floor: ClassVar[bool] = False

    def begin(self, random: np.random.Generator) -> None:
        """Draw them."""
        self._pattern = drawn(random, self._own_pictures)

    def behind(self, model: Any, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Where nothing is, and for the background the planes, which are floors."""
        covered: NDArray[np.bool_] = ids[..., 0] < 0
        if self.floor:
            geoms = (ids[..., 1] == _GEOM) & ~covered
            covered = covered | (geoms & (model.geom_type[np.where(geoms, ids[..., 0], 0)] == _PLANE))
        return covered

    def cover(self, image: Image) -> Image:
        """The pattern of this step over all of it."""
        return blended(image, self._pattern(image.shape[0], image.shape[1], self._step), self._strength)


class Background(Sky):
    """The same in place of the sky and the floor."""

    floor = True
