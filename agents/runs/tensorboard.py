"""TensorBoardSink: the rows of a run as TensorBoard curves."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillsight.agents.errors import RunError
from stillsight.agents.runs.place import place

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COUNTERS = ("step", "epoch")
"""Keys of a row that say where in the run it stands; the first that the row has is the x-axis."""

_EVENTS = "events.out.tfevents."
"""tensorboard's event files are called so, and then by the second they were opened in, host, process and counter."""

_THREAD = "_AsyncWriterThread"
"""tensorboard's class of threads that write."""


class TensorBoardSink:
    """A sink of a `Run`: each number of each row is a point of a curve.

    A curve is called as its key where that holds a "/" (SB3's "train/loss"), and otherwise "<stream>/<key>". What is no
    number (None, NaN, text, lists, booleans) is left out. Rows without a step or an epoch, as of a head that was fitted
    at once, stand at 0. Nothing is written before the first row. What an earlier session drew from the checkpoint on
    that a resumed run goes on from is purged, as the rows are, so that each point stands there once.

    Args:
        folder: of the event files.

    Raises:
        RunError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise RunError(
                'TensorBoard is not installed. Run: pip install "stillsight[tensorboard]", or drop --tensorboard.'
            )
        self.folder = folder
        self._writer: SummaryWriter | None = None
        self._kept: int | None = None

    def rewind(self, last: int) -> None:
        """Purge, with the next row, what earlier sessions drew at `last` and after it."""
        self._kept = last

    def log(self, stream: str, row: Mapping[str, Any]) -> None:
        """Draw the numbers of `row`, flushed, so that a killed run keeps them."""
        from torch.utils.tensorboard import SummaryWriter

        step = next((int(row[name]) for name in COUNTERS if name in row), 0)
        if self._writer is None:
            # Not `step`, where there was a checkpoint: what the earlier session drew between the two is cut as well.
            first = step if self._kept is None else self._kept
            _let_errors_be_told_once()
            _let_the_last_session_be_a_second_old(self.folder)
            self._writer = SummaryWriter(str(place(self.folder.parent, self.folder.name)), purge_step=first)
        for key, value in row.items():
            if key not in COUNTERS and _is_number(value):
                self._writer.add_scalar(key if "/" in key else f"{stream}/{key}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _let_the_last_session_be_a_second_old(folder: Path) -> None:
    """Wait, for a second at most, until a new event file's name sorts behind those in `folder`.

    TensorBoard reads event files in the order of their names, which is that of the whole second they were opened in.
    Within one second a counter without leading zeros decides (10 before 9), and a purge that is read before what it
    purges does nothing.
    """
    while any(folder.glob(f"{_EVENTS}{int(time.time()):010d}.*")):
        time.sleep(0.02)


def _let_errors_be_told_once() -> None:
    """Show no traceback of tensorboard's writing thread: what stops it is raised again by the next `log` or `close`."""
    shown = threading.excepthook
    if getattr(shown, "silent_on", None) == _THREAD:
        return

    def show(broken: threading.ExceptHookArgs) -> None:
        if type(broken.thread).__name__ != _THREAD:
            shown(broken)

    show.silent_on = _THREAD  # type: ignore[attr-defined]
    threading.excepthook = show


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return not math.isnan(value)
