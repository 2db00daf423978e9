"""History: which checkpoints a run folder holds, the names by which they are typed, and the newest good one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stillsight.agents.errors import CheckpointError
from stillsight.agents.runs.place import place
from stillsight.agents.runs.reader import checkpoint_path
from stillsight.encoders.atomic import replacing, writing
from stillsight.encoders.errors import MemoryShortError

BEST, LAST = "best", "last"
BEST_BEFORE = "best-before"
"""The best agent up to the last checkpoint, while best is one that came after it."""
BEST_ROLLOUT = "best-rollout"
"""The best agent at the beginning of a rollout, while best is one of that rollout: a run that is stopped there goes
back to it. There is none where that is the best one up to the last checkpoint, too."""

Read = Callable[[Path], dict[str, Any]]
"""Read a checkpoint; raises `CheckpointError` where it is missing, damaged or of no use.

Where memory has no room for it `MemoryShortError` is raised, which passes through what is here: no other checkpoint
takes the place of one that may be good, and is removed or written over then.
"""


def checkpoint_name(typed: str) -> str:
    """The name of a checkpoint as it was typed: best, last, or a number of steps such as 40000 or 40_000.

    Raises:
        CheckpointError: it is neither.
    """
    number = re.fullmatch(r"(?:step-)?([0-9][0-9_]*)", typed)
    if number is not None and len(typed) < 20:
        return str(int(number[1]))
    if typed not in (BEST, LAST):
        raise CheckpointError(
            f"{typed!r} is no name of a checkpoint. Type best, last, or the steps of one that --keep kept, say 40_000."
        )
    return typed


def checkpoint_file(folder: Path, name: str) -> Path:
    """Where a run folder keeps the checkpoint of that name: steps lie in step-<number>.safetensors."""
    return checkpoint_path(folder, f"step-{name}" if name.isdigit() else name)


def held_file(folder: Path, name: str) -> Path:
    """Where the checkpoint of that name is read: the best one up to the last checkpoint where there is no best one,
    as a crash of older versions left it."""
    path = checkpoint_file(folder, name)
    before = checkpoint_file(folder, BEST_BEFORE)
    return before if name == BEST and not path.exists() and before.exists() else path


def kept_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints of a run that were kept besides best and last, the newest first."""
    files = checkpoint_path(folder, LAST).parent.glob("step-*.safetensors")
    found = (re.fullmatch(r"step-(\d{1,18})", path.stem) for path in files)
    return sorted((int(match[1]) for match in found if match is not None), reverse=True)


def names(folder: Path) -> list[str]:
    """Names of the checkpoints of a run; after best come those that learning can go on from, the newest first."""
    kept = [name for name in (BEST, LAST) if held_file(folder, name).exists()]
    return [*kept, *map(str, kept_steps(folder))]


def newest_good(folder: Path, candidates: Sequence[str], read: Read) -> tuple[str, dict[str, Any]]:
    """The first of `candidates` that can be read, and its name. What was passed over is said on the error stream.

    Args:
        folder: of the run.
        candidates: names, in the order in which they are wanted.
        read: see `Read`.

    Raises:
        CheckpointError: none of them can be read; it says why the first cannot.
    """
    first: CheckpointError | None = None
    for name in candidates:
        try:
            content = read(held_file(folder, name))
        except CheckpointError as error:
            first = first or error
            continue
        if first is not None:
            print(f"stillsight: {first} Taken in its place: {_called(name, content)}.", file=sys.stderr)
        return name, content
    if first is None:
        raise CheckpointError(f"There is no checkpoint in {folder}. `stillsight list runs` shows the runs.")
    others = "No other checkpoint of the folder can take its place." if len(candidates) > 1 else "There is no other."
    raise CheckpointError(f"{first} {others} Restore the file, or start a new run.") from first


def named(folder: Path, name: str, read: Read) -> tuple[str, dict[str, Any]]:
    """The checkpoint that somebody asked for by its name, and no other: a damaged one is refused.

    A number is that of a kept checkpoint, or of the last or the best one where they stand at that step.

    Raises:
        CheckpointError: there is none, or it is damaged; which others there are.
    """
    path = held_file(folder, name)
    if path.exists():
        try:
            return name, read(path)
        except CheckpointError as error:
            good = [f"{called}: --checkpoint {other}" for other, called in _good(folder, read) if other != name]
            advice = f"Good are {'; '.join(good)}." if good else "No other checkpoint of the folder is good."
            raise CheckpointError(f"{error} {advice}") from error
    if name.isdigit() and (standing := standing_at(folder, int(name), read)) is not None:
        return standing
    there = ", ".join(called for _, called in _good(folder, read)) or "none that is good"
    raise CheckpointError(f"There is no checkpoint {name} in {folder}. It has: {there}.")


def standing_at(folder: Path, step: int, read: Read) -> tuple[str, dict[str, Any]] | None:
    """The last or the best checkpoint, where one of them stands at this step; None where neither does."""
    for name in (LAST, BEST):
        with contextlib.suppress(CheckpointError):
            content = read(held_file(folder, name))
            if content.get("step") == step:
                return name, content
    return None


def find(folder: Path, typed: str | None, read: Read) -> tuple[str, dict[str, Any]]:
    """The checkpoint to play: the one that was typed, or the best one, and the newest good one in its place.

    Raises:
        CheckpointError: see `named` and `newest_good`.
    """
    if typed is not None:
        return named(folder, checkpoint_name(typed), read)
    return newest_good(folder, names(folder), read)


def keep_before(folder: Path, step: int, count: int) -> None:
    """Keep the last checkpoint, which stands at `step`, beyond the next one, and `count` of those in all.

    It gets a second name, so that nothing is written twice and nothing lies there twice once the next one has taken the
    place of the first name.
    """
    last, kept = place(folder, "checkpoints", "last.safetensors"), checkpoint_file(folder, str(step))
    if count > 0:
        place(folder, "checkpoints", kept.name).unlink(missing_ok=True)
        try:
            os.link(last, kept)
        except OSError:  # a file system without links: until the next one is written there is no last one
            last.rename(kept)
    prune(folder, count)


def put_last(folder: Path, name: str) -> None:
    """Put the checkpoint of that name in the place of the last one, which is damaged or gone."""
    os.replace(checkpoint_file(folder, name), place(folder, "checkpoints", "last.safetensors"))


def keep_best(folder: Path, name: str) -> None:
    """Keep the best agent, which is about to be replaced by one of steps that may be taken back.

    It gets a second name and keeps its own: whatever happens until the other one is written, there is a best agent.

    Args:
        folder: of the run.
        name: the second one, `BEST_BEFORE` or `BEST_ROLLOUT`.
    """
    best, second = (place(folder, "checkpoints", f"{one}.safetensors") for one in (BEST, name))
    if not best.exists():
        return
    second.unlink(missing_ok=True)
    try:
        os.link(best, second)
    except OSError:  # a file system without links
        with replacing(second) as partial, writing(second):
            shutil.copyfile(best, partial)


def put_best(folder: Path, name: str) -> None:
    """Let the one that is called so be the best agent, if there is one."""
    if name != BEST and checkpoint_file(folder, name).exists():
        os.replace(*(place(folder, "checkpoints", f"{one}.safetensors") for one in (name, BEST)))


def drop_best(folder: Path, *names: str) -> None:
    """Remove the best agents that have a second name, if there are such."""
    for name in names:
        place(folder, "checkpoints", f"{name}.safetensors").unlink(missing_ok=True)


def prune(folder: Path, count: int) -> None:
    """Remove all but the newest `count` of the kept checkpoints."""
    for step in kept_steps(folder)[count:]:
        checkpoint_file(folder, str(step)).unlink(missing_ok=True)


def _good(folder: Path, read: Read) -> list[tuple[str, str]]:
    """The checkpoints of a folder that are not known to be damaged: names, and names with their steps."""
    good = []
    for name in names(folder):
        try:
            good.append((name, _called(name, read(held_file(folder, name)))))
        except MemoryShortError:  # what the others are like is all that is asked
            good.append((name, f"{name} (too large for memory now)"))
        except CheckpointError:
            continue
    return good


def _called(name: str, content: dict[str, Any]) -> str:
    """A name, with the step at which it stands where it does not say so itself."""
    step = content.get("step")
    return f"{name} (step {step:,})" if isinstance(step, int) and not name.isdigit() else name
