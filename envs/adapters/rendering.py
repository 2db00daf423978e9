"""Rendering without a screen: which of EGL, OSMesa and GLFW draws here, tried in a process of its own and chosen once.

Without a choice MuJoCo tries GLFW, which needs a display, and fails in words of a third party's; pyglet fails at its
import. Mesa, by which EGL and OSMesa draw where there is no GPU, brings an LLVM of its own: where it is loaded before
`triton`, which torch imports late, the process crashes at that import. So `triton` is imported first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import parent_process
from typing import Literal, NamedTuple

from stillsight.envs.errors import EnvError

LIMIT = 30.0
"""Seconds that a way may take to draw."""

CHOICE = "MUJOCO_GL"
"""The variable by which MuJoCo, dm_control and Gymnasium are told."""

TRIED = "STILLSIGHT_DRAWS_BY"
"""The variable by which worker processes know what was tried already."""

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


class Way(NamedTuple):
    """A way to draw.

    Attributes:
        program: that draws by it, and fails where that is not possible.
        brings: what to type for it.
    """

    program: str
    brings: str


WAYS = {
    "egl": Way(EGL, "apt-get install libegl1 libgl1, and on a GPU the driver's own EGL"),
    "osmesa": Way(OSMESA, "apt-get install libosmesa6"),
    "glfw": Way(GLFW, "apt-get install libglfw3 xvfb, then xvfb-run -a stillsight ..."),
}
"""What MUJOCO_GL takes, in the order in which they are tried."""

Draws = Literal["mujoco", "opengl"]
"""By MuJoCo, or by OpenGL through pyglet."""


def prepare(draws: Draws | None, subject: str) -> None:
    """Have what draws here without a screen chosen before the first picture, for this process and its workers.

    On Linux alone; elsewhere the libraries know. MUJOCO_GL counts where it is set, if it works. What was chosen is said
    on stderr, once.

    Args:
        draws: what will draw; None where that is not known: MuJoCo then, if it is imported and draws here.
        subject: the environment, in words.

    Raises:
        EnvError: nothing draws here, with what to install, or what MUJOCO_GL says does not.
    """
    unknown = draws is None
    if unknown and "mujoco" in sys.modules:
        draws = "mujoco"
    if draws is None or not sys.platform.startswith("linux"):
        return
    try:
        if draws == "mujoco":
            _choose(subject)
        elif not os.environ.get("DISPLAY"):
            if (reason := objection("egl")) is not None:
                raise EnvError(
                    f"{subject} cannot draw here: there is no display, and EGL does not work ({reason}). Type: "
                    f"{WAYS['egl'].brings}; or: apt-get install xvfb, then xvfb-run -a stillsight ..."
                )
            os.environ.setdefault("PYGLET_HEADLESS", "1")
    except EnvError:
        if not unknown:
            raise
    if find_spec("triton") is not None:
        import_module("triton")


def _choose(subject: str) -> None:
    asked = way = os.environ.get(CHOICE, "").strip().lower()
    if way and os.environ.get(TRIED) == way:
        return
    if way and way not in WAYS:
        raise EnvError(
            f"{CHOICE} is {way!r}, by which nothing draws. It takes {', '.join(WAYS)}. Type: unset {CHOICE}, and what "
            "works here is chosen."
        )
    if way and (reason := objection(way)) is not None:
        raise EnvError(
            f"{subject} cannot draw by {CHOICE}={way} here ({reason}). Type: {WAYS[way].brings}; or: unset {CHOICE}, "
            "and what works here is chosen."
        )
    if not way:
        reasons: dict[str, str] = {}
        for name in WAYS:
            if (reason := objection(name)) is None:
                way = name
                break
            reasons[name] = reason
        else:
            told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise EnvError(
                f"{subject} is drawn by MuJoCo, and nothing draws here ({told}). Type one of these: "
                f"{' | '.join(each.brings for each in WAYS.values())}"
            )
    imported = getattr(sys.modules.get("dm_control._render"), "BACKEND", way)
    if imported != way and (imported not in WAYS or objection(imported) is not None):
        raise EnvError(
            f"{subject} cannot draw here: dm_control was imported before it was made, and has settled on {imported}, "
            f"where {way} works. Import it later, or type {CHOICE}={way} before the command."
        )
    os.environ[CHOICE] = os.environ[TRIED] = way  # as libraries compare it, in small letters
    if not asked and parent_process() is None:
        print(f"stillsight: MuJoCo draws by {way} here (as if {CHOICE}={way} were typed).", file=sys.stderr)


@cache
def objection(way: str) -> str | None:
    """Why one of `WAYS` does not draw here, None where it does: tried in a process, which may crash or hang."""
    environment = {**os.environ, "PYOPENGL_PLATFORM": "" if way == "glfw" else way}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", WAYS[way].program],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {LIMIT:g} s"
    except OSError as error:
        return f"no process could be started: {error}"
    if done.returncode < 0:
        return f"it crashed with signal {-done.returncode}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == 0:
        return None
    told = lines[-1] if lines else f"it ended with code {done.returncode}"
    return told.removeprefix("AssertionError: ").removeprefix("OSError: ")[:300]
