"""FirstSight: the check of a network that no probe got through, on the first images that it is given."""

from __future__ import annotations

from typing import Any

from stillsight.encoders.backbone import Backbone
from stillsight.encoders.zoo.contract.contract import check_at


class FirstSight:
    """The check of a network that no probe got through, on images of each size that it is given. All copies of an
    encoder share it.

    Args:
        path: what the encoder is called in messages.
        backbone: with the stages that run; None where there is nothing to check.
        learns: see `contract.check`.
    """

    def __init__(self, path: str, backbone: Backbone | None = None, *, learns: str | None = None) -> None:
        self.path, self.backbone, self.learns = path, backbone, learns
        self.seen: set[tuple[int, int]] = set()

    def __call__(self, image: tuple[int, int]) -> None:
        """Refuse the network by what it makes of images of this height and width, in pixels; see `check_at`."""
        if self.backbone is not None and image not in self.seen:
            check_at(self.path, self.backbone, image, learns=self.learns)
            self.seen.add(image)  # what was refused is refused the next time, too

    def __deepcopy__(self, memo: object) -> FirstSight:
        return self

    def __reduce__(self) -> Any:  # whoever has pickled an encoder has looked through it
        return FirstSight, (self.path,)
