"""Where the time goes: seconds by part, each moment counted once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from stillsight.encoders import device as devices


class Clock:
    """Exclusive times of the methods that it watches: what a watched method spends inside another one is the other's.

    Args:
        device: drained before each reading, so that a GPU's work counts where it was asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Count the time of `owner.method` as `part`; on this one object, and for good."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._turn(part)
            try:
                return original(*args, **kwargs)
            finally:
                self._turn(None)

        setattr(owner, method, timed)

    def _turn(self, part: str | None) -> None:
        """Close the present stretch of time and open one for `part`, or for what was open before it."""
        devices.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        if part is None:
            self._open.pop()
        else:
            self._open.append(part)
        self._since = now

    def read(self, total: float) -> dict[str, float]:
        """Seconds by part since the last reading; "rest" is what is left of `total`."""
        found, self.seconds = self.seconds, {}
        return {**found, "rest": total - sum(found.values())}
