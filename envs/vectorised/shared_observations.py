"""SharedObservations: a block of memory into which worker processes write what they observe, and this one reads."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from multiprocessing.heap import Arena
from multiprocessing.reduction import ForkingPickler
from typing import Any, BinaryIO

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

ALIGNMENT = 64
"""Bytes at whose multiples arrays begin: a line of a processor's cache, so that no two parts share one."""

NOW, LAST = 0, 1
"""The two places that an environment has: what it observes, and the last observation of the episode that ended."""


class SharedObservations:
    """Observations of `n_envs` environments side by side, in memory that this process and its workers see.

    The memory has no name in any folder and is known to no resource tracker: it is handed to a worker as a worker is
    started, as the pipes are, and is free when the last process that has it has ended, however that came about. Under
    Linux it counts as memory alone (`memfd_create`), so that a small /dev/shm, as containers have it, does not matter;
    elsewhere it is what multiprocessing's own `RawArray` takes.

    Who reads while another writes sees both: workers write between a command and their answer, and this side reads
    after the answers and before the next command.
    """

    def __init__(self, space: spaces.Space[Any], n_envs: int) -> None:
        """Args: `space` of one environment, see `fits`; `n_envs` of them."""
        assert self.fits(space)
        self.space, self._n_envs = space, n_envs
        size = max(1, sum(_padded(_bytes(part, n_envs)) for part in _parts(space).values()))
        self._file: BinaryIO | None = None
        if sys.platform == "win32":
            self._arena = Arena(size)
        else:
            self._file = _unnamed(size)
            self._arena = Arena(size, self._file.fileno())
        self._lay_out()

    @staticmethod
    def fits(space: spaces.Space[Any]) -> bool:
        """Whether observations of a space are arrays of one size: a Box, or a Dict of Boxes."""
        return all(isinstance(part, spaces.Box) and part.dtype != object for part in _parts(space).values())

    def _lay_out(self) -> None:
        begin = 0
        self._arrays: dict[str, NDArray[Any]] = {}
        for key, part in _parts(self.space).items():
            length = _bytes(part, self._n_envs)
            flat = np.frombuffer(self._arena.buffer, np.uint8, length, begin)
            self._arrays[key] = flat.view(part.dtype).reshape(2, self._n_envs, *part.shape)
            begin += _padded(length)

    def __getstate__(self) -> dict[str, Any]:
        # multiprocessing's own pickler hands a file over to a process that is being started; cloudpickle, by which SB3
        # pickles what it starts, does not know how.
        return {"space": self.space, "n_envs": self._n_envs, "arena": bytes(ForkingPickler.dumps(self._arena))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.space, self._n_envs, self._file = state["space"], state["n_envs"], None
        self._arena = pickle.loads(state["arena"])
        self._lay_out()

    def write(self, number: int, observation: Any, *, last: bool = False) -> None:
        """Put down what environment `number` observes, or `last` observed in an episode that has ended."""
        place = LAST if last else NOW
        if isinstance(self.space, spaces.Dict):
            for key, array in self._arrays.items():
                array[place, number] = observation[key]
        else:
            self._arrays[""][place, number] = observation

    def read(self) -> Any:
        """What all observe, arrays `[n_envs, ...]` by key or one, as copies."""
        return self._shaped({key: array[NOW].copy() for key, array in self._arrays.items()})

    def read_last(self, number: int) -> Any:
        """The last observation of an episode of environment `number`, as a copy."""
        return self._shaped({key: array[LAST, number].copy() for key, array in self._arrays.items()})

    def _shaped(self, arrays: dict[str, NDArray[Any]]) -> Any:
        return arrays if isinstance(self.space, spaces.Dict) else arrays[""]

    def handed_over(self) -> None:
        """All workers have been started: drop what only starting one needs."""
        if self._file is not None:
            self._file.close()

    def close(self) -> None:
        """Drop this process's hold on the memory."""
        self.handed_over()
        self._arrays = {}
        vars(self).pop("_arena", None)


def _parts(space: spaces.Space[Any]) -> dict[str, spaces.Box]:
    parts: dict[str, Any] = dict(space.items()) if isinstance(space, spaces.Dict) else {"": space}
    return parts


def _bytes(part: gym.Space[Any], n_envs: int) -> int:
    assert part.shape is not None
    assert part.dtype is not None
    return 2 * n_envs * int(np.prod(part.shape)) * np.dtype(part.dtype).itemsize


def _padded(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def _unnamed(size: int) -> BinaryIO:
    """A file of zeros that no folder holds."""
    file: BinaryIO
    if sys.platform == "linux":
        file = os.fdopen(os.memfd_create("stillsight"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # type: ignore[assignment]  # noqa: SIM115 - kept open until workers have it
    file.truncate(size)
    return file
