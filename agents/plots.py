"""Learning curves of runs, read from their folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillsight.agents.runs import RunError, read_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """Draw the learning curves of runs: returns of training episodes, smoothed, and evaluations with their spread."""

    out: Path = Path("curve.png")
    """The picture; its ending (png, svg, pdf) chooses the format."""
    window: int = 50
    """Training episodes that each point of the smoothed curve averages."""
    reference: tuple[str, ...] = ()
    """Horizontal lines for comparison, as name=return, say random=-20.4."""


def plot(folders: list[Path], config: PlotConfig) -> Path:
    """Draw the curves of `folders` into `config.out` and return it.

    Raises:
        RunError: a folder holds no RL run with episodes, matplotlib is missing, or a reference is not name=return.
    """
    runs = [(folder, read_config(folder)) for folder in folders]
    lines = [_reference(text) for text in config.reference]
    for folder, _ in runs:
        if not (folder / "episodes.jsonl").exists():
            raise RunError(f"{folder} has no finished episodes to draw. Give rl runs that played for a while.")
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise RunError('matplotlib is not installed. Run: pip install "stillsight[plot]"') from error
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for folder, record in runs:
        _draw(
            axes, folder, f"{record['algo']} {record['encoder']} {record['mode']} seed {record['seed']}", config.window
        )
    for name, value in lines:
        axes.axhline(value, color="0.5", linewidth=1, linestyle=":")
        axes.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.4")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode, unclipped")
    axes.set_title(", ".join(sorted({str(record["env"]) for _, record in runs})))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(config.out, dpi=110)
    pyplot.close(figure)
    print(config.out)
    return config.out


def _draw(axes: Axes, folder: Path, label: str, window: int) -> None:
    import numpy as np

    episodes = _lines(folder / "episodes.jsonl")
    steps, returns = (np.array([row[key] for row in episodes], float) for key in ("step", "return"))
    width = min(window, len(returns))
    smooth = np.convolve(returns, np.ones(width) / width, mode="valid")
    (line,) = axes.plot(steps[width - 1 :], smooth, linewidth=1.2, alpha=0.8, label=f"{label}, training")
    if (folder / "eval.jsonl").exists():
        rows = _lines(folder / "eval.jsonl")
        x, y, spread = ([row[key] for row in rows] for key in ("step", "mean", "std"))
        axes.errorbar(
            x, y, spread, fmt="o", markersize=4, capsize=2, color=line.get_color(), label="evaluations, ± std"
        )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _reference(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise RunError(
            f"--reference takes name=return, and got {text!r}. Type, say: --reference random=-20.4."
        ) from None
