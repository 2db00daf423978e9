"""`stillsight doctor`: everything that is checked, in the order in which it is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from stillsight.agents.command_line.json_output import print_json
from stillsight.agents.doctor import capacity, installation, rendering
from stillsight.agents.doctor.child import ask
from stillsight.agents.doctor.doctor_config import DoctorConfig
from stillsight.agents.doctor.outcome import Outcome
from stillsight.agents.errors import RunError
from stillsight.encoders.atomic import to_json

CHECKS: Mapping[str, Callable[[], list[Outcome]]] = {
    "python": installation.python,
    "packages": installation.requirements,
    "pair": installation.pair,
    "processor": partial(ask, "stillsight.agents.doctor.accelerator", check="torch"),
    "weights": partial(ask, "stillsight.agents.doctor.weights_found", check="weights"),
    "video": partial(ask, "stillsight.agents.doctor.mp4", check="video"),
    "pygame": rendering.pygame,
    "opengl": rendering.opengl,
    "extras": installation.extras,
    "disks": capacity.disks,
    "files": capacity.open_files,
    "memory": capacity.memory,
    "caches": capacity.caches,
}
"""What is looked at of a machine. Nothing here imports torch into this process, which must speak where torch cannot."""

WHOLE_RUN = 1_800
"""Seconds that reading a run folder may take; a replay memory of many gigabytes is among what is read."""


def doctor(folder: Path | None, config: DoctorConfig) -> int:
    """Check this machine, or the run in `folder`, and print what was found.

    Returns:
        0 where all that is needed works, 1 otherwise.

    Raises:
        RunError: there is no such folder.
    """
    if folder is None:
        with ThreadPoolExecutor(2) as several:
            outcomes = [outcome for found in several.map(lambda check: check(), CHECKS.values()) for outcome in found]
    else:
        if not folder.is_dir():
            raise RunError(f"There is no folder {folder}. `stillsight list runs` shows the runs.")
        outcomes = ask("stillsight.agents.doctor.run_check", str(folder), check=str(folder), limit=WHOLE_RUN)
    wrong = sum(outcome.state == "wrong" for outcome in outcomes)
    if config.json:
        print_json(to_json({"ok": not wrong, "checks": [asdict(outcome) for outcome in outcomes]}))
    else:
        print(*outcomes, closing(outcomes, folder), sep="\n")
    return 1 if wrong else 0


def closing(outcomes: Iterable[Outcome], folder: Path | None) -> str:
    """The last line."""
    wrong = sum(outcome.state == "wrong" for outcome in outcomes)
    whole = "This machine is ready" if folder is None else f"{folder} is whole"
    ill = "do not work" if folder is None else "are wrong"
    return f"{wrong} of these {ill}; the lines say what to type." if wrong else f"{whole}."
