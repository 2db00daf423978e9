"""Flight: where a camera stands in the steps of an episode."""

from __future__ import annotations

import numpy as np

from stillsight.envs.shifts.mujoco.sphere import Array, between, cartesian, spherical


class Flight:
    """Where a camera stands in the steps of an episode: radius, angle about the vertical, angle from it, and roll.

    Args:
        random: what it is drawn from.
        strength: above 0.
        start: the first three as the model has them.
        down: whether it looks straight down there.
    """

    def __init__(self, random: np.random.Generator, strength: float, start: Array, *, down: bool) -> None:
        quarter, (radius, sideways, polar) = np.pi / 2 * strength, start
        self.low = np.array([radius * (1.0 - 0.5 * strength), sideways - quarter, polar - quarter, -quarter])
        self.high = np.array([radius * (1.0 + 1.5 * strength), sideways + quarter, polar + quarter, quarter])
        if not down:
            self.low[2], self.high[2] = max(self.low[2], 0.0), min(self.high[2], max(np.pi / 2, polar))
        self._random, self._strength, self._scale = random, strength, radius / 4.0
        self._sphere: Array = self.low + random.uniform(size=4) * (self.high - self.low)
        direction = random.standard_normal(3)
        self._velocity = direction / np.linalg.norm(direction) * random.uniform(0.0, 0.4 * strength)
        self._most_roll = np.pi / 50 * strength
        self._roll_velocity = random.uniform(-self._most_roll, self._most_roll)
        self._walked = -1  # the published walk moves before the first picture, too

    def place(self, step: int | None) -> Array:
        """Of a step, none earlier than that of the last call; None: where it begins."""
        while step is not None and self._walked < step:
            self._fly()
            self._walked += 1
        return self._sphere

    def _fly(self) -> None:
        """One step of the walk: a velocity that walks itself, and ends at the bounds."""
        most = 0.4 * self._strength * self._scale
        velocity = self._velocity + self._random.standard_normal(3) * 0.1 * self._strength * self._scale
        speed = float(np.linalg.norm(velocity))
        velocity = velocity * min(1.0, most / speed)
        roll = self._roll_velocity + self._random.standard_normal() * np.pi / 300 * self._strength
        roll = float(np.clip(roll, -self._most_roll, self._most_roll))
        before = cartesian(self._sphere[:3])
        there = np.append(spherical(before + velocity), self._sphere[3] + roll)
        there[1] = self._sphere[1] + between(there[1] - self._sphere[1])  # the same angle, on this side of the seam
        moved = np.clip(there, self.low, self.high)
        self._velocity = cartesian(moved[:3]) - before
        self._roll_velocity = float(moved[3] - self._sphere[3])
        self._sphere = moved
