"""The spaces of a run: what its agent sees and how it acts, kept in its folder so that it plays without its game."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillsight.agents.errors import RunError
from stillsight.agents.runs import schema
from stillsight.agents.runs.reader import read_json
from stillsight.envs.errors import EnvError
from stillsight.envs.wrappers.layout import Image, Layout, Vector

if TYPE_CHECKING:
    from gymnasium import spaces

SPACES_FILE = "spaces.json"
"""Name of the file in a run folder."""
REMOVE = "Remove it, and the environment is asked for them."
"""What to do about a damaged one."""


@dataclass(frozen=True)
class Spaces:
    """What an agent sees of one environment, before anything is encoded, and what it answers.

    Attributes:
        layout: the images, vectors and texts of the environment.
        action: of one environment as `make_env` makes it: choices are counted from 0.
        offset: what to add to an action for the game itself, whose own choices may start elsewhere; one for each choice
            of a MultiDiscrete.
    """

    layout: Layout
    action: spaces.Space[Any]
    offset: int | tuple[int, ...] = 0

    @property
    def pixels(self) -> tuple[int, int, int]:
        """(3, H, W) of an image, uint8; (3, 0, 0) where none is seen."""
        return self.layout.pixels

    def to_json(self) -> dict[str, Any]:
        """As JSON knows it; `from_json` is the inverse."""
        action = _action_to_json(self.action)
        record: dict[str, Any] = {"pixels": list(self.pixels)} if self.layout.plain else {}
        if not self.layout.plain or self.layout.texts:
            record["layout"] = {
                "images": [{"key": image.key, "shape": list(image.shape)} for image in self.layout.images],
                "vectors": [{"key": vector.key, "width": vector.width} for vector in self.layout.vectors],
                "texts": list(self.layout.texts),
                "frames": self.layout.frames,
            }
        record["action"] = action
        if self.offset:
            record["offset"] = list(self.offset) if isinstance(self.offset, tuple) else self.offset
        return record

    @classmethod
    def from_json(
        cls, record: Mapping[str, Any], what: str = f"The run's {SPACES_FILE}", advice: str = REMOVE
    ) -> Spaces:
        """What `to_json` gave.

        Args:
            record: as JSON gave it.
            what: the file that it is from, for messages.
            advice: what to do about one that is damaged.

        Raises:
            RunError: it is something else.
        """
        known: schema.SpacesRecord = schema.convert(record, schema.SpacesRecord, what, advice)
        try:
            action = _space(known.action)
        except (TypeError, ValueError, AssertionError, OverflowError) as error:
            schema.refuse(what, error, advice)
        offset = tuple(known.offset) if isinstance(known.offset, list) else known.offset
        return cls(_layout(known, what, advice), action, offset)

    @classmethod
    def read(cls, path: Path) -> Spaces:
        """What `to_json` gave and a run folder keeps in the file at `path`.

        Raises:
            RunError: it is damaged.
        """
        return cls.from_json(read_json(path, "", advice=REMOVE))


def _layout(known: schema.SpacesRecord, what: str, advice: str) -> Layout:
    """The layout in a record, in which the one image stands alone where it is all that is seen.

    Raises:
        RunError: there is none, or its parts do not go together.
    """
    told = known.layout
    if told is None and known.pixels is None:
        schema.refuse(what, "it says neither pixels nor layout", advice)
    try:
        if told is None:
            assert known.pixels is not None
            return Layout(images=(Image("", known.pixels),))
        images = tuple(Image(image.key, image.shape) for image in told.images)
        vectors = tuple(Vector(vector.key, vector.width) for vector in told.vectors)
        layout = Layout(images=images, vectors=vectors, texts=tuple(told.texts), frames=told.frames)
    except EnvError as error:
        schema.refuse(what, error, advice)
    if (known.pixels is not None) != layout.plain or known.pixels not in (None, layout.pixels):
        schema.refuse(what, f"its pixels are {known.pixels}, and its layout has {layout}", advice)
    if not layout.plain and "" in {*(image.key for image in layout.images), *(vector.key for vector in layout.vectors)}:
        schema.refuse(what, "a part of its layout has no key", advice)
    return layout


def _action_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.Box):
        bounds = {"low": space.low.tolist(), "high": space.high.tolist()}
        return {"kind": "Box", **bounds, "shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "n": list(space.shape) if isinstance(space.n, tuple) else int(space.n)}
    raise RunError(f"An action space {space} cannot be kept in a run folder. Known: Discrete, Box, MultiDiscrete.")


def _space(action: schema.Discrete | schema.Box | schema.MultiDiscrete | schema.MultiBinary) -> spaces.Space[Any]:
    """The space that a checked record is of.

    Raises:
        TypeError, ValueError, AssertionError, OverflowError: its numbers are no space.
    """
    import numpy as np
    from gymnasium import spaces

    if isinstance(action, schema.Discrete):
        return spaces.Discrete(action.n, start=action.start)
    if isinstance(action, schema.Box):
        dtype = np.dtype(action.dtype)
        if math.prod(action.shape) > schema.MOST_CHOICES:
            raise ValueError(f"its shape {action.shape} has more than {schema.MOST_CHOICES:,} numbers")
        low, high = (np.array(bounds, dtype).reshape(action.shape) for bounds in (action.low, action.high))
        if not (low <= high).all():
            raise ValueError("its bounds are no bounds")
        return spaces.Box(low, high, dtype=dtype.type)
    if isinstance(action, schema.MultiDiscrete):
        choices = np.array(action.nvec, np.int64)
        if choices.sum() > schema.MOST_CHOICES or (choices < 1).any():
            raise ValueError(f"it has choices of {int(choices.min())} or more than {schema.MOST_CHOICES:,} in all")
        return spaces.MultiDiscrete(choices, start=np.array(action.start, np.int64))
    if isinstance(action.n, list) and math.prod(action.n) > schema.MOST_CHOICES:
        raise ValueError(f"its shape {action.n} has more than {schema.MOST_CHOICES:,} switches")
    return spaces.MultiBinary(action.n)
