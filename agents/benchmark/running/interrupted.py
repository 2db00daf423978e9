"""An interrupted cell: whether its run folder can be gone on with, and end as if nothing had interrupted it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from stillsight.agents.errors import CheckpointError, RunError
from stillsight.agents.runs import checkpoint, history
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.reader import read_json, read_sessions
from stillsight.agents.runs.records import plain
from stillsight.agents.runs.trust import PLACES, read_run
from stillsight.agents.training.config import RlConfig

THIS_SESSION = ("date", "command", "changed", "threads")
"""What machine.json says of a session and may differ; all else, commit, versions and processor too, must be the same.
Threads are counted there before the run sets its own."""


def code_file(folder: Path) -> Path:
    """Beside a cell's run folder: the code that it began with, see `code_pins`."""
    return folder.with_name(f"{folder.name}.code.json")


def goes_on(folder: Path, config: RlConfig, code: Mapping[str, str]) -> bool:
    """Put the newest good checkpoint with whole games in the place of the last one of an interrupted agent.

    A checkpoint that holds no games, because its environments cannot be saved or it was saved in the middle of a
    rollout, lets episodes begin anew, and the cell would end with other numbers than it ends with when nothing
    interrupts it. So would other code, or another processor, or another configuration: a cell's name is known before
    its encoder's rate is chosen, and stays the same where another is chosen later.

    Args:
        folder: of the run, which may be missing; its lock is free.
        config: that the cell is planned with.
        code: what `code_pins` gives now; people edit environments, networks and algorithms of their own.

    Returns:
        Whether there is such a checkpoint, the run is of this configuration, it began with this code, and all its
        sessions were on what is here.

    Raises:
        RunError: the planned configuration's algorithm takes no such setting.
        MemoryShortError: memory has no room for a checkpoint, which may be the one: the run is to be left as it is.
    """
    here, asked = _where(machine()), _asked(config.resolved())
    try:
        sessions = read_sessions(folder)
        began = _asked(read_run(folder).config)
        ran = read_json(code_file(folder), "")
    except (RunError, OSError):
        return False
    if ran != code or began != asked or not sessions or any(_where(session) != here for session in sessions):
        return False
    for name in history.names(folder):
        with contextlib.suppress(CheckpointError, OSError):
            stored = {} if name == history.BEST else checkpoint.load(history.checkpoint_file(folder, name))
            if stored.get("games") is not None:
                if name != history.LAST:
                    history.put_last(folder, name)
                return True
    return False


def _where(session: dict[str, object]) -> dict[str, object]:
    return {name: fact for name, fact in session.items() if name not in THIS_SESSION}


def _asked(config: object) -> dict[str, object]:
    """A configuration as JSON knows it, without what says where the run lies."""
    return {name: value for name, value in plain(config).items() if name not in PLACES}
