"""Provenance: where the numbers of a report come from; how many, when, on what, with what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.report.tables import machine


def facts(grid: Grid) -> list[tuple[str, str]]:
    """Names and values, for people; dates are those of the cells, so that the report of the same cells is the same."""
    results = [cell.result for cell in (*grid.cells, *grid.tuning) if cell.result is not None]
    machines = [result.machine for result in results]
    dates = sorted(str(facts["date"]) for facts in machines if facts.get("date"))
    versions = [f"{name} {version}" for facts in machines for name, version in (facts.get("versions") or {}).items()]
    counted = [cell.result for cell in grid.cells if cell.result is not None]
    episodes = sorted({len(values) for result in counted for values in result.scores.values()})
    rows = [
        ("cells that count", str(len(grid.cells)) + (f" of {grid.asked}" if grid.asked is not None else "")),
        ("cells that chose rates", str(len(grid.tuning)) if grid.tuning else ""),
        ("scores of a cell", " or ".join(map(str, episodes)) + " for clean play and each shift" if episodes else ""),
        ("run", dates[0] if len(set(dates)) == 1 else f"{dates[0]} to {dates[-1]}" if dates else ""),
        ("machines", _counted(map(machine, machines))),
        ("commits", _counted(str(facts["commit"]) for facts in machines if facts.get("commit"))),
        ("Python", _counted(str(facts["python"]) for facts in machines if facts.get("python"))),
        ("versions", ", ".join(sorted(set(versions)))),
        ("run again with", "stillsight benchmark SPEC.toml"),
        ("report again with", "stillsight report FOLDER"),
    ]
    return [(name, value) for name, value in rows if value]


def _counted(values: Iterable[str]) -> str:
    counts = sorted(Counter(values).items())
    if len(counts) == 1:
        return counts[0][0]
    return "; ".join(f"{value} ({count} cells)" for value, count in counts)
