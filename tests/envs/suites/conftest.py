"""Keeps the outcomes of the contract test in a file, see `make contract`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from json import dumps
from pathlib import Path
from typing import Any

import pytest

from stillsight.agents.runs.machine import machine
from stillsight.envs.registry import guessed_from_name

KEPT = "STILLSIGHT_CONTRACT"
"""Environment variable that names the file, which is written anew: a line of JSON for the run, and one for each row of
each suite and question."""


@cache
def version_of(module: str) -> str | None:
    """The version of the package that brings a module; None where it is not here."""
    try:
        return version(packages_distributions().get(module, [module])[0])
    except PackageNotFoundError:
        return None


def keep(line: dict[str, Any]) -> None:
    with Path(os.environ[KEPT]).open("a") as file:
        file.write(dumps(line) + "\n")


def pytest_sessionstart() -> None:
    """Write what holds for all lines."""
    if KEPT in os.environ:
        ran = machine()  # before the file is emptied, which may be a tracked one
        Path(os.environ[KEPT]).write_text("")
        keep(
            {
                "command": "make contract",
                "date": ran["date"].partition("T")[0],
                **{key: ran[key] for key in ("commit", "cpu", "cores", "python")},
                "packages": {name: version_of(name) for name in ("gymnasium", "stable_baselines3", "numpy", "torch")},
            }
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Write the line of a question to a row, once it is answered."""
    report = yield
    if (
        KEPT in os.environ
        and item.path.stem == "test_contract"
        and (report.when == "call" or report.outcome != "passed")
    ):
        row = item.callspec.params["row"]  # type: ignore[attr-defined]
        suite = guessed_from_name(row.id)
        drawn_by = ("mujoco",) if suite.draws == "mujoco" else ()
        found = {module: version_of(module) for module in dict.fromkeys((*row.needs, *drawn_by))}
        why = "" if report.outcome == "passed" else str(report.longrepr[2] if report.skipped else call.excinfo.value)  # type: ignore[union-attr]
        keep(
            {
                "row": row.id,
                "suite": suite.name,
                "question": item.originalname,  # type: ignore[attr-defined]
                "outcome": report.outcome,
                **({"why": why.removeprefix("Skipped: ").partition("\n")[0]} if why else {}),
                "seconds": round(call.duration, 1),
                "packages": {module: number for module, number in found.items() if number is not None},
            }
        )
    return report
