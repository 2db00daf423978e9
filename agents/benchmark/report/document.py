"""The text of report.md. Scores and cost are apart: a cell that is run again scores the same and takes another time."""

from __future__ import annotations

from collections.abc import Sequence

from stillsight.agents.benchmark.analysis.aggregate import Aggregate
from stillsight.agents.benchmark.analysis.aggregate import table as aggregate_table
from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.analysis.verdict import Verdict
from stillsight.agents.benchmark.report import tables
from stillsight.agents.benchmark.report.table import Table, escaped, markdown


def scores(grid: Grid, together: Aggregate) -> str:
    """Cells that do not count, then every table of scores: equal bytes for equal scores."""
    parts = [markdown(problems, 2)] if (problems := tables.problems(grid)) else []
    parts += ["## Scores\n"]
    for setting in grid.settings:
        parts += [markdown(table) for table in (tables.scores(setting), tables.shifts(setting)) if table]
    parts += [markdown(table) for table in (aggregate_table(together), tables.tuning(grid)) if table]
    return "\n".join(parts)


def verdicts(grid: Grid, together: Verdict | None, found: Sequence[Verdict]) -> str:
    """What the scores allow to say, over all settings and setting by setting."""
    parts = ["## Verdicts\n"]
    titled = [(together.task, together)] if together else []
    for title, verdict in [*titled, *zip((setting.title for setting in grid.settings), found, strict=True)]:
        parts += [f"### {escaped(title)}", ""]
        parts += [f"- **{escaped(question)}** {escaped(told)}" for question, told in verdict.answers]
        parts += ["", "In numbers:", ""] if verdict.answers else []
        parts += [f"- {escaped(told)}" for told in verdict.sentences or ("There is nothing to compare.",)]
        parts.append("")
    return "\n".join(parts)


def cost(grid: Grid, found: Sequence[Verdict]) -> str:
    """What a clock and the memory told."""
    parts = ["## Cost\n"]
    for setting, verdict in zip(grid.settings, found, strict=True):
        table: Table = tables.cost(setting)
        parts.append(markdown(table))
        parts += [f"- {escaped(sentence)}" for sentence in verdict.cost]
        parts += [""] * bool(verdict.cost)
    return "\n".join(parts)


def figures(drawn: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Links to the figures, relative to the report."""
    parts = ["## Figures\n"]
    for heading, names in drawn:
        parts += [f"### {escaped(heading)}", "", *(f"![{name}](figures/{name}.svg)" for name in names), ""]
    return "\n".join(parts)
