"""Draw a subset of the labels, so many images a class or a share of each, and hold images out class by class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stillsight.encoders.errors import EncoderError
from stillsight.encoders.supervised.data.split import Split


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Which of the labelled images a run may see, apart from the test images. None of the two: all.

    The images of a smaller number are among those of a larger one under the same seed, so that a curve over the number
    of labels compares the same draws.

    Attributes:
        shots: images of each class, those for validation among them.
        fraction: share of each class, 0..1; at least one image of each.
        seed: of the draw.
    """

    shots: int | None = None
    fraction: float | None = None
    seed: int = 0

    @property
    def limited(self) -> bool:
        """Whether anything is left out."""
        return self.shots is not None or self.fraction is not None

    def draw(self, pool: Split, classes: tuple[str, ...]) -> Split:
        """The images of `pool` that are used, in the order in which they lie there.

        Raises:
            EncoderError: a class has fewer images than `shots`.
        """
        if not self.limited:
            return pool
        counts = pool.labels.bincount(minlength=len(classes))
        if self.shots is not None and self.shots > counts.min():
            raise EncoderError(
                f"--shots {self.shots} is more than class {classes[int(counts.argmin())]} has. "
                f"Type a number from 1 to {int(counts.min()):,}."
            )
        shots, fraction = self.shots, self.fraction or 0.0
        drawn, _ = stratify(pool.labels, self.seed, lambda count: shots or max(1, round(fraction * count)))
        return pool.take(drawn)


def stratify(labels: Tensor, seed: int, share: Callable[[int], int]) -> tuple[Tensor, Tensor]:
    """Draw `share(n)` of the n images of each class; return the rows drawn and the rows left, each in rising order.

    Args:
        labels: int64 `[N]`.
        seed: of the draw.
        share: images of a class -> how many of them are drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        drawn[rows[torch.randperm(len(rows), generator=generator)[: share(len(rows))]]] = True
    return drawn.nonzero().flatten(), (~drawn).nonzero().flatten()


def hold_out(labels: Tensor, share: float, seed: int, originals: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Hold out `share` of each class, at least one image where the class has two; the only image of a class is kept.

    Args:
        labels: int64 `[N]`.
        share: 0..1.
        seed: of the draw.
        originals: of each image, the first one that it equals, see `Split.originals`, so that equal images end on one
            side. They count as one; those that lie in several classes are kept. None: no two are equal.

    Returns:
        rows that are kept, rows that are held out.
    """
    rows = torch.arange(len(labels))
    originals = rows if originals is None else originals
    disputed = torch.zeros(len(labels), dtype=torch.bool)
    disputed[originals[labels != labels[originals]]] = True
    drawn = rows[(originals == rows) & ~disputed]
    held_out, _ = stratify(labels[drawn], seed, lambda count: min(count - 1, max(1, round(share * count))))
    held = torch.isin(originals, drawn[held_out])
    return rows[~held], rows[held]
