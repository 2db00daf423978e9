"""What training has taken, evaluations left out: time, processor time and images, over all sessions of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from stillsight.encoders.preprocess import ImageCounter


@dataclass
class Ledger:
    """What adds up over the sessions of one run.

    Attributes:
        images: images encoded for training, evaluations left out.
        seconds: spent on training, evaluations left out.
        cpu_seconds: of this process in the same time, all threads together; None in a run that began before they were
            counted. Unlike `seconds` they do not grow with what else the machine does.
        best: highest mean return of an evaluation.
        encoder_sha256: of the encoder before the first step.
    """

    images: int = 0
    seconds: float = 0.0
    cpu_seconds: float | None = 0.0
    best: float = float("-inf")
    encoder_sha256: str = ""


class Meter:
    """Enters into a ledger what the clocks and the counter of images gather.

    Args:
        ledger: of the run; another may take its place.
        counter: of the images that the encoder sees.
    """

    def __init__(self, ledger: Ledger, counter: ImageCounter) -> None:
        self.ledger = ledger
        self._counter, self._images = counter, 0
        self._since: tuple[float, float] | None = None  # by the clock, and of the processor

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count the time inside, less that of `paused`."""
        self._since = _clocks()
        try:
            yield
        finally:
            self.settle()
            self._since = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Count neither the time inside nor its images: an evaluation is no training."""
        self.settle()
        running, self._since = self._since is not None, None
        try:
            with self._counter.paused():
                yield
        finally:
            self._since = _clocks() if running else None

    def settle(self) -> None:
        """Enter what was gathered since the last time."""
        if self._since is not None:
            now, since = _clocks(), self._since
            self.ledger.seconds += now[0] - since[0]
            if self.ledger.cpu_seconds is not None:
                self.ledger.cpu_seconds += now[1] - since[1]
            self._since = now
        self.ledger.images += self._counter.images - self._images
        self.skip_images()

    def skip_images(self) -> None:
        """Leave out the images that were encoded since the last time."""
        self._images = self._counter.images


def _clocks() -> tuple[float, float]:
    """Seconds of the clock, and of the processor in this process."""
    return time.perf_counter(), time.process_time()
