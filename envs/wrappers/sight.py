"""Sight: which image an agent sees of an environment, how it is read, and what of the rest is dropped, in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from stillsight.envs.errors import EnvError
from stillsight.envs.wrappers.picture import SMALLEST_IMAGE, Picture, read_picture

Path: TypeAlias = tuple[Any, ...]
"""Keys of Dicts and places in Tuples, from an observation to one of its parts."""

LARGE = 128 * 128
"""Pixels above which the words say how to see fewer."""

WANTED = (
    "An agent sees one image: uint8 0..255 or float 0..1, 0..255 or -1..1, [H, W, 3], [3, H, W] or [H, W], at least "
    f"{SMALLEST_IMAGE} pixels a side."
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What an agent sees of an environment; `str` says it in words.

    Attributes:
        source: "observation", or "rendering" where `render()` takes the place of what is observed.
        key: of the part of a Dict or Tuple, "a/eye"; empty for a whole observation.
        form: dtype and shape as the environment has it, "uint8 [210, 160, 3]".
        native: height and width of the image in pixels.
        size: height and width as they are shown.
        changes: what is done to an image beside resizing, in words.
        dropped: what the environment observes and the agent does not see, "speed (float32 [4])".
    """

    source: Literal["observation", "rendering"]
    key: str = ""
    form: str
    native: tuple[int, int]
    size: tuple[int, int]
    changes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        part = f" {self.key!r}" if self.key else ""
        where = f"the observation{part}" if self.source == "observation" else "what render() draws"
        height, width = self.native
        if self.size == self.native:
            size = f"{height} x {width} pixels, as they are"
            large = height * width > LARGE
            size += " (--size 84 makes fewer of them)" if large else ""
        else:
            squeezed = height * self.size[1] != width * self.size[0]
            size = f"{height} x {width} pixels, resized to {self.size[0]} x {self.size[1]}"
            size += ", which changes their proportions" if squeezed else ""
        words = [f"{where}, {self.form}: {size}", *self.changes]
        return "; ".join(words) + (f". Not seen: {', '.join(self.dropped)}" if self.dropped else "")


class Sight(NamedTuple):
    """Where the image of an environment is found, and how it is read.

    Attributes:
        env: the environment, which renders where it observes no image.
        pick: from an observation of `env` to the array that holds the image.
        space: of that array.
        picture: how the array is read.
        seen: the words for it, at native size.
    """

    env: gym.Env[Any, Any]
    pick: Callable[[Any], Any]
    space: spaces.Box
    picture: Picture
    seen: Seen


def sight(env: gym.Env[Any, Any]) -> Sight:
    """What an agent sees of `env`.

    Raises `EnvError` for several images, for an observation that looks like an image and whose meaning is not clear,
    and for an environment that neither observes nor renders an image.
    """
    stack = _frame_stack(env)
    space = env.observation_space if stack is None else stack.env.observation_space
    images: list[tuple[Path, spaces.Box, Picture]] = []
    unclear: list[tuple[Path, str]] = []
    for path, part in parts(space):
        picture = read_picture(part)
        if isinstance(picture, str):
            unclear.append((path, picture))
        elif picture is not None:
            assert isinstance(part, spaces.Box)
            images.append((path, part, picture))
    if len(images) > 1:
        raise EnvError(
            f"{name(env)} observes {len(images)} images ({', '.join(key(path) for path, _, _ in images)}); an agent "
            "sees exactly one. Wrap the environment so that it returns one of them."
        )
    if not images and unclear:
        path, why = unclear[0]
        where = f" under {key(path)!r}" if path else ""
        raise EnvError(
            f"{name(env)} observes {words(env.observation_space)}, which looks like an image{where} and is not clear: "
            f"{why}. {WANTED} Wrap the environment so that it gives one; to see what it renders in place of it, wrap "
            "it in gymnasium.wrappers.AddRenderObservation(env, render_only=True)."
        )
    if not images:
        return _rendered(env)
    path, box, picture = images[0]
    changes = picture.changes
    if stack is not None:
        changes = (f"the newest of {stack.stack_size} frames, and --frame-stack stacks them", *changes)
    dropped = tuple(f"{key(p)} ({words(part)})" for p, part in parts(space) if p != path)
    seen = Seen(
        source="observation",
        key=key(path),
        form=words(box),
        native=picture.native,
        size=picture.native,
        changes=changes,
        dropped=dropped,
    )
    return Sight(env, _picker(path, newest=stack is not None), box, picture, seen)


def parts(space: gym.Space[Any], path: Path = ()) -> Iterator[tuple[Path, gym.Space[Any]]]:
    """Every part of a space that is no Dict and no Tuple itself, with the way to it."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
        for each, part in inner:
            yield from parts(part, (*path, each))
    else:
        yield path, space


def _frame_stack(env: gym.Env[Any, Any]) -> gym.wrappers.FrameStackObservation[Any, Any, Any] | None:
    """Gymnasium's own wrapper that stacks frames, where it gives what `env` observes: then the first axis is time."""
    inner: Any = env
    while isinstance(inner, gym.Wrapper):
        if isinstance(inner, gym.wrappers.FrameStackObservation):
            return inner if inner.observation_space == env.observation_space else None
        inner = inner.env
    return None


def _picker(path: Path, *, newest: bool) -> Callable[[Any], Any]:
    """How to find the part of an observation at `path`, the last frame of it where it is a stack."""
    if not path and not newest:
        return lambda observation: observation

    def pick(observation: Any) -> Any:
        for each in path:
            observation = observation[each]
        return observation[-1] if newest else observation

    return pick


DISPLAY = re.compile(r"display|opengl|glfw|\begl|osmesa|\bglx\b|\bx11\b|mujoco_gl|gl context|video device")
"""What the errors of drawing libraries that found no screen to draw on have in them."""


def _rendered(env: gym.Env[Any, Any]) -> Sight:
    """`env` with `render()` in place of its observation, or the sentence that says why not."""
    subject = f"{name(env)} observes {words(env.observation_space)}, which is no image,"
    wanted = (
        "stillsight needs one image: uint8 or float, [H, W, 3], [3, H, W] or [H, W], at least "
        f"{SMALLEST_IMAGE} pixels a side, or an environment that renders rgb_array."
    )
    if env.render_mode != "rgb_array":
        offered = ", ".join(map(str, env.metadata.get("render_modes") or ())) or "nothing"
        raise EnvError(f"{subject} and cannot render rgb_array (it offers {offered}). {wanted}")
    # Some fix their camera by where things are at the first picture (Gymnasium's MuJoCo robots): by one seed for all
    # copies, else the pixels of an episode would depend on chance, and on who else was made.
    env.reset(seed=0)
    try:
        frame: Any = env.render()
    except Exception as error:
        if (sentence := no_display(name(env), error)) is None:
            raise
        raise EnvError(sentence) from error
    if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3):
        shape = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise EnvError(f"{subject} and renders {shape} in place of uint8 [H, W, 3]. {wanted}")
    drawn = gym.wrappers.AddRenderObservation(env, render_only=True)
    space = drawn.observation_space
    native = (frame.shape[0], frame.shape[1])
    assert isinstance(space, spaces.Box)
    dropped = tuple(
        f"the observation {key(path)!r} ({words(part)}{_symbols(part)})"
        if path
        else f"the observation ({words(part)}{_symbols(part)})"
        for path, part in parts(env.observation_space)
    )
    seen = Seen(source="rendering", form=words(space), native=native, size=native, dropped=dropped)
    return Sight(drawn, lambda observation: observation, space, Picture(native, lambda image: image, ()), seen)


def no_display(subject: str, error: BaseException) -> str | None:
    """The sentence for an environment that found no screen to draw on; None for other errors."""
    told = f"{type(error).__name__}: {error}"
    if isinstance(error, TypeError) or not DISPLAY.search(told.lower()):
        return None
    return (
        f"{subject} cannot draw here ({' '.join(told.split())}). A machine without a screen draws through EGL or "
        "OSMesa: type MUJOCO_GL=egl before the command, or MUJOCO_GL=osmesa; for other environments, xvfb-run."
    )


def _symbols(space: gym.Space[Any]) -> str:
    """What is said of an array that has the form of an image and is none."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 3 or 3 not in (space.shape[0], space.shape[2]):
        return ""
    return ", a table of symbols and no picture"


def key(path: Path) -> str:
    """A way to a part in words, "a/eye"."""
    return "/".join(map(str, path))


def name(env: gym.Env[Any, Any]) -> str:
    """What an environment is called: its id, or its class where it has none."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def words(space: gym.Space[Any]) -> str:
    """A space in words: dtype and shape of arrays, the parts of a Dict."""
    if isinstance(space, spaces.Dict):
        return "a Dict of " + ", ".join(f"{each}: {words(part)}" for each, part in space.items())
    if isinstance(space, spaces.Tuple):
        return "a Tuple of " + ", ".join(map(words, space))
    if isinstance(space, spaces.Box):
        return f"{space.dtype} {list(space.shape)}"
    return "text" if isinstance(space, spaces.Text) else str(space)


def resized(seen: Seen, size: tuple[int, int]) -> Seen:
    """The same sight, shown at another height and width."""
    return replace(seen, size=size)
