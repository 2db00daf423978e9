"""OwnContext and OwnScene: environments that draw by OpenGL as if they were alone in their process.

Gymnasium's MuJoCo renderer is given its own context at each picture, a world of MiniWorld its own context and its own
walls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np

from stillsight.envs.options import EnvOptions
from stillsight.envs.wrappers.rules import Step, skip_frames

RENDERERS = "gymnasium.envs.mujoco.mujoco_rendering"
"""The module of Gymnasium's MuJoCo renderer; where nobody has imported it, nobody draws by it."""


class OwnContext(gym.Wrapper[Any, Any, Any, Any]):
    """Makes the renderer's OpenGL context the current one before it draws, and before what it drew with is freed.

    Gymnasium (1.4) does so once, when a renderer is made, and frees at the garbage's leisure. Both act on the context
    that happens to be current, which may be another environment's, whose objects go by the same numbers: closing an
    environment turned others of its process black, without an error. It stands around whatever holds such a renderer,
    whoever wrote that, see `in_own_context`.
    """

    _closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new episode, which some observe by what they draw, or begin with another renderer."""
        self._make_current()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Step:
        """The environment's step; its reward, which some have as a numpy number of 32 bits, as Python's."""
        self._make_current()
        observation, reward, terminated, truncated, info = self.env.step(action)
        if isinstance(reward, np.floating | np.integer):
            reward = float(reward)
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        """The environment's frame."""
        self._make_current()
        return self.env.render()

    def close(self) -> None:
        """Free what it draws with, in its own context."""
        if not self._closed:
            self._closed = True
            for viewer in self._viewers():
                viewer.make_context_current()
                viewer.con.free()
        self.env.close()

    def _make_current(self) -> None:
        for viewer in self._viewers():
            viewer.make_context_current()

    def __del__(self) -> None:
        """The same of one that was left open; not at the interpreter's end, when libraries may be gone."""
        if not sys.is_finalizing():
            with suppress(Exception):
                self.close()

    def _viewers(self) -> Iterator[Any]:
        """Those that draw without a window: its own, or those of the robot that a maze holds."""
        for holder in holders(self.env):
            viewers = getattr(getattr(holder, "mujoco_renderer", None), "_viewers", None) or {}
            yield from (viewer for viewer in viewers.values() if hasattr(viewer, "opengl_context"))


def holders(env: gym.Env[Any, Any]) -> Iterator[Any]:
    """What may hold the thing that an environment is drawn by: itself, and what it holds, environments without their
    wrappers."""
    bare = env.unwrapped
    for each in (bare, *vars(bare).values()):
        yield each.unwrapped if isinstance(each, gym.Env) else each


def in_own_context(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """`env` as an `OwnContext` where it draws by Gymnasium's MuJoCo renderer, and as it is elsewhere; to be asked of
    any environment, since anybody may build on that renderer."""
    if RENDERERS in sys.modules and any(hasattr(holder, "mujoco_renderer") for holder in holders(env)):
        return OwnContext(env)
    return env


SCENE = ("_render_static", "_render_world")
"""The methods by which MiniWorld (2.1) compiles walls, floor and what stands still, once in an episode, and draws them
in each picture."""

LISTS = ("glNewList", "glCallList", "glDeleteLists")
"""What they call of OpenGL, each with the number of a display list first, which is always 1."""


class OwnScene(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the walls of a world of MiniWorld in a display list of its own, and resets it in its own OpenGL context.

    All worlds of a process compile into display list 1, and pyglet's contexts share their lists: the world that was
    reset last, another copy or an evaluation's, gave all of them its walls, floor and textures, while each went on to
    move and to earn in its own. To compile anew for each picture would take longer than to draw it.
    """

    _list = 0

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        from pyglet import gl

        bare: Any = self.env.unwrapped
        bare.shadow_window.switch_to()
        self._list = gl.glGenLists(1)
        for name in SCENE:
            setattr(bare, name, _in_list(self._list, getattr(bare, name)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new world."""
        bare: Any = self.env.unwrapped
        bare.shadow_window.switch_to()  # MiniWorld does so before it draws, when textures and walls have gone elsewhere
        return self.env.reset(seed=seed, options=options)

    def close(self) -> None:
        """Free its list."""
        if self._list:
            from pyglet import gl

            bare: Any = self.env.unwrapped
            bare.shadow_window.switch_to()
            gl.glDeleteLists(self._list, 1)
            self._list = 0
        self.env.close()


def _in_list(number: int, method: Any) -> Callable[..., Any]:
    """A method of `SCENE` for which list 1 is the list `number`."""
    names = method.__func__.__globals__

    def drawn(*arguments: Any, **settings: Any) -> Any:
        theirs = {name: names[name] for name in LISTS}
        names.update({name: _numbered(number, function) for name, function in theirs.items()})
        try:
            return method(*arguments, **settings)
        finally:
            names.update(theirs)

    return drawn


def _numbered(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _one, *rest: function(number, *rest)


def draw_in_own_scene(env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
    """`env` as an `OwnScene`, its frames skipped."""
    return skip_frames(OwnScene(env), options)
