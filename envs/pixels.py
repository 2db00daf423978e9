"""Pixels: the one form of every environment, uint8 `[3, H, W]`, and frames to film with `render()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stillsight.envs.errors import EnvError

Image: TypeAlias = NDArray[np.uint8]
Reader: TypeAlias = Callable[[Any], Image]

SMALLEST_IMAGE = 16
"""Shortest side in pixels of what counts as an image. MiniGrid's 7 x 7 x 3 uint8 table of symbols looks like one."""


class Pixels(gym.ObservationWrapper[Image, Any, Any]):
    """Shows an environment as uint8 `[3, H, W]`, 0..255, RGB, whatever the form its image has underneath.

    Taken as images: uint8 0..255, or float 0..1 or 0..255, in the shapes `[H, W, 3]`, `[3, H, W]`, `[H, W, 1]`,
    `[1, H, W]`, `[H, W]` (grey is repeated to three channels), each side at least 16 pixels; also a Dict that holds
    exactly one of these, whose other entries are dropped. Anything else, such as a state vector, is replaced by what
    `render()` shows.

    `size` resizes to a square of that many pixels with `cv2.INTER_AREA`; 0 keeps the native size.

    `render()` gives the environment's own frame, uint8 `[H, W, 3]`, or the last observation where it has none.

    Raises `EnvError` for a Dict of several images, and for an environment that neither observes nor renders an image.
    """

    def __init__(self, env: gym.Env[Any, Any], size: int = 0) -> None:
        if _reader(env.observation_space, env) is None:
            env = _rendered(env)
        super().__init__(env)
        reader = _reader(env.observation_space, env)
        assert reader is not None, "a rendered frame is an image"
        self._read: Reader = reader
        self._size = size
        blank = self.observation(_zeros(env.observation_space))
        self._last = blank
        self.observation_space = spaces.Box(0, 255, blank.shape, np.uint8)

    @property
    def render_mode(self) -> str:  # type: ignore[override]
        """Always `rgb_array`: an environment that cannot render shows what it observes."""
        return "rgb_array"

    def observation(self, observation: Any) -> Image:
        """The environment's own observation as uint8 `[3, H, W]`."""
        image = self._read(observation)
        if self._size and image.shape[:2] != (self._size, self._size):
            image = cv2.resize(image, (self._size, self._size), interpolation=cv2.INTER_AREA).astype(np.uint8)
        if image.ndim == 2:
            image = np.broadcast_to(image[..., None], (*image.shape, 3))
        self._last = np.ascontiguousarray(image.transpose(2, 0, 1))
        return self._last

    def render(self) -> Image | None:
        """A frame to film, uint8 `[H, W, 3]`, or None from an environment that promises frames and gives none."""
        if self.env.render_mode == "rgb_array":
            frame = self.env.render()
            return None if frame is None else np.asarray(frame, np.uint8)
        return self._last.transpose(1, 2, 0).copy()


def _rendered(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """`env` with `render()` in place of its observation, or the sentence that says why not."""
    subject = f"{_name(env)} observes {_words(env.observation_space)}, which is no image,"
    wanted = (
        "stillsight needs one image: uint8 or float, [H, W, 3], [3, H, W] or [H, W], at least "
        f"{SMALLEST_IMAGE} pixels a side, or an environment that renders rgb_array."
    )
    if env.render_mode != "rgb_array":
        offered = ", ".join(map(str, env.metadata.get("render_modes") or ())) or "nothing"
        raise EnvError(f"{subject} and cannot render rgb_array (it offers {offered}). {wanted}")
    env.reset()
    frame = env.render()
    if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3):
        shape = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise EnvError(f"{subject} and renders {shape} in place of uint8 [H, W, 3]. {wanted}")
    return gym.wrappers.AddRenderObservation(env, render_only=True)


def _reader(space: gym.Space[Any], env: gym.Env[Any, Any]) -> Reader | None:
    """How to read the image of a space as uint8 `[H, W, 3]` or `[H, W]`; `None` if it has none."""
    if isinstance(space, spaces.Dict):
        readers = {key: reader for key, part in space.items() if (reader := _reader(part, env))}
        if len(readers) > 1:
            raise EnvError(
                f"{_name(env)} observes {len(readers)} images ({', '.join(map(str, readers))}); an agent sees exactly "
                "one. Wrap the environment so that it returns one of them."
            )
        for key, reader in readers.items():
            return lambda observation: reader(observation[key])
        return None
    if not isinstance(space, spaces.Box) or (layout := _layout(space.shape)) is None:
        return None
    low, high = float(space.low.min()), float(space.high.max())
    if space.dtype == np.uint8 and (low, high) == (0.0, 255.0):
        return layout
    if space.dtype is not None and space.dtype.kind == "f" and low == 0.0 and high in (1.0, 255.0):
        scale = 255.0 / high
        return lambda observation: layout(np.rint(np.clip(observation * scale, 0.0, 255.0)).astype(np.uint8))
    return None


def _layout(shape: tuple[int, ...]) -> Reader | None:
    """How to turn an array of this shape into `[H, W, 3]` or `[H, W]`."""
    if len(shape) == 2 and min(shape) >= SMALLEST_IMAGE:
        return lambda image: image
    if len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) >= SMALLEST_IMAGE:
        return lambda image: image if image.shape[2] == 3 else image[..., 0]
    if len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= SMALLEST_IMAGE:
        return lambda image: np.ascontiguousarray(image.transpose(1, 2, 0)) if image.shape[0] == 3 else image[0]
    return None


def _zeros(space: gym.Space[Any]) -> Any:
    # A blank observation, to learn the shape without stepping the environment.
    if isinstance(space, spaces.Dict):
        return {key: _zeros(part) for key, part in space.items()}
    return np.zeros(space.shape, space.dtype) if space.shape is not None else None


def _name(env: gym.Env[Any, Any]) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _words(space: gym.Space[Any]) -> str:
    if isinstance(space, spaces.Dict):
        return "a Dict of " + ", ".join(f"{key}: {_words(part)}" for key, part in space.items())
    if isinstance(space, spaces.Box):
        return f"{space.dtype} {list(space.shape)}"
    return str(space)
