"""Processes that end with the one that started them, also where that one was killed and could not tell them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """End this process as soon as the one that started it by `multiprocessing` has ended, whatever it is doing.

    Without it a worker learns of that when it next reads from its pipe: never, if its environment hangs; and if it was
    about to write, with a traceback. Nothing is done in a process that nobody started so.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel
    if wait([sentinel], timeout=0):  # it ended while this process was importing
        os._exit(1)

    def follow() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=follow, name="end with parent", daemon=True).start()
