"""Stop: Ctrl-C and SIGTERM as one exception, raised at once, or at a safe point where something is to be saved."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
"""What asks a process to stop, and what people call it."""

ECHO = 0.5
"""Seconds within which a second signal is an echo of the first: GNU's `timeout` sends each of its own twice."""


class Stop(KeyboardInterrupt):
    """Somebody asked this process to stop. Its text can be printed as it stands; no `except Exception` swallows it.

    Args:
        number: of the signal.
        sentence: what is kept and how to go on; whoever knows more says it there on the way.
    """

    def __init__(self, number: int, sentence: str = "") -> None:
        super().__init__(number)
        self.number, self.sentence = number, sentence

    @property
    def name(self) -> str:
        """What people call the signal."""
        return SIGNALS.get(signal.Signals(self.number), signal.Signals(self.number).name)

    @property
    def code(self) -> int:
        """Exit code, as shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number

    def __str__(self) -> str:
        return self.sentence or f"stopped by {self.name}."


@dataclass
class _State:
    """Of this process: what was asked for and when (`time.monotonic`), whether we answer, and whether it waits."""

    asked: int | None = None
    when: float = 0.0
    answering: bool = False
    deferred: bool = False


_state = _State()


@contextlib.contextmanager
def answering(*, deferred: bool = False) -> Iterator[None]:
    """Answer Ctrl-C and SIGTERM inside: the first with `Stop`, a second by leaving at once.

    A signal that is ignored (nohup, a script's `&`) stays so. Nothing changes outside the main thread, to which Python
    gives signals.

    Args:
        deferred: raise it not wherever the program happens to be, but where `check` is called.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    outer, _state.answering, _state.deferred = (_state.answering, _state.deferred), True, deferred
    if not outer[0]:
        _state.asked = None
    _arm()
    try:
        yield
    finally:
        _state.answering, _state.deferred = outer
        if not outer[0]:
            _state.asked = None
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def check() -> None:
    """A safe point: raise `Stop` if it was asked for.

    The handlers are set again here, since libraries that environments are drawn with (SDL, ViZDoom) set their own when
    they first draw, out of Python's sight. That takes two microseconds.
    """
    if _state.asked is not None:
        raise Stop(_state.asked)
    _arm()


def asked() -> int | None:
    """The signal that asked to stop and was not answered yet."""
    return _state.asked


def waited() -> float:
    """Seconds since a signal asked to stop; 0 where none did."""
    return 0.0 if _state.asked is None else time.monotonic() - _state.when


def _arm() -> None:
    if _state.answering and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _answer)


def _answer(number: int, _: FrameType | None) -> None:
    now = time.monotonic()
    if _state.asked is not None:
        if now - _state.when >= ECHO:
            _leave(number)
        return
    _state.asked, _state.when = number, now
    if not _state.deferred:
        raise Stop(number)
    _say(f"stillsight: {SIGNALS[signal.Signals(number)]}: stopping at the next safe point; once more leaves at once.")


def _leave(number: int) -> None:
    """End the process without any more ado."""
    if sys.stderr is not None and sys.stderr.isatty():
        _say("\x1b[?25h")  # the cursor, which a progress bar hides
    os._exit(128 + number)


def _say(text: str) -> None:
    """Write to the standard error, past its buffer, which the program may be in the middle of."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
