"""The processes of a throughput measurement: each arm lives in one of its own, and only one works at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from stillsight.agents.errors import RunError
from stillsight.agents.measure.arm import Ours
from stillsight.agents.measure.floor import Floor
from stillsight.agents.measure.measure_config import NAMES, SPIN
from stillsight.agents.measure.stock import Stock
from stillsight.agents.training.config import RlConfig
from stillsight.encoders import device as devices
from stillsight.encoders.system.allocator import reuse_freed_memory
from stillsight.envs.parent_process import end_with_parent

ARMS: dict[str, Any] = {
    "stock": Stock,
    "in-policy": lambda config: Ours(replace(config, in_policy=True)),
    "cached": Ours,
    "floor": Floor,
}


def serve(connection: Connection, name: str, config: RlConfig) -> None:
    """The life of a measuring process: build an arm, answer each number of seconds with a measurement, None with facts.

    Ctrl-C is for the parent, which ends it.

    An error goes back as itself, for the parent to raise.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        devices.seed_everything(config.seed)
        devices.use_threads(config.threads)
        devices.fast_math()
        reuse_freed_memory()
        arm = ARMS[name](config)
        connection.send({})
        while (seconds := connection.recv()) is not None:
            connection.send(arm.measure(seconds))
        connection.send(arm.facts())
    except Exception as error:
        error.add_note(traceback.format_exc())  # pickling drops the traceback
        connection.send(error)


class ArmProcess:
    """An arm at work in its own process; it is built only when its first answer is asked for."""

    def __init__(self, name: str, run: RlConfig) -> None:
        self.name, self.run = name, run
        self._ends: tuple[Connection, Any] | None = None

    def answer(self) -> dict[str, Any]:
        """What the process sends next.

        Raises:
            what went wrong there.
        """
        if self._ends is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, self.name, replace(self.run, out=None)))
            with _as_stock() if self.name == "stock" else contextlib.nullcontext():
                process.start()
            theirs.close()
            self._ends = (ours, process)
        try:
            found = self._ends[0].recv()
        except EOFError:
            others = " ".join(name for name in NAMES if name != self.name)
            raise RunError(
                f"The process that measured {self.name} ended by itself; it may have run out of memory. "
                f"Measure without it: --arms {others}."
            ) from None
        if isinstance(found, Exception):
            raise found
        answer: dict[str, Any] = found
        return answer

    def ask(self, seconds: float | None) -> dict[str, Any]:
        """A measurement, or the facts for None."""
        assert self._ends is not None
        self._ends[0].send(seconds)
        return self.answer()

    def stop(self) -> None:
        """End the process."""
        if self._ends is not None:
            self._ends[0].close()
            self._ends[1].terminate()
            self._ends[1].join()


@contextlib.contextmanager
def _as_stock() -> Iterator[None]:
    """Without what our command line sets in the environment: stock is started by the user's own script."""
    spin = os.environ.pop(SPIN, None)
    try:
        yield
    finally:
        if spin is not None:
            os.environ[SPIN] = spin
