"""The report command: from a folder of cells to tables, figures and a page.

report.md     verdicts, tables, cost      scores.md     its tables of scores alone, the same after any interruption
index.html    all of it on one page       summary.json  all numbers and curves
figures/      SVG and PNG
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from stillsight.agents.errors import RunError
from stillsight.encoders.atomic import write_atomically

if TYPE_CHECKING:
    from stillsight.agents.benchmark.analysis.collect import Grid
    from stillsight.agents.benchmark.analysis.setting import Cell
    from stillsight.agents.benchmark.report.page import Video

NEEDED = ("jinja2", "matplotlib", "scipy")
"""Packages of the extra `benchmark`."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write the tables, figures and HTML page of a benchmark from the cells in its folder."""

    out: Path | None = None
    """Where report.md, index.html, summary.json and figures/ go; the benchmark's own folder by default."""


def report(folder: Path, config: ReportConfig) -> int:
    """Report on the benchmark in `folder`.

    Returns:
        0; 1 if a cell failed, is missing, is damaged, or was made otherwise than those of its arm.

    Raises:
        RunError: there is nothing to report on, a package is missing, or SPEC.toml or references.json is wrong.
        EncoderError, EnvError: SPEC.toml names what there is not.
    """
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError as error:
            raise RunError(f'{name} is not installed. Run: pip install "stillsight[benchmark]"') from error
    from stillsight.agents.benchmark.analysis.aggregate import aggregate
    from stillsight.agents.benchmark.analysis.overall import overall
    from stillsight.agents.benchmark.analysis.verdict import verdicts
    from stillsight.agents.benchmark.report import document, figures, page
    from stillsight.agents.benchmark.report.provenance import facts
    from stillsight.agents.benchmark.report.report_json import summary
    from stillsight.agents.runs.progress import ProgressDisplay

    title, grid = read(folder)
    together, found = aggregate(grid), verdicts(grid.settings)
    whole = overall(grid, together)
    out = config.out or folder
    out.mkdir(parents=True, exist_ok=True)
    scores = document.scores(grid, together)
    drawn = figures.draw(grid, together, out / "figures")
    texts = (document.verdicts(grid, whole, found), scores, document.cost(grid, found), document.figures(drawn))
    videos = {cell["key"]: shown for cell in grid.cells if (shown := _videos(cell, folder, out))}
    profile = (out / "figures" / "profile.svg").read_text() if together.scores else None
    write_atomically(out / "scores.md", scores)
    write_atomically(out / "report.md", "\n".join([f"# {title}\n", *texts]))
    write_atomically(out / "summary.json", json.dumps(summary(title, grid, together, whole, found), indent=1) + "\n")
    write_atomically(out / "index.html", page.render(title, grid, together, whole, found, videos, profile, facts(grid)))
    kinds = dict.fromkeys(problem.kind for problem in grid.problems)
    rows: dict[str, str] = {kind: f"{len(grid.of(kind))} cells" for kind in kinds}
    names = {"page": "index.html", "tables": "report.md", "numbers": "summary.json", "figures": "figures"}
    rows |= {told: str(out / name) for told, name in names.items()}
    ProgressDisplay().card(f"{title}: {page.counted(grid)}", rows)
    return 0 if grid.whole else 1


def read(folder: Path) -> tuple[str, Grid]:
    """Title and grid of a benchmark folder; without a SPEC.toml whatever cells there are."""
    from stillsight.agents.benchmark.analysis.collect import collect
    from stillsight.agents.benchmark.grid.parse import read_spec

    if not (folder / "SPEC.toml").is_file():
        return "Benchmark", collect(folder)
    spec = read_spec(folder / "SPEC.toml", check=False)
    return spec.name, collect(folder, spec.expected(), spec.tasks)


def _videos(cell: Cell, folder: Path, out: Path) -> list[Video]:
    """The videos in a cell's run folder, where that is kept."""
    from stillsight.agents.benchmark.report.page import Video

    found = sorted((folder / "runs" / cell["key"] / "videos").glob("*.mp4"))
    told = f"{cell['arm']}, seed {cell['seed']}"
    return [Video(quote(os.path.relpath(path, out).replace(os.sep, "/")), f"{told}, {path.stem}") for path in found]
