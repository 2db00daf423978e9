"""Watched: ends the wait for an environment whose step or reset does not come back."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

import gymnasium as gym

from stillsight.envs.errors import EnvFault
from stillsight.envs.wrappers.parts import name
from stillsight.envs.wrappers.rules import Step

GRACE = 5.0
"""Seconds in which a call has to end that was told to."""


@dataclass(eq=False, slots=True)
class Call:
    """A call of an environment that has not come back yet.

    Attributes:
        env: whose.
        action: that it was given; None for a reset.
        until: when it counts as hung, by `time.monotonic`.
        thread: that it is made in.
        told: when it was told to end.
    """

    env: Watched
    action: Any
    until: float
    thread: int
    told: float | None = None


class Watchdog:
    """One thread that looks at the calls under way, and ends those that have taken too long.

    A call in the main thread is interrupted by a signal, whose handler raises `EnvFault` there: that ends whatever
    waits or computes in Python, and whatever of C lets itself be interrupted, as reading from a socket does. A call
    that goes on regardless, or is made in another thread, cannot be ended alone: the sentence is printed, and this
    process ends with exit code 1, its workers with it. Code in C that never lets go of Python's lock stops this thread
    too: only an environment in a worker process can be ended whatever it does.

    Time in which the whole process stands still is no time of a call: a job that its scheduler suspends, or that was
    stopped from a terminal, goes on where it was. It shows in this thread's own sleep, which lasts longer than asked.
    """

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._process = 0

    def begin(self, call: Call) -> None:
        """Watch a call."""
        if self._process != os.getpid():  # the first one, or that of a process that was forked, which has one thread
            self._process, self._calls = os.getpid(), {}
            threading.Thread(target=self._watch, name="stillsight-watchdog", daemon=True).start()
        self._calls[id(call)] = call

    def end(self, call: Call) -> None:
        """The call came back."""
        self._calls.pop(id(call), None)

    def listen(self) -> None:
        """Take the signal, if nobody else has it and this is the thread that may."""
        mine = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGALRM")
        if mine and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL:
            signal.signal(signal.SIGALRM, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's signature
        """Raise in the main thread what is to be said of its call."""
        for call in list(self._calls.values()):
            if call.told is not None and call.thread == threading.get_ident():
                raise call.env.fault(call.action)

    def _watch(self) -> None:
        due = time.monotonic()
        while True:
            now = time.monotonic()
            wait = min(1.0, max(0.01, self._look(now, late=now - due) - now))
            due = time.monotonic() + wait
            time.sleep(wait)  # holding no call: its environment would live as long as this thread

    def _look(self, now: float, *, late: float) -> float:
        """Tell calls that have taken too long to end, and say when the next one will have."""
        calls = list(self._calls.values())
        for call in calls:
            if call.told is None:
                call.until = min(call.until + late, now + call.env.seconds)  # at most: it may have begun meanwhile
            else:
                call.told += late
            if call.told is None and now >= call.until:
                call.told = now if self._interrupt(call) else now - GRACE
            if call.told is not None and now >= call.told + GRACE:
                self._give_up(call)
        return min((call.until for call in calls if call.told is None), default=now + 1.0)

    def _interrupt(self, call: Call) -> bool:
        """Have the signal's handler raise in the thread of the call, if that can be done."""
        if call.thread != threading.main_thread().ident or not hasattr(signal, "pthread_kill"):
            return False
        if signal.getsignal(signal.SIGALRM) != self.handle:
            return False
        signal.pthread_kill(call.thread, signal.SIGALRM)
        return True

    def _give_up(self, call: Call) -> None:
        """End this process, and what it started, unless the call came back after all."""
        if id(call) not in self._calls:
            return
        sentence = f"stillsight: {call.env.fault(call.action)} It does not let itself be ended alone: so ends the run."
        print(sentence, file=sys.stderr, flush=True)
        for process in multiprocessing.active_children():
            process.kill()
        os._exit(1)


WATCHDOG = Watchdog()
"""That of this process."""


class Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Lets steps and resets through, and raises `EnvFault` where one takes longer than `seconds`, see `Watchdog`.

    Args:
        env: the environment.
        seconds: above 0, that a step or a reset may take.
    """

    def __init__(self, env: gym.Env[Any, Any], seconds: float) -> None:
        super().__init__(env)
        self.seconds, self._steps = seconds, 0
        WATCHDOG.listen()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        call = self._begin(None)
        try:
            return self.env.reset(seed=seed, options=options)
        finally:
            WATCHDOG.end(call)

    def step(self, action: Any) -> Step:
        """The environment's step."""
        self._steps += 1
        call = self._begin(action)
        try:
            return self.env.step(action)
        finally:
            WATCHDOG.end(call)

    def _begin(self, action: Any) -> Call:
        call = Call(self, action, time.monotonic() + self.seconds, threading.get_ident())
        WATCHDOG.begin(call)
        return call

    def fault(self, action: Any) -> EnvFault:
        """What to say of a call that took too long."""
        what = "a reset" if action is None else f"step {self._steps:,}, after the action {action},"
        return EnvFault(
            f"{name(self)} hangs: {what} has not come back for {self.seconds:g} seconds. Mend the environment, or "
            f"wait longer: {longer(self.seconds)}"
        )


def longer(seconds: float) -> str:
    """What to type to wait longer than `seconds`."""
    return f"--step-timeout {10 * seconds:g} (0 waits for ever)."
