"""Colours: a scene's colours drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from stillsight.envs.shifts.mujoco.canvas import Canvas, View
from stillsight.envs.shifts.mujoco.scene import MujocoScene
from stillsight.envs.shifts.mujoco.sphere import Array

_DEFAULT = (0.5, 0.5, 0.5, 1.0)
"""A geom's colour in MuJoCo unless it has one of its own; then its material's is drawn."""


class Colours(MujocoScene):
    """All colours of materials, and of geoms that have their own, drawn anew for each episode from those that are up to
    `strength` of full scale away in each channel and in range (Distracting Control Suite, `max_delta`)."""

    drift: ClassVar[float] = 0.0
    """Standard deviation of a step of the walk, as a part of the strength."""

    def hang(self, there: Canvas) -> None:
        """Know which colours there are, and how far each may go."""
        super().hang(there)
        model, strength = there.model, self._strength
        own = (model.geom_rgba != np.array(_DEFAULT, np.float32)).any(1) | (model.geom_matid < 0)
        self._geoms = np.flatnonzero(own)
        plain = np.concatenate([model.mat_rgba[:, :3], model.geom_rgba[self._geoms, :3]]).astype(np.float64)
        self._low, self._high = np.clip(plain - strength, 0.0, 1.0), np.clip(plain + strength, 0.0, 1.0)

    def begin(self, random: np.random.Generator) -> None:
        """Draw them."""
        self._now = self._low + random.uniform(size=self._low.shape) * (self._high - self._low)
        self._random, self._walked = random, 0

    def colours(self) -> Array:
        """Of this step, `[materials + geoms of their own, 3]`, 0..1."""
        while self.drift and self._walked < self._step:
            step = self._random.standard_normal(self._now.shape) * self.drift * self._strength
            self._now = np.clip(self._now + step, self._low, self._high)
            self._walked += 1
        return self._now

    def put(self, view: View) -> Callable[[], None]:
        """Give them to the model."""
        model, colours = view.model, self.colours()
        before = model.mat_rgba.copy(), model.geom_rgba.copy()
        model.mat_rgba[:, :3] = colours[: model.nmat]
        model.geom_rgba[self._geoms, :3] = colours[model.nmat :]

        def back() -> None:
            model.mat_rgba[:], model.geom_rgba[:] = before

        return back


class DriftingColours(Colours):
    """The same, and each channel walks on by a normal step of 3 % of the strength (the dynamic setting)."""

    drift = 0.03
