"""Orchard: the project's own pixel environment. Fruit and hazards fall; catch the first, dodge the second.

It needs numpy and nothing else, an episode is about 90 steps, and the best return is known exactly, so it serves for a
first run in a minute, for tests, and for experiments in which perception is the hard part: fruit and hazards share
their colours, so only shape and texture tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stillsight.envs.orchard import scenery

OBJECTS = 10
"""Objects in an episode."""
FRUITS = 6
"""How many of them are fruit; the order is random."""
BEST_RETURN = 6.0
"""Every fruit caught, every hazard dodged. Always possible, from any position of the basket."""

SPEED = 5.0
"""Pixels that the basket moves in one step at full speed."""
REACH = 6.0
"""An object is caught when its centre lands within this many pixels of the basket's centre."""
LEFT, RIGHT = 6.0, 41.0
"""Range of the centres of basket and objects in pixels: both stay wholly inside the frame."""
TOP, RIM = 6.0, 38.0
"""Rows, in pixels, at which an object's centre appears and lands."""
SHORTEST_FALL, LONGEST_FALL = 7, 9
"""Steps from appearing to landing, drawn per object."""

# The promise behind BEST_RETURN: even the fastest object at the far side can be reached.
assert SPEED * SHORTEST_FALL + REACH >= RIGHT - LEFT

STATE_SIZE = 3 + len(scenery.KINDS)

_KEPT = (
    *("_kinds", "_hues", "_columns", "_falls", "_background"),
    *("_basket", "_object", "_fallen", "_caught", "_stung"),
)
"""Attributes of an episode."""


class Orchard(gym.Env[NDArray[np.uint8], Any]):
    """Catch fruit (+1), dodge stones and wasps (-1), ignore nothing: an episode is 10 objects, 6 of them fruit.

    - Observation: uint8 `[48, 48, 3]`, RGB, 0..255.
    - Action: `Discrete(3)` (left, stay, right), or with `continuous=True` a float32 `Box(-1, 1, (1,))`, the velocity as
      a part of full speed (5 pixels a step; negative is left).
    - Reward: on the step in which an object lands in the basket, +1 for fruit and -1 for a hazard; otherwise 0.
    - End: terminated when the tenth object has landed, after 79..99 steps. Never truncated.
    - `info["state"]`: float32 `[8]`, see `state`. `info["caught"]`, `info["stung"]`: fruit and hazards caught so far.
    - `render()`: uint8 `[192, 192, 3]`, each pixel four times as wide and high.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 - Gymnasium's own way

    def __init__(self, render_mode: str | None = None, continuous: bool = False) -> None:
        self.render_mode = render_mode
        self.continuous = continuous
        self.observation_space = spaces.Box(0, 255, (scenery.SIZE, scenery.SIZE, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """A new scene and a new order of objects, drawn from `seed` or from where the generator stands."""
        super().reset(seed=seed, options=options)
        random = self.np_random
        is_fruit = random.permutation(OBJECTS) < FRUITS
        fruits, hazards = len(scenery.FRUIT), len(scenery.HAZARDS)
        self._kinds = np.where(
            is_fruit, random.integers(0, fruits, OBJECTS), fruits + random.integers(0, hazards, OBJECTS)
        )
        self._hues = random.integers(0, len(scenery.HUES), OBJECTS)
        self._columns = random.integers(int(LEFT), int(RIGHT) + 1, OBJECTS)
        self._falls = random.integers(SHORTEST_FALL, LONGEST_FALL + 1, OBJECTS)
        self._background = scenery.background(random)
        self._basket = float(random.integers(int(LEFT), int(RIGHT) + 1))
        self._object = 0
        self._fallen = 0  # steps since the present object appeared
        self._caught = 0
        self._stung = 0
        return self._frame(), self._info()

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Move the basket, let the object fall by one step, and score it if it lands."""
        velocity = float(np.clip(action[0], -1.0, 1.0)) if self.continuous else float(action) - 1.0
        self._basket = min(max(self._basket + SPEED * velocity, LEFT), RIGHT)
        # The frame in which an object lands is shown, too: the next one appears a step later.
        if self._fallen == self._falls[self._object]:
            self._object += 1
            self._fallen = 0
        else:
            self._fallen += 1
        reward = 0.0
        landed = bool(self._fallen == self._falls[self._object])
        if landed and abs(self._columns[self._object] - self._basket) <= REACH:
            if self.falling_fruit:
                reward, self._caught = 1.0, self._caught + 1
            else:
                reward, self._stung = -1.0, self._stung + 1
        terminated = landed and self._object == OBJECTS - 1
        return self._frame(), reward, terminated, False, self._info()

    def render(self) -> NDArray[np.uint8] | None:
        """The present frame for people, uint8 `[192, 192, 3]`; `None` without `render_mode="rgb_array"`."""
        if self.render_mode != "rgb_array":
            return None
        return self._frame().repeat(4, axis=0).repeat(4, axis=1)

    def snapshot(self) -> dict[str, Any]:
        """All that decides how the episode goes on, beside the random generator; see `stillsight.envs.state`."""
        return {field: getattr(self, field) for field in _KEPT}

    def restore_snapshot(self, values: Mapping[str, Any]) -> None:
        """Go on where `snapshot` was taken. Raises `ValueError` for what none of its episodes holds."""
        rows = {field: np.asarray(values[field]) for field in _KEPT[:4]}
        background = np.asarray(values["_background"])
        if any(row.shape != (OBJECTS,) or row.dtype.kind != "i" for row in rows.values()):
            raise ValueError(f"an episode of Orchard has {OBJECTS} objects")
        if background.shape != (scenery.SIZE, scenery.SIZE, 3) or background.dtype != np.uint8:
            raise ValueError(f"a scene of Orchard is uint8 [{scenery.SIZE}, {scenery.SIZE}, 3]")
        if not 0 <= int(values["_object"]) < OBJECTS:
            raise ValueError(f"object {values['_object']} is none of Orchard's {OBJECTS}")
        self._kinds, self._hues, self._columns, self._falls = rows.values()
        self._background, self._basket = background, float(values["_basket"])
        self._object, self._fallen = int(values["_object"]), int(values["_fallen"])
        self._caught, self._stung = int(values["_caught"]), int(values["_stung"])

    @property
    def falling_fruit(self) -> bool:
        """Whether the present object is fruit."""
        return bool(self._kinds[self._object] < len(scenery.FRUIT))

    @property
    def state(self) -> NDArray[np.float32]:
        """What the pixels show, in numbers: float32 `[8]`, each 0..1.

        Basket x, object x and object y as parts of the frame's side, then the object's kind, one-hot in the order of
        `scenery.KINDS` (apple, pear, cherries, stone, wasp).
        """
        state = np.zeros(STATE_SIZE, np.float32)
        state[:3] = self._basket, self._columns[self._object], self._row
        state[:3] /= scenery.SIZE
        state[3 + self._kinds[self._object]] = 1.0
        return state

    def oracle_action(self) -> int | NDArray[np.float32]:
        """The action of a player who knows the state; it earns `BEST_RETURN` in every episode."""
        target = self._basket
        column = float(self._columns[self._object])
        if self.falling_fruit:
            target = column
        elif abs(column - self._basket) <= REACH + 1.0:
            # Towards the side with more room, where there is always enough of it to get clear.
            target = RIGHT if column < (LEFT + RIGHT) / 2 else LEFT
        distance = target - self._basket
        if self.continuous:
            return np.clip(np.array([distance / SPEED], np.float32), -1.0, 1.0)
        return 1 if abs(distance) <= SPEED / 2 else 2 if distance > 0 else 0

    @property
    def _row(self) -> float:
        """Row of the object's centre in pixels."""
        return float(TOP + (RIM - TOP) * self._fallen / self._falls[self._object])

    def _frame(self) -> NDArray[np.uint8]:
        frame = self._background.copy()
        sprite = scenery.sprites()[self._kinds[self._object]][self._hues[self._object]]
        scenery.place(frame, sprite, round(self._row), int(self._columns[self._object]))
        # The basket is drawn last, so that what it catches drops behind its rim.
        scenery.place(frame, scenery.basket(), round(RIM) + 4, round(self._basket))
        return frame

    def _info(self) -> dict[str, Any]:
        return {"state": self.state, "caught": self._caught, "stung": self._stung}
