"""The rendering of an environment, or the sentence that says why there is none."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from stillsight.envs.errors import EnvError
from stillsight.envs.options import SMALLEST_IMAGE
from stillsight.envs.wrappers.guard import Guard
from stillsight.envs.wrappers.parts import name, parts, words
from stillsight.envs.wrappers.picture import Picture, read_picture

DISPLAY = re.compile(r"display|opengl|glfw|\begl|osmesa|\bglx\b|\bx11\b|mujoco_gl|gl context|video device")
"""What the errors of drawing libraries that found no screen to draw on have in them."""


def drawn(env: gym.Env[Any, Any]) -> NDArray[np.uint8]:
    """A frame that `env` renders, uint8 `[H, W, 3]`, or the sentence that says why there is none.

    Raises `EnvError` for an environment that draws nothing of this form, and `EnvFault` for one that is none as
    Gymnasium has them.
    """
    subject = f"{name(env)} observes {words(env.observation_space)}, which is no image,"
    if any(isinstance(read_picture(part), Picture) for _, part in parts(env.observation_space)):
        subject = f"{name(env)} was asked for its rendering,"
    wanted = (
        "stillsight needs one image: uint8 or float, [H, W, 3], [3, H, W] or [H, W], at least "
        f"{SMALLEST_IMAGE} pixels a side, or an environment that renders rgb_array."
    )
    if env.render_mode != "rgb_array":
        offered = ", ".join(map(str, env.metadata.get("render_modes") or ())) or "nothing"
        raise EnvError(f"{subject} and cannot render rgb_array (it offers {offered}). {wanted}")
    # Some fix their camera by where things are at the first picture (Gymnasium's MuJoCo robots): by one seed for all
    # copies, else the pixels of an episode would depend on chance, and on who else was made.
    guarded = Guard(env, ())
    guarded.reset(seed=0)
    try:
        frame: Any = guarded.render()
    except Exception as error:
        if (sentence := no_display(name(env), error)) is None:
            raise
        raise EnvError(sentence) from error
    if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3):
        shape = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise EnvError(f"{subject} and renders {shape} in place of uint8 [H, W, 3]. {wanted}")
    return frame


def no_display(subject: str, error: BaseException) -> str | None:
    """The sentence for an environment that found no screen to draw on; None for other errors."""
    told = f"{type(error).__name__}: {error}"
    if isinstance(error, TypeError) or not DISPLAY.search(told.lower()):
        return None
    return (
        f"{subject} cannot draw here ({' '.join(told.split())}). A machine without a screen draws through EGL or "
        "OSMesa: type MUJOCO_GL=egl before the command, or MUJOCO_GL=osmesa; for other environments, xvfb-run."
    )
