"""Rendering without a screen: each way is tried in a process of its own, which may crash or hang."""

from __future__ import annotations

from importlib.util import find_spec

from stillsight.agents.doctor.child import run
from stillsight.agents.doctor.outcome import Outcome
from stillsight.envs.adapters.rendering import WAYS

LIMIT = 30.0
"""Seconds that a backend may take to draw a picture."""

MUJOCO = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom type='sphere' size='.5'/></worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
picture = renderer.render()
assert picture.max() > picture.min(), "the picture is empty"
"""

PYGAME = """
import pygame
pygame.init()
surface = pygame.Surface((8, 8))
surface.fill((9, 8, 7))
assert tuple(surface.get_at((3, 3)))[:3] == (9, 8, 7), "the picture is empty"
"""


def opengl() -> list[Outcome]:
    """Which of EGL, OSMesa and GLFW draw here; that none does is wrong where something is installed that needs one."""
    needed = next((name for name in ("mujoco", "dm_control") if find_spec(name) is not None), None)
    outcomes, working = [], []
    for backend, (program, brings) in WAYS.items():
        script = MUJOCO if find_spec("mujoco") is not None else program
        variables = {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": "" if backend == "glfw" else backend}
        _, error = run(["-c", script], limit=LIMIT, environment=variables)
        if error is None:
            working.append(backend)
            outcomes.append(Outcome(f"rendering by {backend}", "ok", f"works: export MUJOCO_GL={backend}"))
        else:
            reason = error.removeprefix("AssertionError: ").removeprefix("OSError: ")
            outcomes.append(Outcome(f"rendering by {backend}", "note", f"does not work ({reason})", brings))
    if not working and needed:
        found = f"{needed} is installed, and nothing draws without a screen"
        outcomes.append(Outcome("rendering", "wrong", found, WAYS["osmesa"].brings))
    return outcomes


def pygame() -> list[Outcome]:
    """Whether pygame, by which Box2D and the classic environments are drawn, does so without a screen."""
    if find_spec("pygame") is None:
        return []  # the extra that brings it is named among the extras
    _, error = run(["-c", PYGAME], limit=LIMIT, environment={"SDL_VIDEODRIVER": "dummy"})
    if error is not None:
        return [Outcome("pygame", "wrong", f"does not draw ({error})", "pip install --force-reinstall pygame-ce")]
    return [Outcome("pygame", "ok", "draws without a screen")]
