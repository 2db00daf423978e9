"""Pixels: the one form of every environment, uint8 `[3, H, W]`, and frames to film with `render()`."""

from __future__ import annotations

from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces

from stillsight.envs.errors import EnvFault
from stillsight.envs.wrappers.guard import Guard
from stillsight.envs.wrappers.picture import Image
from stillsight.envs.wrappers.sight import Seen, name, resized, sight


class Pixels(gym.ObservationWrapper[Image, Any, Any]):
    """Shows an environment as uint8 `[3, H, W]`, 0..255, RGB, whatever the form its image has underneath.

    Taken as images, each side at least 16 pixels, in the shapes `[H, W, 3]`, `[3, H, W]`, `[H, W, 1]`, `[1, H, W]` and
    `[H, W]` (grey is repeated to three channels): uint8 or other whole numbers 0..255, and floats 0..1, 0..255, -1..1
    or -0.5..0.5. So is the one image of a Dict or Tuple, whose other parts are dropped, and the newest frame of
    Gymnasium's `FrameStackObservation`. What looks like an image and is none of these is refused. Anything else, such
    as a state vector or a small table of symbols, is replaced by what `render()` shows. `seen` says which it is.

    `size` resizes to a square of that many pixels with `cv2.INTER_AREA`; 0 keeps the native size.

    `render()` gives the environment's own frame, uint8 `[H, W, 3]`, or the last observation where it has none.

    Raises `EnvError` for several images, for an image whose meaning is not clear, and for an environment that neither
    observes nor renders one; while it plays, `EnvFault` for what `Guard` finds.

    Attributes:
        seen: what an agent sees, from where, at which size, and what is dropped.
    """

    def __init__(self, env: gym.Env[Any, Any], size: int = 0) -> None:
        found = sight(env)
        super().__init__(Guard(found.env, found.pick, found.space))
        self._pick, self._read = found.pick, found.picture.read
        self._size = size
        blank = self._shown(np.zeros(found.space.shape, found.space.dtype))
        self._last = blank
        self.observation_space = spaces.Box(0, 255, blank.shape, np.uint8)
        self.seen: Seen = resized(found.seen, (blank.shape[1], blank.shape[2]))

    @property
    def render_mode(self) -> str:  # type: ignore[override]
        """Always `rgb_array`: an environment that cannot render shows what it observes."""
        return "rgb_array"

    def observation(self, observation: Any) -> Image:
        """The environment's own observation as uint8 `[3, H, W]`."""
        self._last = self._shown(self._pick(observation))
        return self._last

    def _shown(self, array: Any) -> Image:
        image = self._read(array)
        if self._size and image.shape[:2] != (self._size, self._size):
            image = cv2.resize(image, (self._size, self._size), interpolation=cv2.INTER_AREA).astype(np.uint8)
        if image.ndim == 2:
            image = np.broadcast_to(image[..., None], (*image.shape, 3))
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    def render(self) -> Image | None:
        """A frame to film, uint8 `[H, W, 3]`, or None from an environment that promises frames and gives none."""
        if self.env.render_mode == "rgb_array":
            frame: Any = self.env.render()
            return None if frame is None else film_frame(frame, name(self))
        return self._last.transpose(1, 2, 0).copy()


def film_frame(frame: Any, subject: str) -> Image:
    """A rendered frame as uint8 `[H, W, 3]`: grey is repeated, and what is transparent lies on black.

    Raises `EnvFault` for frames of another form or dtype.
    """
    image = np.asarray(frame)
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 4:
        opacity = image[..., 3:].astype(np.uint16)
        return ((image[..., :3] * opacity + 127) // 255).astype(np.uint8)
    if image.dtype == np.uint8 and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)):
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    raise EnvFault(
        f"{subject} renders {image.dtype} {list(image.shape)}, and a film takes uint8 [H, W, 3], [H, W, 4] or [H, W]. "
        "Mend its render()."
    )
