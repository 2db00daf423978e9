"""Learning curves of runs, read from their folders."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stillsight.agents.errors import RunError
from stillsight.agents.runs import schema
from stillsight.agents.runs.reader import read_summary
from stillsight.agents.runs.records import read_lines
from stillsight.agents.runs.trust import incidental, read_run
from stillsight.encoders.atomic import replacing, writing
from stillsight.encoders.errors import DiskFault, as_typed

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf", "jpg")
"""What a picture's ending may be."""

WIDTH = 64
"""Characters of a line of the legend, which stands below the curves."""


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """Draw the learning curves of runs, an axis for each environment or data set. Of rl: returns of training episodes,
    smoothed, and evaluations with their spread. Of cifar: loss and accuracy over the epochs, and the test accuracy.
    Runs that differ in their seed alone, and in where and how they were run, share a colour, and their mean is drawn
    over them."""

    out: Path = Path("curve.png")
    """The picture; its ending (png, svg, pdf or jpg) chooses the format."""
    window: int = 50
    """Of rl runs: training episodes that each point of the smoothed curve averages."""
    reference: tuple[str, ...] = ()
    """Horizontal lines for comparison, as name=return, say random=-20.4; of cifar runs as name=accuracy, 0 to 1."""

    def check(self) -> None:
        """Raise `RunError` for a picture that cannot be written, a window without episodes, or a wrong reference."""
        if self.out.suffix.lower().removeprefix(".") not in FORMATS:
            told = f"--out {self.out} ends in {self.out.suffix or 'nothing'}, which is no format of pictures here."
            allowed = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]}"
            raise RunError(f"{told} Allowed: {allowed}. Type, say: --out {as_typed(self.out.with_suffix('.png'))}.")
        if self.out.is_dir():
            raise RunError(
                f"--out {self.out} is a folder. Type the name of a picture: --out {as_typed(self.out / 'curve.png')}."
            )
        if self.window < 1:
            raise RunError(
                f"--window {self.window} averages nothing. Type a number of episodes from 1, say --window 50."
            )
        for text in self.reference:
            _reference(text)


class Arm(NamedTuple):
    """Runs that differ in their seed alone, and in where and how they were run.

    Attributes:
        label: what they are, in words, the seed of a single one among them.
        folders: of the runs.
        seeds: how many different ones these have.
    """

    label: str
    folders: list[Path]
    seeds: int

    @property
    def told(self) -> str:
        """The label of the curve that stands for the arm."""
        count = len(self.folders)
        what = "seeds" if self.seeds == count else "runs"
        return self.label if count == 1 else f"{self.label}, mean of {count} {what}"


def plot(folders: list[Path], config: PlotConfig) -> Path:
    """Draw the curves of `folders` into `config.out` and return it. Runs that have nothing to draw yet are left out,
    and named.

    Raises:
        RunError: see `PlotConfig.check`; a folder holds no run, or none has something to draw yet; runs of both kinds;
            references where there are several environments; matplotlib is missing, or the picture cannot be written.
    """
    config.check()
    records = _read(folders)
    kinds = {str(record["command"]): folder for folder, record in records.items()}
    if len(kinds) > 1:
        told = " and ".join(f"{folder} is a run of {kind}" for kind, folder in kinds.items())
        raise RunError(f"{told}, whose curves have no axis in common. Plot them apart.")
    supervised = "cifar" in kinds
    if supervised and config.window != PlotConfig.window:
        raise RunError("--window smooths the returns of rl runs, and has no effect on runs of cifar. Drop --window.")
    records = _drawable(records, supervised)
    task = "dataset" if supervised else "env"
    tasks = list(dict.fromkeys(str(record[task]) for record in records.values()))
    if config.reference and len(tasks) > 1:
        raise RunError(
            f"--reference is one line, and these runs are of {', '.join(tasks)}. Plot them apart, or drop it."
        )
    arms = _arms(records, task, "dataset" if supervised else "algo", incidental("cifar" if supervised else "rl"))
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise RunError('matplotlib is not installed. Run: pip install "stillsight[plot]"') from error
    labels = dict.fromkeys(arm.label for found in arms.values() for arm in found)
    colours = {label: f"C{index}" for index, label in enumerate(labels)}
    columns = 2 if supervised else len(tasks)
    rows = len(tasks) if supervised else 1
    lines = max(2 * sum(len(textwrap.wrap(arm.label, WIDTH)) for arm in found) for found in arms.values())
    height = 3.8 + 0.19 * lines  # two entries of an arm: what it learned by, and its evaluations
    size = (11, height * rows) if supervised else (7 * columns, height)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for index, name in enumerate(tasks):
        axes = grid[index, 1] if supervised else grid[0, index]
        for arm in arms[name]:
            if supervised:
                _draw_epochs(grid[index, 0], axes, arm, colours[arm.label])
            else:
                _draw_returns(axes, arm, colours[arm.label], config.window)
        if supervised:
            losses = grid[index, 0]
            losses.set_visible(bool(losses.lines))
            _finish(losses, "epochs", "training loss")
        for line, value in map(_reference, config.reference):
            axes.axhline(value, color="0.5", linewidth=1, linestyle=":")
            axes.annotate(line, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.4")
        axes.set_title(name, parse_math=False)  # a name with dollars is no formula
        _finish(
            axes, *(("epochs", "accuracy") if supervised else ("environment steps", "return of an episode, unclipped"))
        )
        for text in axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16)).get_texts():
            text.set_parse_math(False)
            text.set_text(textwrap.fill(text.get_text(), WIDTH))
    try:
        with writing(config.out):
            config.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(config.out) as partial, writing(config.out):
            figure.savefig(partial, dpi=110)
    except DiskFault as fault:
        raise RunError(f"{config.out} cannot be written ({fault.cause}). Choose another place: --out FILE.") from fault
    finally:
        pyplot.close(figure)
    print(config.out)
    return config.out


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


def _read(folders: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """The configurations of the runs; damaged ones are named, on the standard error, and left out of several."""
    every = list(folders)
    records: dict[Path, dict[str, Any]] = {}
    for folder in every:
        try:
            records[folder] = dict(read_run(folder).record)
        except RunError as error:
            _left_out(error, alone=len(every) == 1 or not (folder / "config.json").is_file())
    if not records:
        raise RunError("None of these runs can be read. `stillsight list runs` shows the runs.")
    return records


def _left_out(error: RunError, *, alone: bool) -> None:
    """Raise `error`, or where other runs are left say it."""
    if alone:
        raise error
    print(f"stillsight: left out. {error}", file=sys.stderr)


def _drawable(records: Mapping[Path, dict[str, Any]], supervised: bool) -> dict[Path, dict[str, Any]]:
    """The runs that have rows to draw, all of which can be read; the others are named, on the standard error."""
    what = "epochs" if supervised else "episodes"
    ready = {}
    for folder, record in records.items():
        try:
            rows = _checked(folder, supervised)
        except RunError as error:
            _left_out(error, alone=len(records) == 1)
            continue
        if rows:
            ready[folder] = record
        elif len(records) > 1:
            print(f"{folder} has no finished {what} to draw yet, and is left out.", file=sys.stderr)
    if not ready:
        first, record = next(iter(records.items()))
        named = f"{first} has" if len(records) == 1 else "None of these runs has"
        advice = f"Give {record['command']} runs that went on for a while."
        raise RunError(f"{named} {'no' if len(records) == 1 else 'any'} finished {what} to draw. {advice}")
    return ready


def _checked(folder: Path, supervised: bool) -> int:
    """How many rows a run has to draw, after all that will be drawn of it was read once.

    Raises:
        RunError: a file is damaged, or lacks what is drawn.
    """
    if supervised:
        path = folder / "metrics.jsonl"
        rows = read_lines(path) if path.exists() else []
        for number, row in enumerate(rows, 1):
            needed = ("loss", "validation_accuracy", "train_accuracy") if "epoch" in row else ("validation_accuracy",)
            if lacking := [name for name in needed if name not in row]:
                schema.refuse(f"Line {number} of {path}", f"it lacks {', '.join(lacking)}")
        summary = read_summary(folder)
        if summary is not None and summary.get("test_accuracy") is None:
            schema.refuse(folder / "summary.json", "it lacks test_accuracy")
        return len(rows)
    streams = [path for name in ("episodes", "eval") if (path := folder / f"{name}.jsonl").exists()]
    return sum(len(read_lines(path)) for path in streams)


def _arms(
    records: Mapping[Path, dict[str, Any]], task: str, first: str, left_out: Collection[str]
) -> dict[str, list[Arm]]:
    """Task -> its arms. A label says algorithm, encoder and mode, and whatever else differs between the arms, but for
    the fields that are `left_out`, which make no other experiment of a run."""
    facts = {
        folder: {name: value for name, value in record.items() if name not in ("command", "seed", task, *left_out)}
        for folder, record in records.items()
    }
    shown = ("algo", "encoder", "mode")
    names = sorted({name for values in facts.values() for name in values if name not in shown})
    differing = [name for name in names if len({json.dumps(values.get(name)) for values in facts.values()}) > 1]
    groups: dict[tuple[str, str], list[Path]] = {}
    for folder, record in records.items():
        told = [str(record[first]), str(record["encoder"]), str(record["mode"])]
        # Of another algorithm, presets differ by themselves.
        peers = [facts[other] for other in records if records[other][first] == record[first]]
        for name in differing:
            among = peers if name == "set" else list(facts.values())
            if name != "set" or len({json.dumps(values.get(name)) for values in among}) > 1:
                told.append(f"{name.replace('_', ' ')} {_told(name, facts[folder], among)}")
        groups.setdefault((str(record[task]), " ".join(told)), []).append(folder)
    arms: dict[str, list[Arm]] = {}
    for (name, label), found in groups.items():
        arms.setdefault(name, []).append(Arm(label, found, len({records[folder].get("seed", 0) for folder in found})))
    if all(len(found) == 1 for found in groups.values()):  # then each curve is one run, and says its seed
        return {
            name: [arm._replace(label=f"{arm.label} seed {records[arm.folders[0]].get('seed', 0)}") for arm in row]
            for name, row in arms.items()
        }
    return arms


def _told(name: str, values: Mapping[str, Any], every: Iterable[Mapping[str, Any]]) -> str:
    """The value of a field in a label; of a list only what the runs do not share."""
    value = values.get(name)
    if isinstance(value, list):
        shared = set.intersection(*(set(map(str, other.get(name) or ())) for other in every))
        return " ".join(text for text in map(str, value) if text not in shared) or "as given"
    return "default" if value is None else str(value)


def _draw_returns(axes: Axes, arm: Arm, colour: str, window: int) -> None:
    """Smoothed returns of training, and evaluations: of one run with their spread, of several seeds with that of the
    seeds."""
    import numpy as np

    curves, evaluations = [], []
    for folder in arm.folders:
        episodes = read_lines(folder / "episodes.jsonl") if (folder / "episodes.jsonl").exists() else []
        steps, returns = (np.array([row[key] for row in episodes], float) for key in ("step", "return"))
        width = min(window, len(returns))
        if episodes:
            curves.append((steps[width - 1 :], np.convolve(returns, np.ones(width) / width, mode="valid")))
        if (folder / "eval.jsonl").exists():
            evaluations.append({row["step"]: (row["mean"], row["std"]) for row in read_lines(folder / "eval.jsonl")})
    if curves:
        _draw_curves(axes, curves, colour, f"{arm.told}, training")
    steps_of_all = sorted(set.intersection(*map(set, evaluations))) if len(evaluations) == len(arm.folders) else []
    if steps_of_all:
        means = np.array([[run[step][0] for run in evaluations] for step in steps_of_all], float)
        several = len(evaluations) > 1
        spread = means.std(axis=1) if several else np.array([evaluations[0][step][1] for step in steps_of_all], float)
        told = "evaluations, ± std over seeds" if several else "evaluations, ± std"
        labelled = told in axes.get_legend_handles_labels()[1]
        axes.errorbar(
            steps_of_all,
            means.mean(axis=1),
            spread,
            fmt="o",
            markersize=4,
            capsize=2,
            color=colour,
            label=(None if labelled else told) if curves else f"{arm.told}, {told}",
        )


def _draw_curves(
    axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]], colour: str, label: str | None, style: str = "-"
) -> None:
    """One curve, or faint ones of several seeds with their mean, from where all have begun to where the first ends."""
    import numpy as np

    if len(curves) == 1:
        axes.plot(*curves[0], style, linewidth=1.2, alpha=0.8, color=colour, label=label, marker=_marker(curves[0][0]))
        return
    for x, y in curves:
        axes.plot(x, y, style, linewidth=0.8, alpha=0.3, color=colour, marker=_marker(x))
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    points = np.unique(np.concatenate([x for x, _ in curves]))
    points = points[(points >= first) & (points <= last)]
    if not len(points):  # one ended before another began
        axes.plot([], [], style, color=colour, label=label)
        return
    mean = np.mean([np.interp(points, x, y) for x, y in curves], axis=0)
    axes.plot(points, mean, style, linewidth=1.8, color=colour, label=label, marker=_marker(points))


def _marker(points: np.ndarray) -> str:
    """How the points of a curve are marked: a line through one alone would be nothing."""
    return "o" if len(points) == 1 else ""


def _draw_epochs(losses: Axes, axes: Axes, arm: Arm, colour: str) -> None:
    """Curves of runs that trained their encoder; level lines for those that fitted a head to frozen features."""
    import numpy as np

    trained: list[dict[int, dict[str, Any]]] = []
    level, tested, only_tested = [], [], []
    for folder in arm.folders:
        rows = read_lines(folder / "metrics.jsonl")
        # A killed run may have logged an epoch that it trains again when it goes on: the later row counts.
        epochs = {row["epoch"]: row for row in rows if "epoch" in row}
        if epochs:
            trained.append(epochs)
        elif rows[-1]["validation_accuracy"] is not None:
            level.append(rows[-1]["validation_accuracy"])
        if (summary := read_summary(folder)) is not None:
            score = summary["test_accuracy"]
            if epochs:
                tested.append((max(epochs), score))
            elif rows[-1]["validation_accuracy"] is None:  # one image a class: none was left to choose with
                only_tested.append(score)
    if only_tested:
        axes.axhline(sum(only_tested) / len(only_tested), linewidth=1.2, color=colour, label=f"{arm.told}, test")
    if level:
        for value in level if len(level) > 1 else ():
            axes.axhline(value, linewidth=0.8, alpha=0.3, color=colour)
        axes.axhline(sum(level) / len(level), linewidth=1.2, color=colour, label=arm.told)
    if trained:
        series = {
            key: [
                (np.array(sorted(run), float), np.array([run[epoch][key] for epoch in sorted(run)], float))
                for run in trained
            ]
            for key in ("loss", "validation_accuracy", "train_accuracy")
        }
        _draw_curves(losses, series["loss"], colour, None)
        _draw_curves(axes, series["validation_accuracy"], colour, arm.told)
        _draw_curves(axes, series["train_accuracy"], colour, None, ":")
    if tested:
        mean = sum(score for _, score in tested) / len(tested)
        axes.plot(*zip(*tested, strict=True), "o", markersize=5, color=colour, label=f"test {mean:.1%}")


def _reference(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise RunError(
            f"--reference takes name=return, and got {text!r}. Type, say: --reference random=-20.4."
        ) from None
