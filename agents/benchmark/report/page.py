"""The page of a report: one HTML file with everything in it, which needs no network, and scripts only for curves."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from stillsight.agents.benchmark.analysis.analysis import Analysis
from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.analysis.estimates import Estimates
from stillsight.agents.benchmark.analysis.setting import Setting
from stillsight.agents.benchmark.analysis.stats import Interval
from stillsight.agents.benchmark.analysis.verdict import Verdict
from stillsight.agents.benchmark.grid.cell import CLEAN
from stillsight.agents.benchmark.report import palette, tables
from stillsight.agents.benchmark.report.numbers import Numbers, with_bounds
from stillsight.agents.benchmark.report.report_json import rounded
from stillsight.agents.benchmark.report.statement import Statement


@dataclass(frozen=True)
class Video:
    """A recorded episode: its address relative to the page, and what it shows."""

    url: str
    label: str


def render(
    title: str,
    analysis: Analysis,
    together: Statement | None,
    statements: Sequence[Statement],
    videos: Mapping[str, Sequence[Video]],
    profile: str | None,
    facts: Sequence[tuple[str, str]],
) -> str:
    """The page as text.

    Args:
        title: of the benchmark.
        analysis: its numbers.
        together: what is said of all environments together, if anything.
        statements: what is said of each setting, in the analysis' order.
        videos: key of a cell -> its videos.
        profile: the performance profile as SVG, if there is one.
        facts: where the numbers come from, as names and values.

    Raises:
        ImportError: jinja2 is not installed.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    grid = analysis.grid
    here = files("stillsight.agents.benchmark.report")
    style, script, template = (here.joinpath(f"page.{ending}").read_text() for ending in ("css", "js", "html"))
    script = f"\n{script}"
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(template).render(
        title=title,
        counted=counted(grid),
        style=Markup(style),
        script=Markup(script),
        # The browser runs this one script and no other, whatever the data may hold.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(
            _script_safe([_curves(one, grid.arm_order(one.setting.track)) for one, _ in analysis.settings]),
        ),
        palette={"light": palette.LIGHT, "dark": palette.DARK},
        parts=[
            _part(index, estimates, verdict, statement, grid.arm_order(estimates.setting.track), videos)
            for index, ((estimates, verdict), statement) in enumerate(zip(analysis.settings, statements, strict=True))
        ],
        together=tables.together(analysis.together),
        whole=together and {"anchor": "together", "title": together.title, **_spoken(together)},
        profile=None if profile is None else base64.b64encode(profile.encode()).decode(),
        problems=tables.problems(grid),
        tuning=tables.rates(analysis.rates),
        facts=facts,
        spec=grid.spec,
    )


def counted(grid: Grid) -> str:
    """How many cells there are, in one sentence."""
    of = "" if grid.asked is None else f" of the {grid.asked} that SPEC.toml asks for"
    arms = len({arm.label for setting in grid.settings for arm in setting.arms})
    seeds = sorted({len(arm.cells) for setting in grid.settings for arm in setting.arms}) or [0]
    spread = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    places = "1 setting" if len(grid.settings) == 1 else f"{len(grid.settings)} settings"
    return f"{len(grid.cells)} cells count{of}: {arms} arms in {places}, {spread} seeds each."


def _part(
    index: int,
    estimates: Estimates,
    verdict: Verdict,
    statement: Statement,
    order: Mapping[str, int],
    videos: Mapping[str, Sequence[Video]],
) -> dict[str, Any]:
    """All that the template shows of one setting."""
    setting, show = estimates.setting, Numbers(estimates.setting)
    dots = _Dots(setting, _scale(estimates), show, order)
    panels = {
        name: [(one.arm, one.intervals[name]) for one in estimates.arms if name in one.intervals]
        for name in (CLEAN, *setting.shifts)
    }
    return {
        "anchor": f"setting-{index}",
        "title": setting.title,
        **_spoken(statement),
        "references": " and ".join(sorted(setting.references)),
        "scale": [show(bound) for bound in dots.scale],
        "dots": [dots.row(arm.label, interval, list(arm.scores())) for arm, interval in panels[CLEAN]],
        "panels": [
            (name, [dots.row(arm.label, interval, ()) for arm, interval in rows]) for name, rows in panels.items()
        ],
        "curves": any(one.learning for one in estimates.arms),
        "scores": tables.scores(estimates),
        "shifts": tables.shifts(estimates, verdict),
        "cost": tables.cost(estimates),
        "videos": [video for arm in setting.arms for cell in arm.cells for video in videos.get(cell.key, ())],
    }


def _spoken(statement: Statement) -> dict[str, Any]:
    return {"answers": statement.answers, "sentences": (*statement.sentences, *statement.cost)}


def _scale(estimates: Estimates) -> tuple[float, float]:
    """The ends of a setting's dot plots: everything that is shown lies between them."""
    shown = [reference["mean"] for reference in estimates.setting.references.values()]
    for one in estimates.arms:
        shown += [float(score) for score in one.arm.scores()]
        shown += [bound for interval in one.intervals.values() for bound in interval if not math.isnan(bound)]
    return min(shown), max(shown)


@dataclass(frozen=True)
class _Dots:
    """The dot plots of a setting; places are in percent of their width."""

    setting: Setting
    scale: tuple[float, float]
    show: Numbers
    order: Mapping[str, int]

    def at(self, score: float) -> float:
        """The place of a score."""
        low, high = self.scale
        return round(100 * (score - low) / (high - low), 2) if high > low else 50.0

    def row(self, label: str, interval: Interval, seeds: Sequence[float]) -> dict[str, Any]:
        """One row: an arm's IQM with its interval, its seeds, and the references."""
        known = not math.isnan(interval.low)
        references = sorted(self.setting.references.items())
        return {
            "label": label,
            "tint": self.order[label] % len(palette.LIGHT),
            "text": with_bounds(interval, self.show),
            "at": self.at(interval.value),
            "low": self.at(interval.low) if known else None,
            "width": round(self.at(interval.high) - self.at(interval.low), 2) if known else None,
            "seeds": [self.at(score) for score in seeds],
            "marks": [{"at": self.at(reference["mean"]), "label": name} for name, reference in references],
        }


def _curves(estimates: Estimates, order: Mapping[str, int]) -> dict[str, Any]:
    """What the page's script draws: of each arm rows of step, seconds, IQM and its bounds, None if there are none."""
    setting = estimates.setting
    supervised = setting.track == "cifar"
    arms = []
    for one in estimates.arms:
        curve, index = one.learning, order[one.arm.label]
        columns = (curve.steps, curve.seconds, *curve.returns) if curve else ()
        arms.append(
            {
                "label": one.arm.label,
                "tint": index % len(palette.LIGHT),
                "dash": " ".join(f"{2 * length:g}" for length in palette.dash(index)),
                "seeds": len(one.arm.curves),
                "curve": rounded(list(zip(*columns, strict=True))),
            }
        )
    return {
        "title": setting.title,
        "seconds": setting.seconds,
        "unit": "epochs" if supervised else "environment steps",
        "measure": "validation accuracy" if supervised else "return",
        "references": [{"name": name, "mean": row["mean"]} for name, row in sorted(setting.references.items())],
        "arms": arms,
    }


def _script_safe(settings: Sequence[Mapping[str, Any]]) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps({"settings": settings}, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
