"""Sight: which image an agent sees of an environment, how it is read, and what of the rest is dropped, in words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stillsight.envs.errors import EnvError, did_you_mean
from stillsight.envs.options import OFF, ON, RENDERING
from stillsight.envs.wrappers.numbers import MOST_NUMBERS, Numbers, read_numbers
from stillsight.envs.wrappers.picture import SMALLEST_IMAGE, Picture, read_one_channel, read_picture

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


@dataclass(frozen=True, kw_only=True)
class SeenParts:
    """What an agent sees of an environment where that is more than one image; `str` says it in words.

    Attributes:
        images: in the order of their keys.
        vectors: "joints (float32 [7])", in the order of their keys.
        dropped: what the environment observes and the agent does not see.
    """

    images: tuple[Seen, ...]
    vectors: tuple[str, ...]
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [str(image) for image in self.images]
        words += [f"the numbers of {', '.join(self.vectors)}"] if self.vectors else []
        return " + ".join(words) + (f". Not seen: {', '.join(self.dropped)}" if self.dropped else "")


Pick: TypeAlias = Callable[[Any], Any]
"""From an observation to a part of it."""


class Eye(NamedTuple):
    """An image of an environment.

    Attributes:
        key: that it is known by.
        pick: from an observation to the array that holds it.
        space: of that array.
        picture: how the array is read.
        seen: the words for it, at native size.
    """

    key: str
    pick: Pick
    space: spaces.Box
    picture: Picture
    seen: Seen


class Sense(NamedTuple):
    """A vector of an environment.

    Attributes:
        key: that it is known by.
        pick: from an observation to what holds it.
        space: of that.
        numbers: how it is read.
        words: for it.
    """

    key: str
    pick: Pick
    space: gym.Space[Any]
    numbers: Numbers
    words: str


class Sight(NamedTuple):
    """What an agent sees of an environment, where it is found, and how it is read.

    Attributes:
        env: the environment, which renders where the rendering is seen.
        eyes, senses: its images and its vectors, in the order of their keys.
        texts: keys of what is text.
        dropped: what is not seen, in words.
    """

    env: gym.Env[Any, Any]
    eyes: tuple[Eye, ...]
    senses: tuple[Sense, ...]
    texts: tuple[str, ...]
    dropped: tuple[str, ...]


WHOLE = "observation"
"""Key of an observation that has no parts, where it stands beside the rendering."""


class _Part(NamedTuple):
    """A part of an observation: the way to it, its space, and how it is read as an image, or why that is not clear."""

    path: Path
    space: gym.Space[Any]
    picture: Picture | str | None

    @property
    def key(self) -> str:
        return key(self.path) if self.path else WHOLE


def sight(env: gym.Env[Any, Any], pixels: Sequence[str] = (), state: Sequence[str] = ()) -> Sight:
    """What an agent sees of `env`.

    Args:
        env: with any observation.
        pixels, state: see `EnvOptions`.

    Raises `EnvError` for several images of which none is named, for an observation that looks like an image and whose
    meaning is not clear, for an environment that neither observes nor renders an image, and for names of parts that
    there are not.
    """
    pixels, state = tuple(pixels), tuple(state)
    stack = _frame_stack(env)
    space = env.observation_space if stack is None else stack.env.observation_space
    every = [_Part(path, part, read_picture(part)) for path, part in parts(space)]
    chosen = _chosen_images(env, every, pixels)
    vectors = _chosen_vectors(env, every, [part for part in chosen if part is not None], state)
    texts = tuple(sorted(part.key for part in every if isinstance(part.space, spaces.Text)))
    if chosen == [None] and not vectors:
        return _rendered(env, texts)
    shown: gym.Env[Any, Any] = env
    above: Path = ()
    if None in chosen:
        _drawn(env)
        shown = gym.wrappers.AddRenderObservation(env, render_only=False, render_key=RENDERING, obs_key=WHOLE)
        if not isinstance(env.observation_space, spaces.Dict):
            above = (WHOLE,)
    taken = {part.path for part in (*chosen, *vectors) if part is not None}
    dropped = tuple(f"{part.key} ({words(part.space)})" for part in every if part.path not in taken)
    alone = len(chosen) == 1 and not vectors
    eyes = []
    for part in chosen:
        if part is None:
            box = shown.observation_space[RENDERING]  # type: ignore[index]
            native = (int(box.shape[0]), int(box.shape[1]))
            seen = Seen(source="rendering", form=words(box), native=native, size=native)
            picture = Picture(native, lambda image: image, ())
            eyes.append(Eye(RENDERING, _picker((RENDERING,), newest=False), box, picture, seen))
            continue
        assert isinstance(part.picture, Picture)
        assert isinstance(part.space, spaces.Box)
        native, changes = part.picture.native, part.picture.changes
        if stack is not None:
            changes = (f"the newest of {stack.stack_size} frames, and --frame-stack stacks them", *changes)
        seen = Seen(
            source="observation",
            key=key(part.path),
            form=words(part.space),
            native=native,
            size=native,
            changes=changes,
            dropped=dropped if alone else (),
        )
        pick = _picker((*above, *part.path), newest=stack is not None)
        eyes.append(Eye(part.key, pick, part.space, part.picture, seen))
    senses = [_sense(part, _picker((*above, *part.path), newest=stack is not None)) for part in vectors]
    return Sight(shown, _in_order(eyes), _in_order(senses), texts, dropped)


Found = TypeVar("Found", Eye, Sense)


def _in_order(found: Sequence[Found]) -> tuple[Found, ...]:
    return tuple(sorted(found, key=lambda one: one.key))


def _sense(part: _Part, pick: Pick) -> Sense:
    numbers = read_numbers(part.space)
    assert numbers is not None
    told = f"{part.key} ({words(part.space)}{f', {numbers.changes}' if numbers.changes else ''}{_symbols(part.space)})"
    return Sense(part.key, pick, part.space, numbers, told)


def _chosen_images(env: gym.Env[Any, Any], every: Sequence[_Part], named: Sequence[str]) -> list[_Part | None]:
    """The images that are seen; None stands for the rendering."""
    if named == (OFF,):
        return []
    clear = [part for part in every if isinstance(part.picture, Picture)]
    if named:
        return [_named_image(env, every, one) for one in dict.fromkeys(named)]
    if len(clear) > 1:
        keys = [part.key for part in clear]
        raise EnvError(
            f"{name(env)} observes {len(clear)} images ({', '.join(keys)}), and which of them an agent is to see is "
            f"not said. Type --pixels {shlex.join(keys)} for all of them, or name one: --pixels {shlex.quote(keys[0])}"
        )
    if clear:
        return [clear[0]]
    unclear = [part for part in every if isinstance(part.picture, str)]
    if len(unclear) == 1 and isinstance(single := read_one_channel(unclear[0].space), Picture):
        return [unclear[0]._replace(picture=single)]
    if unclear:
        path, _, why = unclear[0]
        where = f" under {key(path)!r}" if path else ""
        raise EnvError(
            f"{name(env)} observes {words(env.observation_space)}, which looks like an image{where} and is not clear: "
            f"{why}. {WANTED} Wrap the environment so that it gives one; to see what it renders in place of it, type "
            f"--pixels {RENDERING}, or wrap it in gymnasium.wrappers.AddRenderObservation(env, render_only=True)."
        )
    return [None]


def _named_image(env: gym.Env[Any, Any], every: Sequence[_Part], named: str) -> _Part | None:
    """The part that is called `named`, as an image; None for the rendering."""
    part = next((part for part in every if part.key == named), None)
    if part is None and named == RENDERING:
        return None
    images = [part.key for part in every if _as_image(part.space, part.picture) is not None]
    offered = f"It has {', '.join([*images, f'{RENDERING} (what render() draws)'])}"
    if part is None:
        raise EnvError(
            f"{name(env)} observes no image {named!r}.{did_you_mean(named, [*images, RENDERING])} {offered}. Type, "
            f"say: --pixels {shlex.quote((images or [RENDERING])[0])}"
        )
    picture = _as_image(part.space, part.picture)
    if isinstance(picture, Picture):
        return part._replace(picture=picture)
    why = picture or f"it is {words(part.space)}"
    also = f", or see it as numbers: --state {shlex.quote(named)}" if read_numbers(part.space) is not None else ""
    raise EnvError(f"{named!r} of {name(env)} cannot be seen as an image: {why}. {offered}. Name one of these{also}.")


def _as_image(space: gym.Space[Any], picture: Picture | str | None) -> Picture | str | None:
    """How a part is read as an image where somebody names it: as a clear one, or as one channel of its own kind."""
    return picture if isinstance(picture, Picture) else read_one_channel(space) or picture


def _chosen_vectors(
    env: gym.Env[Any, Any], every: Sequence[_Part], seen: Sequence[_Part], named: Sequence[str]
) -> list[_Part]:
    """The parts that are seen as numbers."""
    if not named:
        return []
    looked_at = {part.path for part in seen}
    numbers = [part for part in every if read_numbers(part.space) is not None and part.path not in looked_at]
    plain = [part for part in numbers if part.picture is None]
    offered = f"It has {', '.join(part.key for part in numbers)}" if numbers else "It has none"
    if named == (ON,):
        if not plain:
            raise EnvError(
                f"{name(env)} observes {words(env.observation_space)}, in which --state on finds no numbers beside its "
                f"images. {offered}. {'Name one: --state KEY.' if numbers else 'Drop --state.'}"
            )
        chosen = plain
    else:
        keys = [part.key for part in numbers]
        for one in named:
            if one not in keys:
                raise EnvError(
                    f"{name(env)} observes no numbers {one!r} beside its images.{did_you_mean(one, keys)} {offered}. "
                    f"{f'Type, say: --state {shlex.quote(keys[0])}' if keys else 'Drop --state.'}"
                )
        chosen = [part for part in numbers if part.key in named]
    for part in chosen:
        width = read_numbers(part.space)
        assert width is not None
        if not 0 < width.width <= MOST_NUMBERS:
            raise EnvError(
                f"{part.key!r} of {name(env)} has {width.width:,} numbers, and a vector has 1 to {MOST_NUMBERS:,}. "
                "Name others: --state KEY."
            )
    return chosen


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


def _rendered(env: gym.Env[Any, Any], texts: tuple[str, ...]) -> Sight:
    """`env` with `render()` in place of its observation, or the sentence that says why not."""
    frame = _drawn(env)
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
    eye = Eye("", lambda observation: observation, space, Picture(native, lambda image: image, ()), seen)
    return Sight(drawn, (eye,), (), texts, dropped)


def _drawn(env: gym.Env[Any, Any]) -> NDArray[np.uint8]:
    """A frame that `env` renders, uint8 `[H, W, 3]`, or the sentence that says why there is none."""
    subject = f"{name(env)} observes {words(env.observation_space)}, which is no image,"
    if any(isinstance(read_picture(part), Picture) for _, part in parts(env.observation_space)):
        subject = f"{name(env)} was asked for its rendering,"
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
    return frame


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
