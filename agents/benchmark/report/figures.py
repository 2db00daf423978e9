"""Figures of a benchmark as SVG and PNG: the same cells give the same bytes with the same version of matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillsight.agents.benchmark.analysis.aggregate import Aggregate
from stillsight.agents.benchmark.analysis.analysis import Analysis
from stillsight.agents.benchmark.analysis.estimates import Estimates
from stillsight.agents.benchmark.analysis.setting import Arm, Setting
from stillsight.agents.benchmark.grid.cell import CLEAN, slug
from stillsight.agents.benchmark.report.palette import colour, dash
from stillsight.encoders.atomic import replacing, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "stillsight",  # ids inside an SVG are random without a salt
    "text.parse_math": False,  # an arm's name may hold a dollar sign
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
FORMATS: dict[str, dict[str, Any]] = {
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "png": {"metadata": {"Software": None}, "dpi": 110},
}


def draw(analysis: Analysis, folder: Path) -> list[tuple[str, list[str]]]:
    """Draw every figure into `folder`, which is made, and return headings with the file names (no ending) below them.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    grid = analysis.grid
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[tuple[str, list[str]]] = []
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's own style would change the bytes
        mpl.rcParams.update(STYLE)
        for (estimates, _), name in zip(analysis.settings, names(grid.settings), strict=True):
            setting = estimates.setting
            order = grid.arm_order(setting.track)
            pictures = {
                "scores": scores(estimates, order),
                "curves": learning(estimates, order),
                "shifts": shifts(estimates, order),
            }
            done = [_save(figure, folder, f"{name}-{what}") for what, figure in pictures.items() if figure]
            drawn.append((setting.title, done))
        if analysis.together.arms:
            figure = profile(analysis.together, grid.arm_order("rl"))
            drawn.append(("All environments", [_save(figure, folder, "profile")]))
    return drawn


def names(settings: Sequence[Setting]) -> list[str]:
    """A file name for each setting, none of them twice."""
    bases = ["-".join(filter(None, (slug(setting.task), slug(setting.algo)))) or "task" for setting in settings]
    return [
        f"{base}_{before + 1}" if (before := bases[:index].count(base)) else base for index, base in enumerate(bases)
    ]


def learning(estimates: Estimates, order: dict[str, int]) -> Figure | None:
    """IQM of the evaluations with its interval, over steps and over seconds of training; None without any curve."""
    setting = estimates.setting
    curves = [(one.arm, one.learning) for one in estimates.arms if one.learning]
    if not curves:
        return None
    figure, (steps, seconds) = _figure(10, 3.8, columns=2)
    for arm, curve in curves:
        returns, style = curve.returns, _style(arm, order)
        for axes, along in ((steps, curve.steps), (seconds, curve.seconds)):
            alone = len(along) == 1  # through which no line goes
            axes.plot(along, returns.value, label=arm.label, linewidth=1.6, marker="o" if alone else "", **style)
            if alone and not math.isnan(returns.low[0]):
                axes.vlines(along, returns.low, returns.high, color=style["color"], alpha=0.4, linewidth=3)
            elif not any(map(math.isnan, returns.low)):
                axes.fill_between(along, returns.low, returns.high, color=style["color"], alpha=0.15, lw=0)
    supervised = setting.track == "cifar"
    steps.set_xlabel("epochs" if supervised else "environment steps")
    seconds.set_xlabel(f"{setting.seconds} of training, median over the seeds")
    steps.set_ylabel("validation accuracy, IQM" if supervised else "return, IQM")
    for axes in (steps, seconds):
        _references(axes.axhline, setting)
    figure.suptitle(setting.title)
    figure.legend(*steps.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def scores(estimates: Estimates, order: dict[str, int]) -> Figure:
    """Final scores: every seed as a dot, IQM and interval of each arm."""
    setting = estimates.setting
    figure, axes = _figure(7, 1.2 + 0.42 * len(setting.arms))
    for row, one in enumerate(estimates.arms):
        seeds, final, tint = sorted(one.arm.scores()), one.intervals[CLEAN], _style(one.arm, order)["color"]
        axes.plot(seeds, [row + 0.22] * len(seeds), "o", markersize=3, alpha=0.5, color=tint)
        axes.plot([final.low, final.high], [row, row], linewidth=3, color=tint, alpha=0.6)
        axes.plot([final.value], [row], "D", markersize=6, color=tint)
    axes.set_yticks(range(len(setting.arms)), [f"{arm.label} ({len(arm.cells)})" for arm in setting.arms])
    axes.invert_yaxis()
    _references(axes.axvline, setting)
    axes.set_xlabel("accuracy" if setting.track == "cifar" else "return")
    axes.set_title(f"{setting.title}: IQM, 95 % interval, and seeds")
    return figure


def shifts(estimates: Estimates, order: dict[str, int]) -> Figure | None:
    """Scores clean and under each visual shift; None if there is none."""
    setting = estimates.setting
    if not setting.shifts:
        return None
    shown = (CLEAN, *setting.shifts)
    figure, axes = _figure(2.5 + 1.3 * len(shown), 3.8)
    width = 0.8 / len(setting.arms)
    for place, one in enumerate(estimates.arms):
        bars = [(at, one.intervals[name]) for at, name in enumerate(shown) if name in one.intervals]
        x = [at + (place + 0.5) * width - 0.4 for at, _ in bars]
        heights = [interval.value for _, interval in bars]
        axes.bar(x, heights, width * 0.92, color=_style(one.arm, order)["color"], label=one.arm.label)
        for at, (_, interval) in zip(x, bars, strict=True):
            axes.plot([at, at], [interval.low, interval.high], color="black", linewidth=1)
    axes.set_xticks(range(len(shown)), shown)
    _references(axes.axhline, setting)
    axes.set_ylabel("accuracy" if setting.track == "cifar" else "return, IQM")
    axes.set_title(f"{setting.title}: visual shifts")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def profile(together: Aggregate, order: dict[str, int]) -> Figure:
    """Performance profile: which share of the runs scores more than what."""
    figure, axes = _figure(6.5, 4.2)
    for label, arm in together.arms.items():
        shares, tint = arm.profile, colour(order[label])
        axes.plot(together.marks, shares.value, label=label, color=tint, linewidth=1.6, dashes=dash(order[label]))
        axes.fill_between(together.marks, shares.low, shares.high, color=tint, alpha=0.15, linewidth=0)
    axes.set_xlabel("normalised score")
    axes.set_ylabel("share of runs that score more")
    axes.set_title(f"Performance profile over {len(together.settings)} settings")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure  # not pyplot: no global state, no window

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, sharey=True)


def _style(arm: Arm, order: dict[str, int]) -> dict[str, Any]:
    return {"color": colour(order[arm.label]), "dashes": dash(order[arm.label])}


def _references(line: Any, setting: Setting) -> None:
    for name, reference in sorted(setting.references.items()):
        line(reference["mean"], color="0.45", linewidth=1, linestyle=":" if name == "random" else "-.", label=name)


def _save(figure: Figure, folder: Path, name: str) -> str:
    for ending, options in FORMATS.items():
        path = folder / f"{name}.{ending}"
        with replacing(path) as partial, writing(path):
            figure.savefig(partial, format=ending, **options)
    return name
