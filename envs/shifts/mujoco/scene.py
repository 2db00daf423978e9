"""MujocoScene: a scene of MuJoCo's seen otherwise, for dm_control and Gymnasium's renderer alike.

The protocols of the Distracting Control Suite (Stone et al. 2021, google-research/distracting_control: colours and
cameras, static and dynamic, easy, medium and hard at 0.1, 0.2 and 0.3) and of DMControl-GB (Hansen & Wang 2021:
`video_easy` is the sky, `video_hard` the sky and the floor).

A model is changed while a picture of it is drawn, and put back at once; `plain` alone changes it for good, in what
only drawing reads. Physics, rewards and states never see it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from stillsight.envs.adapters.own_context import holders
from stillsight.envs.errors import EnvError
from stillsight.envs.shifts.mujoco.canvas import Canvas, View
from stillsight.envs.shifts.mujoco.physics_canvas import PhysicsCanvas
from stillsight.envs.shifts.mujoco.renderer_canvas import RendererCanvas
from stillsight.envs.shifts.pictures import Pictures
from stillsight.envs.shifts.rows import Image
from stillsight.envs.shifts.staged import Scene
from stillsight.envs.wrappers.parts import name


class MujocoScene(Scene):
    """What all shifts of a scene have in common: they hang on the canvas of an environment, and on the next one where
    an environment makes its renderer anew.

    A subclass changes the model in `put`, or covers what was drawn.
    """

    covers: ClassVar[bool] = False
    """Whether it covers pixels of what was drawn, see `behind` and `cover`."""

    def __init__(self, env: gym.Env[Any, Any], strength: float, pictures: Pictures | None) -> None:
        self._strength, self._own_pictures = strength, pictures
        self._step = 0
        # A renderer holds its canvas and that its scenes: held by them in turn, it would be freed late.
        self._game = weakref.ref(env.unwrapped)
        self.hang(canvas(env))

    def hang(self, there: Canvas) -> None:
        """Be drawn through there; a subclass reads of its model what it must know."""
        self.canvas, self._lost = there, False
        there.scenes.append(self)

    def leave(self) -> None:
        """Be drawn through no more."""
        if self in self.canvas.scenes:
            self.canvas.scenes.remove(self)

    @property
    def drawn(self) -> bool:
        """Whether anything was drawn on the canvas on which it hangs, since that was made."""
        return self.canvas.drawings > 0 and not self._lost

    def follow(self) -> bool:
        """Hang on the canvas of the renderer that the environment has now."""
        game = self._game()
        assert game is not None
        try:
            there = canvas(game)
        except EnvError:  # it has none at the moment, and what it draws by next is not known
            self._lost = True
            return False
        if there is self.canvas:
            return False
        self.leave()
        self.hang(there)
        return True

    def begin(self, random: np.random.Generator) -> None:
        """An episode begins."""

    def show(self, step: int) -> None:
        """So many agent steps are done."""
        self._step = step

    def put(self, view: View) -> Callable[[], None]:
        """Change the model or the camera; what is returned puts it back."""
        del view
        return lambda: None

    def behind(self, model: Any, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which pixels `[H, W]` are covered, of ids and types of what is seen, `[H, W, 2]`."""
        raise NotImplementedError

    def cover(self, image: Image) -> Image:
        """What is seen in those pixels."""
        raise NotImplementedError


def canvas(env: gym.Env[Any, Any]) -> Canvas:
    """The canvas of an environment, made at the first call.

    Raises:
        EnvError: it draws no scene of MuJoCo's, as far as can be seen.
    """
    for holder in holders(env):
        physics, renderer = getattr(holder, "physics", None), getattr(holder, "mujoco_renderer", None)
        for owner, kind in ((physics, PhysicsCanvas), (renderer, RendererCanvas)):
            render = getattr(owner, "render", None)
            if isinstance(there := getattr(render, "__self__", None), Canvas):
                return there
            if render is not None:
                made: Canvas = kind(owner)
                return made
    raise EnvError(
        f"{name(env)} draws no scene of MuJoCo's, which this shift changes. Type another one: "
        "stillsight look shows those that it has."
    )
