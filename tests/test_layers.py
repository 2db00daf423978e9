"""train.py -> agents -> {envs, encoders}; envs and encoders never see each other, and nobody imports train.py."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ALLOWED = {"encoders": {"encoders"}, "envs": {"envs"}, "agents": {"agents", "envs", "encoders"}}


def imported(source: str, package: str) -> set[str]:
    """Names of our top-level folders (or "train") that `source`, a module of `package`, imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"stillsight.{package}" if node.level else node.module or ""]
        for name in names:
            parts = name.split(".")
            if parts[0] == "stillsight" and len(parts) > 1:
                found.add(parts[1])
            elif parts[0] == "train":
                found.add("train")
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_a_folder_imports_only_what_lies_below_it(root: Path, package: str) -> None:
    files = sorted((root / package).rglob("*.py"))
    assert files
    for file in files:
        assert imported(file.read_text(), package) <= ALLOWED[package], file


def test_the_check_sees_a_forbidden_import() -> None:
    assert imported("def f():\n    from stillsight.agents.runs.folder import Run", "envs") == {"agents"}
    assert imported("import train", "agents") == {"train"}


def test_no_file_holds_more_than_one_noun(root: Path) -> None:
    """About 200 lines a file; 260 is where a reader begins to scroll instead of read."""
    files = [file for package in ALLOWED for file in (root / package).rglob("*.py")]
    long = {file.name: lines for file in files if (lines := len(file.read_text().splitlines())) > 300}
    assert not long
    forbidden = {"utils.py", "common.py", "helpers.py", "manager.py", "misc.py"}
    assert not forbidden & {file.name for file in files}
