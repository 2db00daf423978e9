"""Canvas: where an environment draws a scene of MuJoCo's, through the layers that hang on it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stillsight.envs.shifts.rows import Image


@dataclass(frozen=True)
class View:
    """A picture that is about to be drawn.

    Attributes:
        model, data: `mujoco.MjModel` and `MjData`.
        camera: its number in the model; -1 for one that is in none.
        free: `mujoco.MjvCamera` where it is in none and can be moved.
    """

    model: Any
    data: Any
    camera: int
    free: Any = None


class Layer(Protocol):
    """What a picture is drawn through."""

    @property
    def covers(self) -> bool:
        """Whether it covers pixels of what was drawn."""

    def put(self, view: View) -> Callable[[], None]:
        """Change the model or the camera; what is returned puts it back."""

    def behind(self, model: Any, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which pixels `[H, W]` are covered, of ids and types of what is seen, `[H, W, 2]`."""

    def cover(self, image: Image) -> Image:
        """What is seen in those pixels."""


class Canvas:
    """Where an environment draws: it draws through the scenes that hang here, in order.

    What draws keeps its canvas, and the canvas only a weak reference back: a renderer in a circle would be freed late,
    and take away the OpenGL context that another one has made current.

    Attributes:
        model, data: of MuJoCo.
        scenes: that a picture is drawn with.
        drawings: how often anything was drawn.
    """

    model: Any
    data: Any

    def __init__(self) -> None:
        self.scenes: list[Layer] = []
        self.drawings = 0

    def drawn(self, view: View, draw: Callable[[], Any], ids: Callable[[], NDArray[np.int32]] | None) -> Any:
        """What `draw` gives with the scenes in place, covered where they cover it.

        Args:
            view: what is drawn.
            draw: gives uint8 `[H, W, 3]`, or what has no colours.
            ids: gives number and type `[H, W, 2]` of what is seen in each pixel, -1 for nothing; None where there are
                no colours.
        """
        self.drawings += 1
        with ExitStack() as put_back:
            for scene in self.scenes:
                put_back.callback(scene.put(view))
            image = draw()
            covering = [scene for scene in self.scenes if scene.covers]
            if ids is None or not covering:
                return image
            seen = ids()
        for scene in covering:
            image = np.where(scene.behind(view.model, seen)[..., None], scene.cover(np.ascontiguousarray(image)), image)
        return image
