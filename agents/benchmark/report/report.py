"""The report command: from a folder of cells to tables, figures and a page.

report.md     verdicts, tables, cost      scores.md     its tables of scores alone, the same after any interruption
index.html    all of it on one page       summary.json  all numbers and curves
figures/      SVG and PNG
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from urllib.parse import quote

from stillsight.agents.benchmark.analysis.analysis import analyse
from stillsight.agents.benchmark.analysis.collect import Grid, collect
from stillsight.agents.benchmark.benchmark_config import ReportConfig
from stillsight.agents.benchmark.grid.cell import Cell
from stillsight.agents.benchmark.grid.parse import read_spec
from stillsight.agents.benchmark.report import document, figures, page
from stillsight.agents.benchmark.report.provenance import facts
from stillsight.agents.benchmark.report.report_json import summary
from stillsight.agents.benchmark.report.statement import Statement, state_all
from stillsight.agents.errors import RunError
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.trust import NOTHING, Trust
from stillsight.encoders.atomic import to_json, write_atomically, writing
from stillsight.encoders.system.plain_file import below

NEEDED = ("jinja2", "matplotlib", "scipy")
"""Packages of the extra `benchmark`."""


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
    title, grid = read(folder, Trust(config.trust))
    analysis = analyse(grid)
    together, statements = state_all(analysis)
    out = config.out or folder
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    drawn = figures.draw(analysis, below(out, "figures", what="benchmark folder"))
    videos = {cell.key: shown for cell in grid.cells if (shown := _videos(cell, folder, out))}
    profile = (out / "figures" / "profile.svg").read_text() if analysis.together.arms else None
    scores = document.scores(analysis)
    texts = [
        f"# {title}\n",
        document.verdicts([*([together] if together else []), *statements]),
        scores,
        document.cost(analysis, statements),
        document.figures(drawn),
    ]
    numbers = summary(title, analysis, together, statements)
    write_atomically(out / "scores.md", scores)
    write_atomically(out / "report.md", "\n".join(texts))
    write_atomically(out / "summary.json", to_json(numbers, indent=1) + "\n")
    html = page.render(title, analysis, together, statements, videos, profile, facts(grid))
    write_atomically(out / "index.html", html)
    _show(title, grid, out, [*([together] if together else []), *statements])
    return 0 if grid.complete else 1


def read(folder: Path, trust: Trust = NOTHING) -> tuple[str, Grid]:
    """Title and grid of a benchmark folder; without a SPEC.toml whatever cells there are."""
    if not (folder / "SPEC.toml").is_file():
        return "Benchmark", collect(folder)
    spec = read_spec(folder / "SPEC.toml", check=False, trust=trust)
    return spec.name, collect(folder, spec)


def _show(title: str, grid: Grid, out: Path, statements: Sequence[Statement]) -> None:
    """Print the verdicts in short, how many cells count, how many do not, and where everything is."""
    display = ProgressDisplay()
    for statement in statements:
        display.card(statement.title, {})
        for question, told in statement.answers or [("There is nothing to compare.", "")]:
            display.console.print(f"  {question} {told}".rstrip(), soft_wrap=True, markup=False)
    kinds = dict.fromkeys(problem.kind for problem in grid.problems)
    rows: dict[str, str] = {kind: f"{len(grid.problems_of(kind))} cells" for kind in kinds}
    names = {"page": "index.html", "tables": "report.md", "numbers": "summary.json", "figures": "figures"}
    rows |= {what: str(out / name) for what, name in names.items()}
    display.card(f"{title}: {page.counted(grid)}", rows)


def _videos(cell: Cell, folder: Path, out: Path) -> list[page.Video]:
    """The videos in a cell's run folder, where that is kept."""
    paths = sorted((folder / "runs" / cell.key / "videos").glob("*.mp4"))
    return [
        page.Video(quote(os.path.relpath(path, out).replace(os.sep, "/")), f"{cell.arm}, seed {cell.seed}, {path.stem}")
        for path in paths
    ]
