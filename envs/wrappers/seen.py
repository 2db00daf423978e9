"""Seen: what an agent sees of an environment, in words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

LARGE = 128 * 128
"""Pixels above which the words say how to see fewer."""


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


def resized(seen: Seen, size: tuple[int, int]) -> Seen:
    """The same sight, shown at another height and width."""
    return replace(seen, size=size)
