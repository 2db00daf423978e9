"""The page of a report: one HTML file with everything in it, which needs no network, and scripts only for curves."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from stillsight.agents.benchmark.analysis import stats
from stillsight.agents.benchmark.analysis.aggregate import Aggregate
from stillsight.agents.benchmark.analysis.aggregate import table as aggregate_table
from stillsight.agents.benchmark.analysis.collect import Grid
from stillsight.agents.benchmark.analysis.setting import Arm, Setting
from stillsight.agents.benchmark.analysis.verdict import Verdict
from stillsight.agents.benchmark.report import palette, tables
from stillsight.agents.benchmark.report.report_json import rounded
from stillsight.agents.benchmark.report.tables import Numbers


@dataclass(frozen=True)
class Video:
    """A recorded episode: its address relative to the page, and what it shows."""

    url: str
    label: str


def render(
    title: str,
    grid: Grid,
    together: Aggregate,
    whole: Verdict | None,
    verdicts: Sequence[Verdict],
    videos: Mapping[str, Sequence[Video]],
    profile: str | None,
    facts: Sequence[tuple[str, str]],
) -> str:
    """The page as text.

    Args:
        title: of the benchmark.
        grid: what counts and what does not.
        together: the normalised scores.
        whole: the verdict on them, if there is one.
        verdicts: one for each setting of the grid, in its order.
        videos: key of a cell -> its videos.
        profile: the performance profile as SVG, if there is one.
        facts: where the numbers come from, as names and values.

    Raises:
        ImportError: jinja2 is not installed.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

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
        data=Markup(_script_safe([_curves(setting, grid.order(setting.track)) for setting in grid.settings])),
        palette={"light": palette.LIGHT, "dark": palette.DARK},
        parts=[
            _part(index, setting, verdict, grid.order(setting.track), videos)
            for index, (setting, verdict) in enumerate(zip(grid.settings, verdicts, strict=True))
        ],
        together=aggregate_table(together),
        whole=whole and {"anchor": "together", "title": whole.task, **_spoken(whole)},
        profile=None if profile is None else base64.b64encode(profile.encode()).decode(),
        problems=tables.problems(grid),
        tuning=tables.tuning(grid),
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
    setting: Setting,
    verdict: Verdict,
    order: Mapping[str, int],
    videos: Mapping[str, Sequence[Video]],
) -> dict[str, Any]:
    """All that the template shows of one setting."""
    found = {
        name: [(arm, stats.interval(arm.scores(name))) for arm in setting.arms if len(arm.scores(name))]
        for name in ("clean", *setting.shifts)
    }
    reach = [float(score) for arms in found.values() for arm, _ in arms for score in arm.scores()]
    reach += [bound for arms in found.values() for _, values in arms for bound in values if not np.isnan(bound)]
    reach += [reference["mean"] for reference in setting.references.values()]
    scale, show = (min(reach), max(reach)), Numbers(setting)
    return {
        "anchor": f"setting-{index}",
        "title": setting.title,
        **_spoken(verdict),
        "references": " and ".join(sorted(setting.references)),
        "scale": [show(bound) for bound in scale],
        "dots": [_dots(arm, value, arm.scores(), setting, scale, order) for arm, value in found["clean"]],
        "panels": [
            (name, [_dots(arm, value, (), setting, scale, order) for arm, value in arms])
            for name, arms in found.items()
        ],
        "curves": any(arm.learning() for arm in setting.arms),
        "scores": tables.scores(setting),
        "shifts": tables.shifts(setting),
        "cost": tables.cost(setting),
        "videos": [video for arm in setting.arms for cell in arm.cells for video in videos.get(cell["key"], ())],
    }


def _spoken(verdict: Verdict) -> dict[str, Any]:
    return {"answers": verdict.answers, "sentences": (*verdict.sentences, *verdict.cost)}


def _dots(
    arm: Arm,
    found: stats.Interval,
    seeds: Sequence[float] | stats.Array,
    setting: Setting,
    scale: tuple[float, float],
    order: Mapping[str, int],
) -> dict[str, Any]:
    """One row of a dot plot, in percent of its width."""
    low, high = scale

    def at(score: float) -> float:
        return round(100 * (score - low) / (high - low), 2) if high > low else 50.0

    known = not np.isnan(found.low)
    return {
        "label": arm.label,
        "tint": order[arm.label] % len(palette.LIGHT),
        "text": Numbers(setting).interval(found).text,
        "at": at(found.value),
        "low": at(found.low) if known else None,
        "width": round(at(found.high) - at(found.low), 2) if known else None,
        "seeds": [at(score) for score in seeds],
        "marks": [{"at": at(row["mean"]), "label": name} for name, row in sorted(setting.references.items())],
    }


def _curves(setting: Setting, order: Mapping[str, int]) -> dict[str, Any]:
    """What the page's script draws: of each arm rows of step, seconds, IQM and its bounds, None if there are none."""
    supervised = setting.track == "cifar"
    arms = []
    for arm in setting.arms:
        found = arm.learning()
        columns = (found.steps, found.seconds, *found.returns) if found else ()
        index = order[arm.label]
        arms.append(
            {
                "label": arm.label,
                "tint": index % len(palette.LIGHT),
                "dash": " ".join(f"{2 * length:g}" for length in palette.dash(index)),
                "seeds": len(arm.curves),
                "curve": rounded(list(zip(*columns, strict=True))),
            }
        )
    return {
        "title": setting.title,
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
