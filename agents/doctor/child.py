"""A Python process of its own for what may crash, hang, or not be importable at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from stillsight.agents.doctor.outcome import Outcome
from stillsight.encoders.atomic import to_json

LIMIT = 120
"""Seconds that a check may take, importing torch from a slow disk included."""


def ask(module: str, *words: str, check: str, limit: float = LIMIT) -> list[Outcome]:
    """The outcomes that `python -m module words` prints, see `tell`; where it prints none, why.

    Args:
        module: of this room, with a `tell` at its end.
        words: its arguments.
        check: what it looks at.
        limit: seconds after which it is stopped.
    """
    printed, error = run(["-m", module, *words], limit=limit)
    if error is not None:
        return _failed(check, error)
    try:
        return [Outcome(**row) for row in json.loads(printed.splitlines()[-1])]
    except (ValueError, IndexError, TypeError):
        return _failed(check, "it said nothing that can be read")


def _failed(check: str, error: str) -> list[Outcome]:
    advice = 'pip install --force-reinstall "stillsight[all]"' if "import" in error.lower() or "module" in error else ""
    return [Outcome(check, "wrong", f"cannot be checked ({error})", advice)]


def run(words: Sequence[str], *, limit: float, environment: Mapping[str, str] | None = None) -> tuple[str, str | None]:
    """What a Python process printed, and in a sentence why it failed, None where it did not.

    It does not look for modules in the current folder, and is killed when its time is over.

    Args:
        words: arguments of Python.
        limit: seconds.
        environment: variables on top of ours.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return "", f"it did not end within {limit:g} s"
    except OSError as error:
        return "", f"no process could be started: {error}"
    if done.returncode < 0:
        return done.stdout, f"it crashed with signal {-done.returncode}"
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return done.stdout, lines[-1][:300] if lines else f"it ended with code {done.returncode}"
    return done.stdout, None


def tell(outcomes: Sequence[Outcome]) -> None:
    """Print outcomes for `ask`."""
    print(to_json([asdict(outcome) for outcome in outcomes]))
