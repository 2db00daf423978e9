"""What is published comes out of the raw data that lies beside it, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillsight.agents.benchmark.benchmark_config import ReportConfig
from stillsight.agents.benchmark.report.report import report

PUBLISHED = Path(__file__).resolve().parents[3] / "results" / "published" / "benchmark"
GRIDS = sorted(path.parent for path in PUBLISHED.glob("*/report.md"))


def test_there_are_published_grids() -> None:
    assert {"orchard", "orchard-long", "four-tasks", "cifar"} <= {folder.name for folder in GRIDS}


@pytest.mark.parametrize("folder", GRIDS, ids=lambda folder: folder.name)
def test_its_tables_come_out_again(folder: Path, tmp_path: Path) -> None:
    code = report(folder, ReportConfig(out=tmp_path))
    text = (folder / "report.md").read_text()
    kinds = [problem["kind"] for problem in json.loads((folder / "summary.json").read_text())["problems"]]
    assert ("## Cells that do not count" in text) == bool(kinds)
    assert code == int(any(kind != "not asked for" for kind in kinds))
    assert (tmp_path / "report.md").read_text() == text
    assert (tmp_path / "summary.json").read_bytes() == (folder / "summary.json").read_bytes()
    assert (tmp_path / "scores.md").read_bytes() == (folder / "scores.md").read_bytes()
