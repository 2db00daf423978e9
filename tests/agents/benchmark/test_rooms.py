"""The rooms of the benchmark: statistics know nothing of wording, and wording computes nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOM = "stillsight.agents.benchmark"
ALLOWED = {
    "grid": {"grid"},
    "analysis": {"analysis", "grid"},
    "running": {"running", "grid"},
    "report": {"report", "analysis", "grid", "benchmark_config"},
}
"""Room -> the rooms of the benchmark that it may import."""
COMMAND = "report.py"
"""The one file of report/ that has statistics computed: it is the command."""


def imports(source: str) -> Iterator[tuple[str, str]]:
    """Modules that `source` imports anywhere, with each name that it takes from them ("" for a whole module)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not followed here"
            yield from ((node.module or "", alias.name) for alias in node.names)


def rooms(source: str) -> set[str]:
    """The rooms of the benchmark that `source` imports."""
    found = {f"{module}.{name}" for module, name in imports(source)}
    return {name.removeprefix(f"{ROOM}.").partition(".")[0] for name in found if name.startswith(f"{ROOM}.")}


def computes(source: str) -> list[str]:
    """What `source` imports that is no name of a type or a constant: numbers' packages, functions of the analysis."""
    found = []
    for module, name in imports(source):
        if module.partition(".")[0] in ("numpy", "scipy"):
            found.append(module)
        elif module.startswith(f"{ROOM}.analysis") and not name[:1].isupper():
            found.append(f"{module}.{name}")
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(root: Path, room: str) -> None:
    files = sorted((root / "agents" / "benchmark" / room).glob("*.py"))
    assert len(files) > 4
    for file in files:
        assert rooms(file.read_text()) <= ALLOWED[room], file


def test_wording_computes_nothing(root: Path) -> None:
    for file in sorted((root / "agents" / "benchmark" / "report").glob("*.py")):
        if file.name != COMMAND:
            assert not computes(file.read_text()), file


def test_the_checks_see_what_is_forbidden() -> None:
    assert rooms(f"def f():\n    from {ROOM}.report.tables import scores") == {"report"}
    assert rooms(f"from {ROOM}.report import tables") == {"report"}
    assert computes(f"from {ROOM}.analysis.stats import interval") == [f"{ROOM}.analysis.stats.interval"]
    assert computes(f"from {ROOM}.analysis import stats") == [f"{ROOM}.analysis.stats"]
    assert computes("def f():\n    import numpy as np") == ["numpy"]
    assert not computes(f"from {ROOM}.analysis.stats import Interval")


def test_the_flags_cost_neither_torch_nor_scipy() -> None:
    program = (
        f"import sys, {ROOM}.benchmark_config\n"
        "assert not {'torch', 'scipy', 'gymnasium', 'stable_baselines3', 'fsspec'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
