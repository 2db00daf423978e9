"""`stillsight list`: what there is to choose from, read from the registries and the run folders."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stillsight.agents.columns import Columns, console
from stillsight.agents.encoder_table import WIDTH, show_encoders
from stillsight.agents.errors import RunError
from stillsight.agents.runs.reader import RUNS, find_runs, read_sessions, read_summary
from stillsight.agents.runs.records import read_lines
from stillsight.agents.runs.trust import read_run
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.agents.training.config import RlConfig
from stillsight.encoders.config import LARGEST_RESOLUTION
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.envs import ROWS
from stillsight.envs.registry import ids, named
from stillsight.envs.suites import SUITES
from stillsight.envs.suites.suite import EVERY, Suite

What = Literal["encoders", "envs", "algos", "runs"]
PIPED = 300
"""Characters of a line in a pipe, which has no width: cells are not folded for it."""
SPARE: Mapping[str, tuple[str, ...]] = {
    "envs": ("actions", "size"),
    "algos": ("preset", "class"),
    "runs": ("date", "seed", "algorithm", "encoder", "task"),
}
"""List -> columns that are left out where there is no room, the first one first."""


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Show what there is to choose from."""

    folder: Path = RUNS
    """For runs: where to look."""
    resolution: int | None = None
    """For encoders that are named: side in pixels of the images at which their costs are counted; by default that of
    each one's recipe."""
    accept_license: bool = False
    """For one encoder: accept the licence of its weights, where that must be done once; it is remembered for you on
    this machine."""


def show(what: What, words: Sequence[str] | None, config: ListConfig) -> None:
    """Print the list that was asked for.

    Args:
        what: which list.
        words: of encoders, those that are meant, see `show_encoders`; of environments, the suite; none for all.
        config: flags of some of the lists.

    Raises:
        RunError: a word or a flag that has no effect on the list.
        EncoderError: see `show_encoders`.
        EnvError: no such suite.
    """
    if what != "runs" and config.folder != RUNS:
        raise RunError(f"--folder is where runs are, and has no effect on the list of {what}. Drop --folder.")
    if what == "encoders":
        _print_encoders(words, config)
        return
    if words and (what != "envs" or len(words) > 1):
        raise RunError(
            f"list takes encoders|envs|algos|runs and flags, and got {words[-1]!r} too. Parts of names are for "
            "encoders, and a suite for envs."
        )
    for flag, given in (("--resolution", config.resolution is not None), ("--accept-license", config.accept_license)):
        if given:
            raise RunError(f"{flag} is for encoders, and has no effect on the list of {what}. Drop {flag}.")
    if what == "envs" and words:
        _print_suite(named(words[0]))
        return
    columns, rows = {"envs": _envs, "algos": _algos}.get(what, lambda: _runs(config.folder))()
    _print(what, columns, rows, f"No runs in {config.folder}.")


def _print(what: What, columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    table = Columns(*columns, spare=SPARE[what])
    for row in rows:
        table.add(*row)
    out = console(PIPED)
    if rows:
        table.show(out)
    else:
        out.print(empty, markup=False)


Rows = tuple[list[str], list[list[str]]]


def _print_encoders(words: Sequence[str] | None, config: ListConfig) -> None:
    if config.resolution is not None and not 1 <= config.resolution <= LARGEST_RESOLUTION:
        raise RunError(f"--resolution {config.resolution} is no size. Type a number of pixels, say 64.")
    shown = show_encoders(words or (), config.resolution, accept=config.accept_license)
    out = console(WIDTH)
    if shown.before:
        out.print(shown.before, soft_wrap=True, markup=False)  # a path that the console broke could not be copied
    shown.table.show(out)
    out.print(f"\n{shown.after}", markup=False)


def _print_suite(suite: Suite) -> None:
    """The rows of a suite with what is known of returns, and its other ids, where it is installed."""
    columns = ["environment", "actions", "size", "random play", "published", ""]
    rows = [
        [
            *(row.id, row.actions, str(row.options.size or "native")),
            "" if row.random is None else f"{row.random:.4g}",
            "; ".join(f"{score.value:g} {score.who}" for score in row.published),
            row.summary,
        ]
        for row in suite.rows
    ]
    _print("envs", columns, rows, "None has defaults of its own.")
    sources = list(dict.fromkeys(score.source for row in suite.rows for score in row.published))
    if sources:
        print(f"\nPublished by: {'; '.join(sources)}. Sizes, frame skips and budgets may be others than here.")
    for (env, algo), preset in suite.presets.items():
        print(f"Preset for {algo}{'' if env == EVERY else f' in {env}'}: {preset.source}.")
    if not suite.installed:
        print(f'\nNot installed here. Type: pip install "stillsight[{suite.default.extra}]"')
    elif others := [name for name in ids(suite) if name not in ROWS]:
        print(f"\n{len(others)} more, with the suite's defaults:\n{' '.join(others)}")


def _envs() -> Rows:
    rows = [
        [row.id, row.actions, str(row.options.size or "native"), row.extra or "-", row.summary] for row in ROWS.values()
    ]
    other = [
        "any Gymnasium id",
        "",
        "native",
        "",
        f"or module:Id of your own; all of a suite: list envs {'|'.join(suite.word for suite in SUITES)}",
    ]
    return ["environment", "actions", "size", "extra", ""], [*rows, other]


def _algos() -> Rows:
    rows = [
        [row.name, row.cls, ", ".join(row.actions), row.extra or "-", row.source, row.encoder_loss]
        for row in ALGORITHMS.values()
    ]
    return ["algorithm", "class", "actions", "extra", "preset", "an encoder that learns is trained by"], [
        *rows,
        ["module:Class", "any SB3 algorithm", "", "", "", ""],
    ]


def _runs(folder: Path) -> Rows:
    rows = [_run(run) for run in find_runs(folder)]
    return ["run", "state", "task", "algorithm", "encoder", "seed", "steps", "date", "result"], rows


def _run(run: Path) -> list[str]:
    """What one run is, how far it came, when it began, and what came out. Of a damaged one the standard error says what
    is wrong: the others are listed all the same."""
    try:
        config = read_run(run).config
        summary = read_summary(run) or {}
        sessions = read_sessions(run) or [{}]
        steps = _steps(run, config, summary)
    except RunError as error:
        print(f"stillsight: {error}", file=sys.stderr)
        return [str(run), "damaged", *[""] * 7]
    rl = isinstance(config, RlConfig)
    score = summary.get("return_mean", summary.get("test_accuracy"))
    state = "done" if (run / "done").exists() else "unfinished"
    date = str(sessions[0].get("date", ""))[:10]
    return [
        *(str(run), state, config.env if rl else config.dataset, config.algo if rl else _learner(config)),
        *(f"{config.encoder} {config.mode.value}", str(config.seed), steps, date),
        "" if score is None else f"{score:.4g}",
    ]


def _learner(config: CifarConfig) -> str:
    """What learns in a cifar run: a head on frozen features, or the encoder by an optimizer."""
    return config.optimizer if config.mode.trained else f"{config.head} head"


def _steps(run: Path, config: RlConfig | CifarConfig, summary: Mapping[str, Any]) -> str:
    """How far a run came, in env steps or epochs: of how many, where it is unfinished."""
    rl = isinstance(config, RlConfig)
    unit, counted = ("", "step") if rl else (" epochs", "epoch")
    if not rl and not config.mode.trained:
        return ""  # a head is fitted at once
    done = summary.get("env_steps" if rl else "epochs")
    if done is not None:
        return f"{done:,}{unit}"
    planned = config.steps if isinstance(config, RlConfig) else config.epochs
    streams = [path for name in ("episodes", "metrics") if (path := run / f"{name}.jsonl").exists()]
    reached = max((row.get(counted) or 0 for path in streams for row in read_lines(path)), default=0)
    return f"{reached:,} of {planned:,}{unit}"
