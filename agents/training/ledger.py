"""What training has taken, evaluations left out: time, processor time and images, over all sessions of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from stillsight.encoders.preprocess import ImageCounter
from stillsight.encoders.system.processor_time import alone, processor_seconds


@dataclass
class Ledger:
    """What adds up over the sessions of one run.

    Attributes:
        images: images encoded for training, evaluations left out.
        seconds: spent on training, evaluations left out.
        all_cpu_seconds: of this process, and of every one that works for it, in the same time, all threads together.
            Unlike `seconds` they do not grow with what else the machine does. None where the system does not say what
            others have taken, and in a run that began before those were counted.
        best: highest mean return of an evaluation.
        encoder_sha256: of the encoder before the first step.
    """

    images: int = 0
    seconds: float = 0.0
    all_cpu_seconds: float | None = 0.0
    best: float = float("-inf")
    encoder_sha256: str = ""

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Self:
        """The ledger of a checkpoint; earlier ones counted this process alone, in `cpu_seconds`."""
        names = {field.name for field in fields(cls)}
        return cls(**{"all_cpu_seconds": None, **{name: fact for name, fact in stored.items() if name in names}})


AGE = 1.0
"""Seconds for which rollouts do without the processor time of other processes, which takes milliseconds to ask for. So
much of it may be missing after an interruption in the middle of a rollout."""


class Meter:
    """Enters into a ledger what the clocks and the counter of images gather.

    Args:
        ledger: of the run; another may take its place.
        counter: of the images that the encoder sees.
    """

    def __init__(self, ledger: Ledger, counter: ImageCounter) -> None:
        self.ledger = ledger
        self._counter, self._images = counter, 0
        self._since: float | None = None
        self._asked, self._processors = 0.0, processor_seconds()  # when, and the answer

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count the time inside, less that of `paused`."""
        self._begin()
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
            if running:
                self._begin()

    def settle(self, *, hurried: bool = False) -> None:
        """Enter what was gathered since the last time.

        Args:
            hurried: leave processor time for later where it takes long to ask for and was asked for within `AGE`.
        """
        if self._since is not None:
            now = time.perf_counter()
            self.ledger.seconds += now - self._since
            self._since = now
            if not hurried or now - self._asked >= AGE or alone():
                before = self._processors
                self._ask()
                self._enter(before)
        self.ledger.images += self._counter.images - self._images
        self.skip_images()

    def skip_images(self) -> None:
        """Leave out the images that were encoded since the last time."""
        self._images = self._counter.images

    def _begin(self) -> None:
        self._ask()
        self._since = time.perf_counter()

    def _ask(self) -> None:
        self._asked, self._processors = time.perf_counter(), processor_seconds()

    def _enter(self, before: float | None) -> None:
        """Enter the processor time since `before`: never less than none, for what was counted was taken."""
        if before is None or self._processors is None or self.ledger.all_cpu_seconds is None:
            self.ledger.all_cpu_seconds = None
        else:
            self.ledger.all_cpu_seconds += max(0.0, self._processors - before)
