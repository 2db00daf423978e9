"""Sight: which image an agent sees of an environment, how it is read, and what of the rest is dropped, in words."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import gymnasium as gym
from gymnasium import spaces

from stillsight.envs.errors import EnvError, did_you_mean, nearest
from stillsight.envs.options import OFF, ON, RENDERING, SMALLEST_IMAGE
from stillsight.envs.spec import OwnImage
from stillsight.envs.wrappers.numbers import MOST_NUMBERS, Numbers, read_numbers
from stillsight.envs.wrappers.parts import Path, key, name, parts, words
from stillsight.envs.wrappers.picture import Picture, read_one_channel, read_picture
from stillsight.envs.wrappers.rendered import drawn
from stillsight.envs.wrappers.seen import Seen

WANTED = (
    "An agent sees one image: uint8 0..255 or float 0..1, 0..255 or -1..1, [H, W, 3], [3, H, W] or [H, W], at least "
    f"{SMALLEST_IMAGE} pixels a side."
)
UNSTACKED = (
    "Put FrameStackObservation around all wrappers that change what is observed, or leave it out and stack frames by "
    "--frame-stack."
)
"""What to do about frames that were stacked where it cannot be told any more."""

Stack: TypeAlias = gym.wrappers.FrameStackObservation[Any, Any, Any]
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


def sight(
    env: gym.Env[Any, Any], pixels: Sequence[str] = (), state: Sequence[str] = (), own: OwnImage | None = None
) -> Sight:
    """What an agent sees of `env`.

    Args:
        env: with any observation.
        pixels, state: see `EnvOptions`.
        own: the image that it is known to observe, which nothing takes the place of.

    Raises `EnvError` for an image of its own that is too small to be one, for several images of which none is named,
    for an observation that looks like an image and whose meaning is not clear, for an environment that neither observes
    nor renders an image, and for names of parts that there are not.
    """
    pixels, state = tuple(pixels), tuple(state)
    stack, hidden = _frame_stacks(env)
    space = env.observation_space if stack is None else stack.env.observation_space
    every = [_Part(path, part, read_picture(part)) for path, part in parts(space)]
    if own is not None:
        _check_own(env, every, own)
    chosen = _chosen_images(env, every, pixels)
    vectors = _chosen_vectors(env, every, [part for part in chosen if part is not None], state)
    if hidden is not None and any(part is not None for part in (*chosen, *vectors)):
        raise EnvError(
            f"{name(env)} stacks {hidden.stack_size} frames by FrameStackObservation, and what wrappers make of them "
            f"does not say which are frames and which are colours. {UNSTACKED}"
        )
    texts = tuple(sorted(part.key for part in every if isinstance(part.space, spaces.Text)))
    if chosen == [None] and not vectors:
        return _rendered(env, texts)
    shown: gym.Env[Any, Any] = env
    above: Path = ()
    render_key = RENDERING
    if None in chosen:
        drawn(env)
        if isinstance(env.observation_space, spaces.Dict):
            while render_key in env.observation_space.spaces:  # a part of the observation may be called so
                render_key += "_"
        shown = gym.wrappers.AddRenderObservation(env, render_only=False, render_key=render_key, obs_key=WHOLE)
        if not isinstance(env.observation_space, spaces.Dict):
            above = (WHOLE,)
    taken = {part.path for part in (*chosen, *vectors) if part is not None}
    dropped = tuple(f"{part.key} ({words(part.space)})" for part in every if part.path not in taken)
    alone = len(chosen) == 1 and not vectors
    eyes = []
    for part in chosen:
        if part is None:
            box = shown.observation_space[render_key]  # type: ignore[index]
            native = (int(box.shape[0]), int(box.shape[1]))
            seen = Seen(source="rendering", form=words(box), native=native, size=native)
            picture = Picture(native, lambda image: image, ())
            eyes.append(Eye(RENDERING, _picker((render_key,), newest=False), box, picture, seen))
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


def _check_own(env: gym.Env[Any, Any], every: Sequence[_Part], own: OwnImage) -> None:
    """Refuse an image that is too small to be told from a table: the rendering in its place would show something else
    than the environment lets an agent see, as all of a world in place of the tiles before it."""
    part = next((part for part in every if key(part.path) == own.key), None)
    if part is not None and part.picture is None:
        raise EnvError(
            f"{name(env)} observes an image of {words(part.space)}{f' under {own.key!r}' if own.key else ''}, and an "
            f"image has at least {SMALLEST_IMAGE} pixels a side. Have it drawn larger: {own.larger}"
        )


def _chosen_images(env: gym.Env[Any, Any], every: Sequence[_Part], named: Sequence[str]) -> list[_Part | None]:
    """The images that are seen; None stands for the rendering."""
    if named == (OFF,):
        return []
    clear = [part for part in every if isinstance(part.picture, Picture)]
    if named:
        return [_named_image(env, every, one) for one in dict.fromkeys(named)]
    if len(clear) > 1:
        keys = [part.key for part in clear]
        sizes = {part.picture.native for part in clear if isinstance(part.picture, Picture)}
        # All go through one encoder in one batch.
        alike = f" --size {max(SMALLEST_IMAGE, min(map(min, sizes)))}" if len(sizes) > 1 else ""
        raise EnvError(
            f"{name(env)} observes {len(clear)} images ({', '.join(keys)}), and which of them an agent is to see is "
            f"not said. Type --pixels {shlex.join(keys)}{alike} for all of them, or name one: --pixels "
            f"{shlex.quote(keys[0])}"
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
        likely = nearest(named, [*images, RENDERING]) or (images or [RENDERING])[0]
        raise EnvError(
            f"{name(env)} observes no image {named!r}.{did_you_mean(named, [*images, RENDERING])} {offered}. Type, "
            f"say: --pixels {shlex.quote(likely)}"
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
    images = [part.key for part in every if isinstance(part.picture, Picture)]
    if image := next((one for one in named if one in images), None):
        raise EnvError(
            f"{image!r} of {name(env)} is an image, and --state is for numbers. Type: --pixels {shlex.quote(image)}"
        )
    numbers = [
        part
        for part in every
        if read_numbers(part.space) is not None and part.path not in looked_at and part.key not in images
    ]
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
                    f"{f'Type, say: --state {shlex.quote(nearest(one, keys) or keys[0])}' if keys else 'Drop --state.'}"
                )
        chosen = [part for part in numbers if part.key in named]
    for part in chosen:
        width = read_numbers(part.space)
        assert width is not None
        if width.width > MOST_NUMBERS:
            raise EnvError(
                f"{part.key!r} of {name(env)} has {width.width:,} numbers, and a vector has 1 to {MOST_NUMBERS:,}. "
                "Name others: --state KEY."
            )
    return chosen


def _frame_stacks(env: gym.Env[Any, Any]) -> tuple[Stack | None, Stack | None]:
    """Gymnasium's own wrapper that stacks frames, where it gives what `env` observes, so that the first axis is time;
    and one that stands under what makes something else of its frames."""
    seen: Stack | None = None
    inner: Any = env
    changed = False
    while isinstance(inner, gym.Wrapper):
        if isinstance(inner, gym.wrappers.AddRenderObservation) and isinstance(inner.observation_space, spaces.Box):
            break  # what it stands on is not observed
        if isinstance(inner, gym.wrappers.FrameStackObservation):
            if seen is not None or changed or inner.observation_space != env.observation_space:
                return seen, inner
            seen = inner
        changed = changed or isinstance(inner, gym.ObservationWrapper)
        inner = inner.env
    return seen, None


def _picker(path: Path, *, newest: bool) -> Callable[[Any], Any]:
    """How to find the part of an observation at `path`, the last frame of it where it is a stack."""
    if not path and not newest:
        return lambda observation: observation

    def pick(observation: Any) -> Any:
        for each in path:
            observation = observation[each]
        return observation[-1] if newest else observation

    return pick


def _rendered(env: gym.Env[Any, Any], texts: tuple[str, ...]) -> Sight:
    """`env` with `render()` in place of its observation, or the sentence that says why not."""
    frame = drawn(env)
    shown = gym.wrappers.AddRenderObservation(env, render_only=True)
    space = shown.observation_space
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
    return Sight(shown, (eye,), (), texts, dropped)


def _symbols(space: gym.Space[Any]) -> str:
    """What is said of an array that has the form of an image: one that was not named, or none."""
    if isinstance(read_picture(space), Picture):
        return ", an image that --pixels does not name"
    if not isinstance(space, spaces.Box) or len(space.shape) != 3 or 3 not in (space.shape[0], space.shape[2]):
        return ""
    return ", a table of symbols and no picture"
