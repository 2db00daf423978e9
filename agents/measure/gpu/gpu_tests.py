"""The tests marked gpu: found in the checkout, run by pytest, one row each, of which a killed run loses none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillsight.agents.errors import RunError
from stillsight.encoders.atomic import to_json

ROOT = Path(__file__).resolve().parents[3]
"""The checkout; of an installed package, a folder without tests."""
MARK = "mark.gpu"
"""What a file of tests that need a GPU has in it."""
ROWS = "STILLSIGHT_GPU_ROWS"
"""The environment variable that tells pytest where the rows go."""


def pytest_runtest_logreport(report: Any) -> None:
    """Write a row about a test that has ended, or was skipped: this module is a plugin of the pytest that runs them."""
    if report.when != "call" and report.passed:
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    skipped = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    row = {
        "test": report.nodeid,
        "outcome": "error" if report.failed and report.when != "call" else report.outcome,
        "seconds": report.duration,
        "sentence": (crash.message.splitlines() or [""])[0] if crash else skipped.removeprefix("Skipped: "),
        "traceback": report.longreprtext if report.failed else "",
    }
    with Path(os.environ[ROWS]).open("a") as file:
        file.write(to_json(row) + "\n")


def files(root: Path = ROOT) -> list[str]:
    """Files with tests that need a GPU, from the root of the checkout.

    Raises:
        RunError: this is no checkout.
    """
    if not (root / "tests" / "conftest.py").is_file():
        raise RunError(
            f"The tests lie in a checkout of stillsight, and {root} is none. Type make gpu in one, or --parts without "
            "tests."
        )
    found = sorted((root / "tests").rglob("test_*.py"))
    return [str(path.relative_to(root)) for path in found if MARK in path.read_text()]


def run_tests(keep: Callable[[dict[str, Any]], object], left: Callable[[], float], root: Path = ROOT) -> dict[str, Any]:
    """Run the tests that need a GPU in a pytest of their own.

    Args:
        keep: called with the result so far while they run.
        left: seconds until they are stopped.
        root: the checkout.

    Returns:
        `passed`, `failed`, `error` and `skipped` as counts, `tests` as rows, and `exit_code` of pytest.

    Raises:
        RunError: there are no tests here, or pytest could not run them.
    """
    chosen = files(root)
    with tempfile.TemporaryDirectory(prefix="stillsight-gpu-") as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.touch()
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", __name__, "-p", "no:cacheprovider", *chosen]
        environment = {**os.environ, ROWS: str(rows)}
        process = subprocess.Popen(command, cwd=root, env=environment, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None and left() > 0:
                try:
                    process.wait(min(2.0, max(left(), 0.01)))
                except subprocess.TimeoutExpired:
                    keep(counted(rows))
            result = counted(rows) | {"exit_code": process.poll(), "files": chosen}
        finally:
            process.kill()
            process.wait()
    if result["exit_code"] is None:
        keep(result)
        raise RunError(f"the time was over after {len(result['tests'])} tests.")
    if result["exit_code"] not in (0, 1):
        keep(result)
        raise RunError(f"pytest ended with exit code {result['exit_code']}: its tests could not be collected.")
    return result


def counted(rows: Path) -> dict[str, Any]:
    """The rows of a file, and how many there are of each outcome; half a row at its end is left out."""
    tests = [json.loads(line) for line in rows.read_text().splitlines(keepends=True) if line.endswith("\n")]
    outcomes = Counter(row["outcome"] for row in tests)
    return {name: outcomes[name] for name in ("passed", "failed", "error", "skipped")} | {"tests": tests}
