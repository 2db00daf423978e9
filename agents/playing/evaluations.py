"""Evaluations: the file of a run folder to which their results are appended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillsight.agents.runs.place import place
from stillsight.agents.runs.records import append_line
from stillsight.encoders.atomic import writing
from stillsight.encoders.errors import DiskFault

EVALUATIONS = "evaluations.jsonl"
"""File of a run folder to which the results of `stillsight evaluate` are appended."""
ELSEWHERE = "The result stands above; to keep it elsewhere, type --out FOLDER."


def keep(folder: Path, result: Mapping[str, Any]) -> None:
    """Append a result that has been printed to evaluations.jsonl of `folder`, which is made.

    Raises:
        DiskFault: it cannot be written there.
    """
    path = place(folder, EVALUATIONS)
    try:
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
        append_line(path, result)
    except DiskFault as fault:
        fault.advice = ELSEWHERE
        raise
