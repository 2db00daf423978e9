"""Pixels: the one form of every environment, uint8 `[3, H, W]` and vectors beside it, and frames to film."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import gymnasium as gym
import numpy as np

from stillsight.envs.errors import EnvFault
from stillsight.envs.spec import OwnImage
from stillsight.envs.wrappers import layout
from stillsight.envs.wrappers.guard import Guard, Part
from stillsight.envs.wrappers.layout import Layout, Observation
from stillsight.envs.wrappers.parts import name
from stillsight.envs.wrappers.picture import Image, Picture
from stillsight.envs.wrappers.seen import Seen, SeenParts, resized
from stillsight.envs.wrappers.sight import sight


class Pixels(gym.ObservationWrapper[Any, Any, Any]):
    """Shows an environment as uint8 `[3, H, W]`, 0..255, RGB, whatever the form its image has underneath.

    Taken as images, each side at least 16 pixels, in the shapes `[H, W, 3]`, `[3, H, W]`, `[H, W, 1]`, `[1, H, W]` and
    `[H, W]` (grey is repeated to three channels): uint8 or other whole numbers 0..255, and floats 0..1, 0..255, -1..1
    or -0.5..0.5. So is the one image of a Dict or Tuple, whose other parts are dropped, and the newest frame of
    Gymnasium's `FrameStackObservation`. What looks like an image and is none of these is refused. Anything else, such
    as a state vector or a small table of symbols, is replaced by what `render()` shows. `seen` says which it is. Where
    `own` names the image that an environment is known to observe, it is never replaced, and refused where it is small.

    Where `pixels` names several images or none, or `state` names vectors, an observation is a dict of images uint8
    `[3, H, W]` and vectors float32 `[D]`; see `EnvOptions` for both.

    `size` resizes to a square of that many pixels with `cv2.INTER_AREA`; 0 keeps the native size.

    `render()` gives the environment's own frame, uint8 `[H, W, 3]`, or the last observation where it has none, several
    images side by side.

    Raises `EnvError` for several images of which none is named, for an image whose meaning is not clear, and for an
    environment that neither observes nor renders one; while it plays, `EnvFault` for what `Guard` finds.

    Attributes:
        seen: what an agent sees, from where, at which size, and what is dropped, in words.
        layout: the same for programs, with the keys of texts.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        size: int = 0,
        pixels: Sequence[str] = (),
        state: Sequence[str] = (),
        own: OwnImage | None = None,
    ) -> None:
        found = sight(env, pixels, state, own)
        alone = len(found.eyes) == 1 and not found.senses
        looked_at = [Part(eye.pick, eye.space, key="" if alone else eye.key) for eye in found.eyes]
        looked_at += [Part(sense.pick, sense.space, image=False, key=sense.key) for sense in found.senses]
        super().__init__(Guard(found.env, looked_at))
        self._eyes, self._senses, self._size = found.eyes, found.senses, size
        images, seen = [], []
        for eye in found.eyes:
            blank = self._shown(np.zeros(eye.space.shape, eye.space.dtype), eye.picture)
            images.append(layout.Image("" if alone else eye.key, blank.shape))
            seen.append(resized(eye.seen, (blank.shape[1], blank.shape[2])))
            self._last: Image | None = blank
        if not found.eyes:
            self._last = None
        vectors = [layout.Vector(sense.key, sense.numbers.width) for sense in found.senses]
        self.layout = Layout(images=tuple(images), vectors=tuple(vectors), texts=found.texts)
        self.observation_space = self.layout.space
        told = tuple(sense.words for sense in found.senses)
        self.seen: Seen | SeenParts = (
            seen[0] if alone else SeenParts(images=tuple(seen), vectors=told, dropped=found.dropped)
        )

    @property
    def render_mode(self) -> str:  # type: ignore[override]
        """Always `rgb_array`: an environment that cannot render shows what it observes."""
        return "rgb_array"

    @property
    def films_what_is_seen(self) -> bool:
        """Whether `render()` gives the last observation, for want of frames of the environment's own."""
        return self.env.render_mode != "rgb_array"

    def observation(self, observation: Any) -> Observation:
        """The environment's own observation as uint8 `[3, H, W]`, or as a dict of images and vectors."""
        if self.layout.plain:
            eye = self._eyes[0]
            self._last = self._shown(eye.pick(observation), eye.picture)
            return self._last
        images = {eye.key: self._shown(eye.pick(observation), eye.picture) for eye in self._eyes}
        if images:
            self._last = np.concatenate(list(images.values()), axis=2)
        return {**images, **{sense.key: sense.numbers.read(sense.pick(observation)) for sense in self._senses}}

    def _shown(self, array: Any, picture: Picture) -> Image:
        image = picture.read(array)
        if self._size and image.shape[:2] != (self._size, self._size):
            image = cv2.resize(image, (self._size, self._size), interpolation=cv2.INTER_AREA).astype(np.uint8)
        if image.ndim == 2:
            image = np.broadcast_to(image[..., None], (*image.shape, 3))
        shown = np.ascontiguousarray(image.transpose(2, 0, 1))
        # Environments may draw every frame into one array: the last of an episode would become the next one's first.
        return shown.copy() if np.may_share_memory(shown, array) else shown

    def render(self) -> Image | None:
        """A frame to film, uint8 `[H, W, 3]`, or None from an environment that promises frames and gives none."""
        if not self.films_what_is_seen:
            frame: Any = self.env.render()
            return None if frame is None else film_frame(frame, name(self))
        return None if self._last is None else self._last.transpose(1, 2, 0).copy()


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
