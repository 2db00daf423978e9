"""The spaces of a run: what its agent sees and how it acts, kept in its folder so that it plays without its game."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillsight.agents.errors import RunError

if TYPE_CHECKING:
    from gymnasium import spaces

SPACES_FILE = "spaces.json"
"""Name of the file in a run folder."""


@dataclass(frozen=True)
class Spaces:
    """What an agent sees of one environment, before anything is encoded, and what it answers.

    Attributes:
        pixels: (3, H, W) of an image, uint8.
        action: of one environment as `make_env` makes it: choices are counted from 0.
        offset: what to add to an action for the game itself, whose own choices may start elsewhere; one for each choice
            of a MultiDiscrete.
    """

    pixels: tuple[int, int, int]
    action: spaces.Space[Any]
    offset: int | tuple[int, ...] = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON knows it; `from_json` is the inverse."""
        record: dict[str, Any] = {"pixels": list(self.pixels), "action": _action_to_json(self.action)}
        if self.offset:
            record["offset"] = list(self.offset) if isinstance(self.offset, tuple) else self.offset
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Spaces:
        """What `to_json` gave.

        Raises:
            RunError: it is something else.
        """
        try:
            channels, height, width = (int(side) for side in record["pixels"])
            offset = record.get("offset", 0)
            offset = tuple(map(int, offset)) if isinstance(offset, list) else int(offset)
            return cls((channels, height, width), _action_from_json(record["action"]), offset)
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise RunError(
                f"The run's {SPACES_FILE} is damaged ({error}). Remove it, and the environment is asked for them."
            ) from error


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


def _action_from_json(record: Mapping[str, Any]) -> spaces.Space[Any]:
    import numpy as np
    from gymnasium import spaces

    kind = record["kind"]
    if kind == "Discrete":
        return spaces.Discrete(record["n"], start=record["start"])
    if kind == "Box":
        dtype = np.dtype(record["dtype"])
        low, high = (np.array(record[name], dtype).reshape(record["shape"]) for name in ("low", "high"))
        return spaces.Box(low, high, dtype=dtype.type)
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.array(record["nvec"]), start=np.array(record["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(record["n"])
    raise ValueError(f"an action space of the kind {kind!r} is not known")
