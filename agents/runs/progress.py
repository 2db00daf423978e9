"""What a person sees while a run works: steps, rate, last results, time left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

QUIET_SECONDS = 10.0
"""Where the output is no terminal (a log, CI), one line is written at most this often."""


class ProgressDisplay:
    """A progress bar in a terminal, a line now and then elsewhere.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._told = 0.0
        self._last: tuple[str, int] = ("", 0)

    def card(self, title: str, rows: Mapping[str, str]) -> None:
        """Print a title and aligned facts."""
        self.console.print(title, style="bold", markup=False)
        width = max(map(len, rows), default=0)
        for key, value in rows.items():  # soft: a command that the console broke in two could not be copied
            self.console.print(f"  {key:{width}}  {value}", soft_wrap=True, markup=False)

    def update(self, what: str, done: int, total: int, **facts: object) -> None:
        """Say that `done` of `total` is finished, with further facts to show beside it."""
        if (what, done) == self._last and done >= total:
            return  # a rollout that runs past the end reports it again and again
        self._last = (what, done)
        now = time.perf_counter()
        began, first = self._began.setdefault(what, (now, done))
        rate = (done - first) / (now - began) if now > began else 0.0
        told = {f"{what}s/s": f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"} if rate and " " not in what else {}
        text = "  ".join(f"{key} {_short(value)}" for key, value in {**told, **facts}.items())
        if self.console.is_terminal:
            self._show(what, done, total, text)
        elif done >= total or now - self._told >= QUIET_SECONDS:
            self._told = now
            left = f"{(total - done) / rate:,.0f} s left" if rate and done < total else ""
            self.console.print(f"{what} {done:,}/{total:,}  {text}  {left}".rstrip(), soft_wrap=True, markup=False)
        if done >= total:
            self._began.pop(what, None)

    def _show(self, what: str, done: int, total: int, text: str) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}"),
                console=self.console,
            )
            self._bar.start()
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total, facts="")
        self._bar.update(self._tasks[what], completed=done, facts=text)

    def note(self, text: str) -> None:
        """Print a sentence beside the progress."""
        self.console.print(text, soft_wrap=True, markup=False)

    @contextlib.contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Count the time inside for no rate of `what`: something else is being done."""
        paused = time.perf_counter()
        try:
            yield
        finally:
            if what in self._began:
                began, first = self._began[what]
                self._began[what] = (began + time.perf_counter() - paused, first)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._tasks.clear()


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
