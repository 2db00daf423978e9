"""Learning curves of runs, read from their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillsight.agents.errors import RunError
from stillsight.agents.runs.reader import read_config
from stillsight.agents.runs.records import read_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """Draw the learning curves of runs. Of rl: returns of training episodes, smoothed, and evaluations with their
    spread. Of cifar: loss and accuracy over the epochs, and the test accuracy."""

    out: Path = Path("curve.png")
    """The picture; its ending (png, svg, pdf) chooses the format."""
    window: int = 50
    """Training episodes that each point of the smoothed curve averages."""
    reference: tuple[str, ...] = ()
    """Horizontal lines for comparison, as name=return, say random=-20.4; of cifar runs as name=accuracy, 0 to 1."""


def plot(folders: list[Path], config: PlotConfig) -> Path:
    """Draw the curves of `folders` into `config.out` and return it.

    Raises:
        RunError: a folder holds no run, or one that has nothing to draw yet; runs of both kinds; matplotlib is missing,
            or a reference is not name=return.
    """
    runs = [(folder, read_config(folder)) for folder in folders]
    lines = [_reference(text) for text in config.reference]
    kinds = {str(record.get("command", "rl")): folder for folder, record in runs}
    if len(kinds) > 1:
        told = " and ".join(f"{folder} is a run of {kind}" for kind, folder in kinds.items())
        raise RunError(f"{told}, whose curves have no axis in common. Plot them apart.")
    supervised = "cifar" in kinds
    stream, what = ("metrics", "epochs") if supervised else ("episodes", "episodes")
    for folder, record in runs:
        if not (folder / f"{stream}.jsonl").exists():
            advice = f"Give {record.get('command', 'rl')} runs that went on for a while."
            raise RunError(f"{folder} has no finished {what} to draw. {advice}")
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise RunError('matplotlib is not installed. Run: pip install "stillsight[plot]"') from error
    if supervised:
        figure, (losses, axes) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
        for index, (folder, record) in enumerate(runs):
            _draw_epochs(losses, axes, folder, _label(record, "dataset"), f"C{index}")
        losses.set_visible(bool(losses.lines))
        losses.set_ylabel("training loss")
        losses.set_xlabel("epochs")
        losses.spines[["top", "right"]].set_visible(False)
    else:
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        for folder, record in runs:
            _draw_episodes(axes, folder, _label(record, "algo"), config.window)
    for name, value in lines:
        axes.axhline(value, color="0.5", linewidth=1, linestyle=":")
        axes.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.4")
    axes.set_xlabel("epochs" if supervised else "environment steps")
    axes.set_ylabel("accuracy" if supervised else "return of an episode, unclipped")
    title = ", ".join(sorted({str(record["dataset" if supervised else "env"]) for _, record in runs}))
    axes.set_title(title, parse_math=False)  # a name with dollars is no formula
    for text in axes.legend(frameon=False).get_texts():
        text.set_parse_math(False)
    axes.spines[["top", "right"]].set_visible(False)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(config.out, dpi=110)
    pyplot.close(figure)
    print(config.out)
    return config.out


def _draw_episodes(axes: Axes, folder: Path, label: str, window: int) -> None:
    import numpy as np

    episodes = read_lines(folder / "episodes.jsonl")
    steps, returns = (np.array([row[key] for row in episodes], float) for key in ("step", "return"))
    width = min(window, len(returns))
    smooth = np.convolve(returns, np.ones(width) / width, mode="valid")
    (line,) = axes.plot(steps[width - 1 :], smooth, linewidth=1.2, alpha=0.8, label=f"{label}, training")
    if (folder / "eval.jsonl").exists():
        rows = read_lines(folder / "eval.jsonl")
        x, y, spread = ([row[key] for row in rows] for key in ("step", "mean", "std"))
        axes.errorbar(
            x, y, spread, fmt="o", markersize=4, capsize=2, color=line.get_color(), label="evaluations, ± std"
        )


def _draw_epochs(losses: Axes, axes: Axes, folder: Path, label: str, colour: str) -> None:
    """Curves of a run that trained its encoder; a level line for one that fitted a head to frozen features at once."""
    rows = read_lines(folder / "metrics.jsonl")
    # A killed run may have logged an epoch that it trains again when it goes on: the later row counts.
    epochs = {row["epoch"]: row for row in rows if "epoch" in row}
    if not epochs:
        level = rows[-1]["validation_accuracy"]
        if level is None and (folder / "summary.json").exists():  # one image a class: none was left to choose with
            level, label = json.loads((folder / "summary.json").read_text())["test_accuracy"], f"{label}, test"
        if level is None:
            raise RunError(f"{folder} has no validation accuracy and is not finished. Finish it: --resume {folder}.")
        axes.axhline(level, linewidth=1.2, color=colour, label=label)
        return
    x = sorted(epochs)
    losses.plot(x, [epochs[epoch]["loss"] for epoch in x], linewidth=1.2, color=colour)
    for key, style, told in (("validation_accuracy", "-", label), ("train_accuracy", ":", None)):
        axes.plot(x, [epochs[epoch][key] for epoch in x], style, linewidth=1.2, color=colour, label=told)
    if (folder / "summary.json").exists():
        tested = json.loads((folder / "summary.json").read_text())["test_accuracy"]
        axes.plot([x[-1]], [tested], "o", markersize=5, color=colour, label=f"test {tested:.1%}")


def _label(record: Mapping[str, Any], first: str) -> str:
    return f"{record[first]} {record['encoder']} {record['mode']} seed {record['seed']}"


def _reference(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise RunError(
            f"--reference takes name=return, and got {text!r}. Type, say: --reference random=-20.4."
        ) from None
