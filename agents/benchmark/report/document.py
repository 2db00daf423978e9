"""The text of report.md. Scores and cost are apart: a cell that is run again scores the same and takes another time."""

from __future__ import annotations

from collections.abc import Sequence

from stillsight.agents.benchmark.analysis.analysis import Analysis
from stillsight.agents.benchmark.report import tables
from stillsight.agents.benchmark.report.statement import Statement
from stillsight.agents.benchmark.report.table import escaped, markdown


def scores(analysis: Analysis) -> str:
    """Cells that do not count, then every table of scores: equal bytes for equal scores."""
    problems = tables.problems(analysis.grid)
    parts = [markdown(problems, 2)] if problems else []
    parts += ["## Scores\n"]
    for estimates, verdict in analysis.settings:
        parts += [markdown(table) for table in (tables.scores(estimates), tables.shifts(estimates, verdict)) if table]
    parts += [markdown(table) for table in (tables.together(analysis.together), tables.rates(analysis.rates)) if table]
    return "\n".join(parts)


def verdicts(statements: Sequence[Statement]) -> str:
    """What the scores allow to say, in the order of `statements`."""
    parts = ["## Verdicts\n"]
    for statement in statements:
        parts += [f"### {escaped(statement.title)}", ""]
        parts += [f"- **{escaped(question)}** {escaped(told)}" for question, told in statement.answers]
        parts += ["", "In numbers:", ""] if statement.answers else []
        parts += [f"- {escaped(told)}" for told in statement.sentences or ("There is nothing to compare.",)]
        parts.append("")
    return "\n".join(parts)


def cost(analysis: Analysis, statements: Sequence[Statement]) -> str:
    """What a clock and the memory told, one of `statements` for each setting."""
    parts = ["## Cost\n"]
    for (estimates, _), statement in zip(analysis.settings, statements, strict=True):
        parts.append(markdown(tables.cost(estimates)))
        parts += [f"- {escaped(sentence)}" for sentence in statement.cost]
        parts += [""] * bool(statement.cost)
    return "\n".join(parts)


def figures(drawn: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Links to the figures, relative to the report."""
    parts = ["## Figures\n"]
    for heading, names in drawn:
        parts += [f"### {escaped(heading)}", "", *(f"![{name}](figures/{name}.svg)" for name in names), ""]
    return "\n".join(parts)
