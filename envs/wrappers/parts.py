"""Parts of an observation: the ways to them, and what they are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import gymnasium as gym
from gymnasium import spaces

Path: TypeAlias = tuple[Any, ...]
"""Keys of Dicts and places in Tuples, from an observation to one of its parts."""


def parts(space: gym.Space[Any], path: Path = ()) -> Iterator[tuple[Path, gym.Space[Any]]]:
    """Every part of a space that is no Dict and no Tuple itself, with the way to it."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
        for each, part in inner:
            yield from parts(part, (*path, each))
    else:
        yield path, space


def key(path: Path) -> str:
    """A way to a part in words, "a/eye"."""
    return "/".join(map(str, path))


def words(space: gym.Space[Any]) -> str:
    """A space in words: dtype and shape of arrays, the parts of a Dict."""
    if isinstance(space, spaces.Dict):
        return "a Dict of " + ", ".join(f"{each}: {words(part)}" for each, part in space.items())
    if isinstance(space, spaces.Tuple):
        return "a Tuple of " + ", ".join(map(words, space))
    if isinstance(space, spaces.Box):
        return f"{space.dtype} {list(space.shape)}"
    return "text" if isinstance(space, spaces.Text) else str(space)


def name(env: gym.Env[Any, Any]) -> str:
    """What an environment is called: its id, or its class where it has none."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
