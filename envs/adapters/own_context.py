"""OwnContext: an environment that Gymnasium's MuJoCo renderer draws, in its own OpenGL context at each picture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import gymnasium as gym

from stillsight.envs.options import EnvOptions
from stillsight.envs.wrappers.rules import Step, skip_frames


class OwnContext(gym.Wrapper[Any, Any, Any, Any]):
    """Makes the renderer's OpenGL context the current one before it draws, and before what it drew with is freed.

    Gymnasium (1.4) does so once, when a renderer is made, and frees at the garbage's leisure. Both act on the context
    that happens to be current, which may be another environment's, whose objects go by the same numbers: closing an
    environment turned others of its process black, without an error.
    """

    _closed = False

    def step(self, action: Any) -> Step:
        """The environment's step; its reward, which some have as a numpy number of 32 bits, as Python's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), terminated, truncated, info

    def render(self) -> Any:
        """The environment's frame."""
        for viewer in self._viewers():
            viewer.make_context_current()
        return self.env.render()

    def close(self) -> None:
        """Free what it draws with, in its own context."""
        if not self._closed:
            self._closed = True
            for viewer in self._viewers():
                viewer.make_context_current()
                viewer.con.free()
        self.env.close()

    def __del__(self) -> None:
        """The same of one that was left open; not at the interpreter's end, when libraries may be gone."""
        if not sys.is_finalizing():
            with suppress(Exception):
                self.close()

    def _viewers(self) -> Iterator[Any]:
        """Those that draw without a window: its own, or those of the robot that a maze holds."""
        bare: Any = self.env.unwrapped
        for holder in (bare, *vars(bare).values()):
            viewers = getattr(getattr(holder, "mujoco_renderer", None), "_viewers", None) or {}
            yield from (viewer for viewer in viewers.values() if hasattr(viewer, "opengl_context"))


def draw_in_own_context(env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
    """`env` as an `OwnContext`, its frames skipped."""
    return skip_frames(OwnContext(env), options)
