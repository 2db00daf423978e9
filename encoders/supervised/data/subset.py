"""Few labels: so many images a class, or such a share of each class; and images held out class by class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stillsight.encoders.errors import EncoderError

if TYPE_CHECKING:
    from stillsight.encoders.supervised.data.dataset import Split


@dataclass(frozen=True, kw_only=True)
class Few:
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
    def asked(self) -> bool:
        """Whether anything is left out."""
        return self.shots is not None or self.fraction is not None

    def choose(self, pool: Split, classes: tuple[str, ...]) -> Split:
        """The images of `pool` that are used, in the order in which they lie there.

        Raises:
            EncoderError: a class has fewer images than `shots`.
        """
        if not self.asked:
            return pool
        counts = pool.labels.bincount(minlength=len(classes))
        if self.shots is not None and self.shots > counts.min():
            raise EncoderError(
                f"--shots {self.shots} is more than class {classes[int(counts.argmin())]} has. "
                f"Type a number from 1 to {int(counts.min()):,}."
            )
        shots, fraction = self.shots, self.fraction or 0.0
        taken, _ = stratify(pool.labels, self.seed, lambda count: shots or max(1, round(fraction * count)))
        return pool.take(taken)


def stratify(labels: Tensor, seed: int, share: Callable[[int], int]) -> tuple[Tensor, Tensor]:
    """Draw `share(n)` of the n images of each class; return the rows taken and the rows left, each in rising order."""
    generator = torch.Generator().manual_seed(seed)
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        drawn = torch.randperm(len(rows), generator=generator)[: share(len(rows))]
        taken[rows[drawn]] = True
    return taken.nonzero().flatten(), (~taken).nonzero().flatten()


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out `share` of each class, at least one image where the class has two; the only image of a class is kept.

    Returns:
        rows that are kept, rows that are held out.
    """
    held, kept = stratify(labels, seed, lambda count: min(count - 1, max(1, round(share * count))))
    return kept, held
