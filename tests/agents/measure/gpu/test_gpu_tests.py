"""The tests that need a GPU: found by their mark, each a row with its reason, and none lost when the time is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillsight.agents.errors import RunError
from stillsight.agents.measure.gpu.gpu_tests import ROOT, counted, files, run_tests

PLANTED = """
import time
import pytest

pytestmark = pytest.mark.gpu


def test_passes():
    pass


def test_fails():
    assert 1 + 1 == 3, "arithmetic"


@pytest.mark.skip(reason="no card")
def test_is_skipped():
    pass


def test_breaks_before(nowhere):
    pass


def test_sleeps():
    time.sleep(SECONDS)
"""


def checkout(folder: Path, seconds: float) -> Path:
    (folder / "tests").mkdir()
    (folder / "tests" / "conftest.py").touch()
    (folder / "tests" / "test_planted.py").write_text(PLANTED.replace("SECONDS", str(seconds)))
    (folder / "tests" / "test_other.py").write_text("def test_that_needs_no_gpu():\n    assert False\n")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = gpu: x\n")
    return folder


def test_the_files_are_found_by_the_mark() -> None:
    found = files()
    assert {"tests/agents/test_on_a_gpu.py", "tests/encoders/test_on_a_gpu.py"} <= set(found)
    assert "tests/agents/test_freeze.py" not in found
    assert ROOT.joinpath("pyproject.toml").is_file()


def test_each_test_is_a_row_with_its_reason(tmp_path: Path) -> None:
    result = run_tests(lambda _: None, lambda: 60.0, checkout(tmp_path, 0.0))
    counts = [result[key] for key in ("passed", "failed", "error", "skipped", "exit_code")]
    assert counts == [2, 1, 1, 1, 1]
    rows = {row["test"].rpartition("::")[2]: row for row in result["tests"]}
    assert set(rows) == {"test_passes", "test_fails", "test_is_skipped", "test_breaks_before", "test_sleeps"}
    assert rows["test_fails"]["sentence"] == "AssertionError: arithmetic"
    assert "assert 1 + 1 == 3" in rows["test_fails"]["traceback"]
    assert rows["test_is_skipped"]["sentence"] == "no card"
    assert "fixture 'nowhere' not found" in rows["test_breaks_before"]["traceback"]


def test_when_the_time_is_over_no_row_is_lost(tmp_path: Path) -> None:
    kept: list[dict[str, Any]] = []

    def left() -> float:
        return 60.0 if len(kept[-1]["tests"] if kept else []) < 4 else -1.0

    with pytest.raises(RunError, match=r"^the time was over after 4 tests\.$"):
        run_tests(kept.append, left, checkout(tmp_path, 60.0))
    assert [row["outcome"] for row in kept[-1]["tests"]] == ["passed", "failed", "skipped", "error"]


def test_half_a_row_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('{"outcome": "passed"}\n{"outcome": "fai')
    assert counted(tmp_path / "rows")["tests"] == [{"outcome": "passed"}]


def test_where_there_is_nothing_to_test_it_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is none\. Type make gpu in one, or --parts without tests\."):
        files(tmp_path)
    checkout(tmp_path, 0.0)
    (tmp_path / "tests" / "test_planted.py").write_text("import nowhere  # mark.gpu\n")
    with pytest.raises(RunError, match=r"pytest ended with exit code 2: its tests could not be collected\."):
        run_tests(lambda _: None, lambda: 60.0, tmp_path)
