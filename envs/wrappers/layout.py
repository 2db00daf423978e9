"""Layout: what one environment shows an agent, its images, vectors and texts, described once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from stillsight.envs.errors import EnvError

if TYPE_CHECKING:
    import numpy as np
    from gymnasium import spaces

Observation: TypeAlias = "np.ndarray[Any, Any] | Mapping[str, np.ndarray[Any, Any]]"
"""What one environment, or a batch of them, shows: the one image, or images and vectors by key."""


MOST_IMAGES, MOST_VECTORS = 16, 256
"""Of an observation. Robots have a few cameras; memory is taken by their number."""


@dataclass(frozen=True)
class Image:
    """An image: uint8 `shape`, 0..255, RGB.

    Attributes:
        key: under which it is observed; "" where it is all that is observed.
        shape: (3, H, W).
    """

    key: str
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Vector:
    """Numbers beside images, joint angles say: float32 `[width]`.

    Attributes:
        key: under which it is observed.
        width: how many numbers.
    """

    key: str
    width: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What one environment shows an agent. Observations are the one image itself, or a dict of all images and vectors.

    Images and vectors stand in the order of their keys, which is that of a Gymnasium Dict.

    Attributes:
        images: all of one shape, so that one batch goes through one encoder.
        vectors: side by side they are the state.
        texts: keys of what is text: known, and no part of what an agent sees.
        frames: of images and vectors in an observation of a policy, whose newest comes last; texts are not stacked.

    Raises:
        EnvError: images of several shapes, two parts of one key, too many parts, or nothing to see.
    """

    images: tuple[Image, ...]
    vectors: tuple[Vector, ...] = ()
    texts: tuple[str, ...] = ()
    frames: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(sorted(self.images, key=lambda image: image.key)))
        object.__setattr__(self, "vectors", tuple(sorted(self.vectors, key=lambda vector: vector.key)))
        if len(self.images) > MOST_IMAGES or len(self.vectors) > MOST_VECTORS:
            raise EnvError(
                f"An observation has {len(self.images)} images and {len(self.vectors)} vectors, and may have "
                f"{MOST_IMAGES} and {MOST_VECTORS}. Name fewer: --pixels KEY ..., --state KEY ..."
            )
        keys = [*(image.key for image in self.images), *(vector.key for vector in self.vectors)]
        if not keys:
            raise EnvError("An observation was left without images and vectors. Name some: --pixels KEY, --state on.")
        if len(set(keys)) < len(keys):
            raise EnvError(f"An observation has two parts of one key among {', '.join(keys)}. Rename one of them.")
        if len({image.shape for image in self.images}) > 1:
            told = ", ".join(f"{image.key} {_sides(image)}" for image in self.images)
            raise EnvError(
                f"The images {told} differ in size, and all of them go through one encoder in one batch. Show them "
                f"alike: --size {max(16, min(min(image.shape[1:]) for image in self.images))}"
            )

    @property
    def plain(self) -> bool:
        """Whether an observation is one image, and no dict."""
        return len(self.images) == 1 and not self.vectors

    @property
    def pixels(self) -> tuple[int, int, int]:
        """(3, H, W) of each image; (3, 0, 0) where there is none."""
        return self.images[0].shape if self.images else (3, 0, 0)

    @property
    def state(self) -> int:
        """Numbers in all vectors together."""
        return sum(vector.width for vector in self.vectors)

    @property
    def form(self) -> Layout:
        """What of this decides whether a policy fits: not texts, nor the key of an only image."""
        images = (Image("", self.pixels),) if self.plain else self.images
        return Layout(images=images, vectors=self.vectors)

    def __str__(self) -> str:
        images = [f"{image.key} {_sides(image)}".strip() for image in self.images]
        vectors = [f"{vector.key} [{vector.width}]" for vector in self.vectors]
        told = [f"images {', '.join(images)}"] if images else []
        told += [f"vectors {', '.join(vectors)}"] if vectors else []
        return "; ".join(told)

    @property
    def space(self) -> spaces.Space[Any]:
        """The space of an observation."""
        import numpy as np
        from gymnasium import spaces

        images = {image.key: spaces.Box(0, 255, image.shape, np.uint8) for image in self.images}
        if self.plain:
            return next(iter(images.values()))
        vectors = {vector.key: spaces.Box(-np.inf, np.inf, (vector.width,), np.float32) for vector in self.vectors}
        return spaces.Dict({**images, **vectors})

    def objection(self, observation: Observation) -> str | None:
        """Why an observation, of one environment or of several, is none of this layout, as the end of a sentence.

        A batch has one axis more in front, the same in all parts.
        """
        if self.plain:
            if isinstance(observation, Mapping):
                return f"is a dict of {', '.join(map(str, observation))}"
            return _array_objection(observation, self.pixels, "uint8")
        if not isinstance(observation, Mapping):
            return f"is {getattr(observation, 'dtype', type(observation).__name__)}, and no dict"
        parts: dict[str, tuple[tuple[int, ...], str]] = {image.key: (image.shape, "uint8") for image in self.images}
        parts |= {vector.key: ((vector.width,), "floats") for vector in self.vectors}
        if lacking := [key for key in parts if key not in observation]:
            return f"has no {', '.join(lacking)}"
        for key, (shape, kind) in parts.items():
            if (why := _array_objection(observation[key], shape, kind)) is not None:
                return f"has a {key!r} that {why}"
        if len({self._lead(observation[key], len(shape)) for key, (shape, _) in parts.items()}) > 1:
            return "has parts of several numbers of environments"
        return None

    @staticmethod
    def _lead(array: Any, axes: int) -> tuple[int, ...]:
        return tuple(array.shape[: array.ndim - axes])

    def batched(self, observation: Observation) -> bool:
        """Whether an observation is of several environments."""
        if self.plain or not isinstance(observation, Mapping):
            return len(getattr(observation, "shape", ())) > 3
        first = self.images[0] if self.images else None
        if first is not None:
            return observation[first.key].ndim > 3
        return observation[self.vectors[0].key].ndim > 1

    def images_of(self, observations: Observation) -> np.ndarray[Any, Any]:
        """The images of a batch, uint8 `[N, images, 3, H, W]`; channels may come last in it."""
        import numpy as np

        if isinstance(observations, Mapping):
            arrays = [np.asarray(observations[image.key]) for image in self.images]
        else:
            arrays = [np.asarray(observations)]
        if not arrays:
            return np.zeros((count(observations), 0, *self.pixels), np.uint8)
        first = [
            array if array.shape[1:] == self.pixels else np.ascontiguousarray(array.transpose(0, 3, 1, 2))
            for array in arrays
        ]
        return first[0][:, None] if len(first) == 1 else np.stack(first, axis=1)

    def state_of(self, observations: Observation) -> np.ndarray[Any, Any]:
        """The vectors of a batch side by side, float32 `[N, state]`."""
        import numpy as np

        if not self.vectors:
            return np.zeros((count(observations), 0), np.float32)
        assert isinstance(observations, Mapping)
        parts = [np.asarray(observations[vector.key], np.float32) for vector in self.vectors]
        return np.concatenate(parts, axis=1)

    @classmethod
    def of(cls, space: spaces.Space[Any]) -> Layout | None:
        """The layout of a space of uint8 images `[3, H, W]` or `[H, W, 3]` and of float vectors `[D]`, alone or in a
        Dict; None for any other."""
        from gymnasium import spaces

        parts = dict(space.items()) if isinstance(space, spaces.Dict) else {"": space}
        images, vectors = [], []
        for key, part in parts.items():
            if not isinstance(part, spaces.Box) or part.dtype is None:
                return None
            if part.dtype == "uint8" and len(part.shape) == 3 and 3 in (part.shape[0], part.shape[2]):
                last = part.shape[0] != 3
                height, width = part.shape[:2] if last else part.shape[1:]
                images.append(Image(key, (3, int(height), int(width))))
            elif part.dtype.kind == "f" and len(part.shape) == 1 and isinstance(space, spaces.Dict):
                vectors.append(Vector(key, int(part.shape[0])))
            else:
                return None
        return cls(images=tuple(images), vectors=tuple(vectors)) if images or vectors else None


def count(observations: Observation) -> int:
    """How many environments a batch of observations is of."""
    return len(next(iter(observations.values())) if isinstance(observations, Mapping) else observations)


def batch(observations: Sequence[Observation]) -> Observation:
    """Observations of several environments as one batch."""
    import numpy as np

    if isinstance(observations[0], Mapping):
        dicts = [one for one in observations if isinstance(one, Mapping)]
        return {key: np.stack([one[key] for one in dicts]) for key in dicts[0]}
    return np.stack([np.asarray(one) for one in observations])


def joined(one: Observation, other: Observation) -> Observation:
    """Two batches as one, the second behind the first."""
    import numpy as np

    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {key: np.concatenate([part, other[key]]) for key, part in one.items()}
    return np.concatenate([np.asarray(one), np.asarray(other)])


def alone(observation: Observation) -> Observation:
    """An observation of one environment as a batch."""
    if isinstance(observation, Mapping):
        return {key: part[None] for key, part in observation.items()}
    return observation[None]


def alike(one: Observation, other: Observation) -> bool:
    """Whether two observations show the same."""
    import numpy as np

    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(np.array_equal(part, other[key]) for key, part in one.items())
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def _sides(image: Image) -> str:
    return "x".join(map(str, image.shape))


def _array_objection(array: Any, shape: tuple[int, ...], kind: str) -> str | None:
    dtype = getattr(array, "dtype", None)
    right = dtype is not None and (dtype == "uint8" if kind == "uint8" else dtype.kind == "f")
    if right and tuple(array.shape)[-len(shape) :] == shape and array.ndim in (len(shape), len(shape) + 1):
        return None
    found = f"{dtype} {list(array.shape)}" if dtype is not None else type(array).__name__
    return f"is {found}, where {kind} {list(shape)} is expected"
