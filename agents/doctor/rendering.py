"""Rendering without a screen: each way is tried in a process of its own, which may crash or hang."""

from __future__ import annotations

from importlib.util import find_spec

from stillsight.agents.doctor.child import run
from stillsight.agents.doctor.outcome import Outcome

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

EGL = """
import ctypes
egl = ctypes.CDLL("libEGL.so.1")
for name in ("eglGetDisplay", "eglCreateContext", "eglGetProcAddress"):
    getattr(egl, name).restype = ctypes.c_void_p
display = ctypes.c_void_p(egl.eglGetDisplay(ctypes.c_void_p(0)))
if not egl.eglInitialize(display, None, None):  # no default display: the first device, as on a GPU server
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    find = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    assert address, "EGL lists no devices"
    devices, count = (ctypes.c_void_p * 8)(), ctypes.c_int()
    assert find(address)(8, devices, ctypes.byref(count)) and count.value, "EGL finds no device"
    get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)
    display = ctypes.c_void_p(get(egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT"))(0x313F, devices[0], None))
    assert egl.eglInitialize(display, None, None), "EGL cannot be initialised"
assert egl.eglBindAPI(0x30A2), "EGL has no OpenGL"
attributes = (ctypes.c_int * 5)(0x3033, 1, 0x3040, 8, 0x3038)
config, count = ctypes.c_void_p(), ctypes.c_int()
assert egl.eglChooseConfig(display, attributes, ctypes.byref(config), 1, ctypes.byref(count)) and count.value, \
    "EGL has no surface to draw on"
assert egl.eglCreateContext(display, config, ctypes.c_void_p(0), None), "EGL gives no context"
"""

OSMESA = """
import ctypes, ctypes.util
name = ctypes.util.find_library("OSMesa") or "libOSMesa.so.8"
mesa = ctypes.CDLL(name)
mesa.OSMesaCreateContext.restype = ctypes.c_void_p
context = ctypes.c_void_p(mesa.OSMesaCreateContext(0x1908, None))
assert context.value, "OSMesa gives no context"
picture = ctypes.create_string_buffer(32 * 32 * 4)
assert mesa.OSMesaMakeCurrent(context, picture, 0x1401, 32, 32), "OSMesa draws nothing"
"""

GLFW = """
import ctypes, ctypes.util
try:
    import glfw
    assert glfw.init(), "GLFW finds no display"
except ImportError:
    library = ctypes.CDLL(ctypes.util.find_library("glfw") or "libglfw.so.3")
    assert library.glfwInit(), "GLFW finds no display"
"""

PYGAME = """
import pygame
pygame.init()
surface = pygame.Surface((8, 8))
surface.fill((9, 8, 7))
assert tuple(surface.get_at((3, 3)))[:3] == (9, 8, 7), "the picture is empty"
"""

BACKENDS = {
    "egl": (EGL, "apt-get install libegl1 libgl1, and on a GPU the driver's own EGL"),
    "osmesa": (OSMESA, "apt-get install libosmesa6"),
    "glfw": (GLFW, "apt-get install libglfw3 xvfb, then xvfb-run -a stillsight ..."),
}
"""What MUJOCO_GL takes -> a program that draws with it, without MuJoCo, and what brings it."""


def opengl() -> list[Outcome]:
    """Which of EGL, OSMesa and GLFW draw here; that none does is wrong where something is installed that needs one."""
    needed = next((name for name in ("mujoco", "dm_control") if find_spec(name) is not None), None)
    outcomes, working = [], []
    for backend, (program, brings) in BACKENDS.items():
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
        outcomes.append(Outcome("rendering", "wrong", found, BACKENDS["osmesa"][1]))
    return outcomes


def pygame() -> list[Outcome]:
    """Whether pygame, by which Box2D and the classic environments are drawn, does so without a screen."""
    if find_spec("pygame") is None:
        return []  # the extra that brings it is named among the extras
    _, error = run(["-c", PYGAME], limit=LIMIT, environment={"SDL_VIDEODRIVER": "dummy"})
    if error is not None:
        return [Outcome("pygame", "wrong", f"does not draw ({error})", "pip install --force-reinstall pygame-ce")]
    return [Outcome("pygame", "ok", "draws without a screen")]
