"""A run folder, checked whole by reading alone. A program: `python -m stillsight.agents.doctor.run_check FOLDER`."""

from __future__ import annotations

import fcntl
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from stillsight.agents.doctor.child import tell
from stillsight.agents.doctor.outcome import Outcome, remove
from stillsight.agents.errors import RunError
from stillsight.agents.runs import checkpoint, schema
from stillsight.agents.runs.lock import LOCK_FILE
from stillsight.agents.runs.reader import IMPORTED, read_config, read_json
from stillsight.agents.runs.spaces import SPACES_FILE, Spaces
from stillsight.agents.runs.trust import open_run, read_run
from stillsight.encoders.atomic import is_partial
from stillsight.encoders.errors import DamagedFileError, EncoderError, MemoryShortError, as_typed
from stillsight.encoders.system.plain_file import open_plain
from stillsight.encoders.weights import tensor_file
from stillsight.encoders.weights.weights_file import read_state_dict

LOGS = {"metrics": True, "episodes": False, "eval": True, "evaluations": None}
"""Rows of a run -> whether each of them stands once; None where they are in no order either."""

Rows = list[dict[str, Any]]


def check_run(folder: Path) -> list[Outcome]:
    """What is whole and what is not in the run `folder`; nothing in it is executed, changed, or followed outside."""
    try:
        config = read_config(folder)
        if not isinstance(config, dict):
            raise RunError(f"{folder / 'config.json'} holds no object. Restore it, or start a new run.")
    except (RunError, OSError, RecursionError) as error:
        return [Outcome("config.json", "wrong", str(error)), *_left_over(folder)]
    command = str(config.get("command", "rl"))
    outcomes = [_config(folder), *_machine(folder), *_links(folder), *_lock(folder), *_left_over(folder)]
    if command == "rl":
        outcomes += _spaces(folder)
    rows: dict[str, Rows] = {}
    counted, side_by_side = "epoch" if command == "cifar" else "step", config.get("n_envs")
    most = side_by_side if isinstance(side_by_side, int) else 1
    for name in LOGS:
        path = folder / f"{name}.jsonl"
        if path.is_file():
            rows[name], found = _log(path, name, counted, most)
            outcomes += found
    trees, found = _checkpoints(folder)
    return [*outcomes, *found, *_summary(folder, command, rows, trees)]


def _config(folder: Path) -> Outcome:
    """Whether config.json can be read, and whether it asks for something that must be allowed."""
    try:
        run = read_run(folder)
    except (RunError, EncoderError) as error:
        return Outcome("config.json", "wrong", str(error))
    try:
        open_run(folder)
    except (RunError, EncoderError) as error:
        return Outcome("config.json", "note", f"{error} (to --resume, --from, evaluate or record; doctor runs nothing)")
    return Outcome("config.json", "ok", f"{run.command}, every field is known")


def _machine(folder: Path) -> list[Outcome]:
    try:
        sessions = read_json(folder / "machine.json", "is missing: what the run ran on is not known").get("sessions")
        if not (isinstance(sessions, list) and sessions and all(isinstance(one, dict) for one in sessions)):
            raise RunError("lists no sessions")
    except (RunError, AttributeError, OSError, RecursionError) as error:
        return [Outcome("machine.json", "wrong", str(error), f"--resume {as_typed(folder)}, or start a new run")]
    return [Outcome("machine.json", "ok", f"{len(sessions)} session{'s' if len(sessions) > 1 else ''}")]


def _spaces(folder: Path) -> list[Outcome]:
    if not (folder / SPACES_FILE).is_file():
        found = "is missing, as in runs of older versions: the environment is asked, and must be installed"
        return [Outcome(SPACES_FILE, "note", found)]
    try:
        known = Spaces.from_json(read_json(folder / SPACES_FILE, ""))
    except (RunError, OSError, RecursionError, AttributeError) as error:
        return [Outcome(SPACES_FILE, "wrong", str(error), remove(folder / SPACES_FILE))]
    return [Outcome(SPACES_FILE, "ok", f"{_seen(known)}, actions {known.action}")]


def _seen(known: Spaces) -> str:
    return f"pixels {list(known.pixels)}" if known.layout.plain else str(known.layout)


def _links(folder: Path) -> list[Outcome]:
    """Links that lead out of the folder: what is written there changes something else."""
    inside = folder.resolve()
    outcomes = []
    for path in _files(folder):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            found = f"leads out of the folder, to {os.readlink(path)}"
            outcomes.append(Outcome(str(path.relative_to(folder)), "wrong", found, remove(path)))
    return outcomes


def _files(folder: Path) -> Iterator[Path]:
    """Everything in a folder, links themselves and not what they lead to."""
    for place, folders, files in os.walk(folder, followlinks=False):
        yield from (Path(place) / name for name in sorted([*folders, *files]))


def _lock(folder: Path) -> list[Outcome]:
    """Whether a training writes here now. The lock is only looked at."""
    path = folder / LOCK_FILE
    if path.is_symlink() or not path.is_file():
        return []
    with open_plain(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return [Outcome("lock", "note", "another process writes here: the rest may change while it is looked at")]
        fcntl.flock(file, fcntl.LOCK_UN)
    return []


def _left_over(folder: Path) -> list[Outcome]:
    """Temporary files of a process that was killed while it wrote."""
    left = [path for path in _files(folder) if is_partial(path)]
    return [
        Outcome(str(path.relative_to(folder)), "note", "is left over from a write that was killed", remove(path))
        for path in left
    ]


def _log(path: Path, name: str, counted: str, most: int) -> tuple[Rows, list[Outcome]]:
    """The rows of a log, and whether they are whole, in order, and once each.

    Args:
        path: of the file.
        name: of the log.
        counted: what its rows count.
        most: rows of episodes that one step can end.
    """
    content = schema.read_bounded(path, schema.LARGEST_STREAM).decode(errors="replace")
    advice = f"stillsight COMMAND --resume {as_typed(path.parent)}, which cuts what it does again"
    rows: Rows = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("no object")
            rows.append(row)
        except (ValueError, RecursionError) as error:
            last = number == len(content.splitlines())
            found = f"its last row is half written ({error})" if last else f"line {number} is damaged ({error})"
            cut = advice if last else f"sed -i {number}d -- {as_typed(path)}"
            return rows, [Outcome(path.name, "wrong", found, cut)]
    if content and not content.endswith("\n"):
        return rows, [Outcome(path.name, "wrong", "its last row has no end: the next would be glued to it", advice)]
    faults = list(_disorder(rows, name, counted, most))
    if faults:
        return rows, [Outcome(path.name, "wrong", "; ".join(faults), "start a new run; these figures count twice")]
    return rows, [Outcome(path.name, "ok", f"{len(rows):,} rows")]


def _disorder(rows: Rows, name: str, counted: str, most: int) -> Iterator[str]:
    """What stands twice in a log, or before what came earlier; the first of these."""
    if LOGS[name] is None:
        return
    numbers = [row[counted] for row in rows if isinstance(row.get(counted), int)]
    for number, (one, after) in enumerate(pairwise(numbers), 2):
        if after < one:
            yield f"row {number} goes back to {counted} {after:,}: something was recorded twice"
            return
    if name == "metrics":  # algorithms may say two things of one step, and never the same one
        times, allowed = Counter(json.dumps(row, sort_keys=True) for row in rows), 1
    else:
        times, allowed = Counter(f"{counted} {number:,}" for number in numbers), 1 if LOGS[name] else most
    for key, count in times.items():
        if count > allowed:
            yield f"{key[:60]} is recorded {count} times"
            return


def _checkpoints(folder: Path) -> tuple[dict[str, Any], list[Outcome]]:
    """Everything in checkpoints/, read; and what each file is like. Replay memory is read and let go."""
    trees: dict[str, Any] = {}
    outcomes, unread = [], False
    for path in sorted((folder / "checkpoints").glob("[!.]*.safetensors")):
        name = f"checkpoints/{path.name}"
        try:
            tree = _read(path)
        except MemoryShortError as error:
            outcomes.append(_too_large(path, name, error))
            unread = unread or not path.stem.startswith("replay-")
            continue
        except (RunError, EncoderError) as error:
            other = "best" if path.stem == "last" else "last"
            outcomes.append(Outcome(name, "wrong", str(error), f"--checkpoint {other}, or restore the file"))
            continue
        floats = (tensor for tensor in _tensors(tree) if tensor.is_floating_point())
        # Of floats of a byte torch does not say it of every kind.
        bad = sum(int((~(one if one.itemsize > 1 else one.float()).isfinite()).sum()) for one in floats)
        step = f", step {tree['step']:,}" if isinstance(tree.get("step"), int) else ""
        if bad:
            found = f"{bad:,} of its numbers are NaN or infinite{step}"
            outcomes.append(Outcome(name, "wrong", found, "start again with a lower rate: --set learning_rate=..."))
        else:
            outcomes.append(Outcome(name, "ok", f"whole, {path.stat().st_size / 1e6:,.1f} MB{step}"))
        if not path.stem.startswith("replay-"):
            trees[path.stem] = tree
    wanted = {str(tree["replay"]) for tree in trees.values() if tree.get("replay") is not None}
    replays = {path.stem for path in (folder / "checkpoints").glob("replay-*.safetensors")}
    for name in sorted(wanted - replays):
        found = "is missing, and a checkpoint names it: learning cannot go on from that one"
        outcomes.append(Outcome(f"checkpoints/{name}.safetensors", "wrong", found, "restore it, or start a new run"))
    for name in sorted(replays - wanted) if not unread else ():  # one that was not read may name it
        path = folder / "checkpoints" / f"{name}.safetensors"
        outcomes.append(Outcome(f"checkpoints/{path.name}", "note", "no checkpoint names it any more", remove(path)))
    if not outcomes:
        outcomes.append(Outcome("checkpoints", "note", "there is none yet"))
    return trees, outcomes


def _too_large(path: Path, name: str, error: MemoryShortError) -> Outcome:
    """What a file is like that memory does not hold: its hash can be compared all the same, block by block."""
    try:
        hashed = tensor_file.verify(path).sha256 is not None
    except (DamagedFileError, OSError) as damage:
        return Outcome(name, "wrong", f"{path} is damaged or incomplete ({damage})", "restore the file")
    whole = "whole by its hash" if hashed else "without a hash to compare it with"
    return Outcome(name, "note", f"{whole}, and its numbers were not looked at: {error.reason}")


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint; or plain tensors, as the heads of classifiers are kept.

    Raises:
        RunError, EncoderError: it cannot be read as either.
        MemoryShortError: memory has no room for it.
    """
    try:
        return checkpoint.load(path)
    except RunError as error:
        try:
            return dict(read_state_dict(path))
        except MemoryShortError:
            raise
        except (EncoderError, StopIteration):
            raise error from None


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, Mapping | list):
        for inner in node.values() if isinstance(node, Mapping) else node:
            yield from _tensors(inner)


def _summary(folder: Path, command: str, rows: Mapping[str, Rows], trees: Mapping[str, Any]) -> list[Outcome]:
    """Whether summary.json, the mark of a finished run and the logs say the same."""
    finished, path = (folder / "done").exists(), folder / "summary.json"
    if (folder / IMPORTED).is_file():
        return [Outcome(path.name, "ok", "there is none: the run was imported, and is a policy alone")]
    if not path.is_file():
        if finished:
            found = "is missing, and the run says that it is finished"
            return [Outcome(path.name, "wrong", found, remove(folder / "done"))]
        return [
            Outcome(path.name, "note", "the run is not finished", f"stillsight {command} --resume {as_typed(folder)}")
        ]
    if not finished:  # nor is it read by anything: it may be of a shorter run, which goes on
        found = "is written, and the run was stopped before it said that it is finished"
        return [Outcome(path.name, "note", found, f"stillsight {command} --resume {as_typed(folder)}")]
    try:
        summary = read_json(path, "")
        faults = list(_contradictions(summary, command, rows, trees))
    except (ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        return [Outcome(path.name, "wrong", f"is damaged ({error})", "restore it, or start a new run")]
    if faults:
        return [Outcome(path.name, "wrong", "; ".join(faults), "trust the logs, or start a new run")]
    return [Outcome(path.name, "ok", "agrees with the logs and checkpoints")]


def _contradictions(
    summary: Mapping[str, Any], command: str, rows: Mapping[str, Rows], trees: Mapping[str, Any]
) -> Iterator[str]:
    if command == "cifar":
        reached = [row["epoch"] for row in rows.get("metrics", ()) if "epoch" in row]
        if reached and summary.get("epochs") not in (None, reached[-1]):
            yield f"it counts {summary['epochs']} epochs, and metrics.jsonl ends with {reached[-1]}"
        return
    steps, last = summary.get("env_steps"), trees.get("last", {}).get("step")
    if last is not None and steps != last:
        yield f"it counts {steps:,} steps, and last.safetensors is of step {last:,}"
    evaluations = rows.get("eval") or []
    if evaluations and not _near(summary.get("return_mean"), evaluations[-1].get("mean")):
        yield f"its return is {summary.get('return_mean')}, and the last of eval.jsonl {evaluations[-1].get('mean')}"
    told = summary.get("best_return_mean")
    if evaluations and not any(_near(told, row.get("mean")) for row in evaluations):
        yield f"its best return is {told}, and no row of eval.jsonl has that"
    best = trees.get("best", {}).get("mean")
    if best is not None and not _near(summary.get("best_return_mean"), best):
        yield f"its best return is {summary.get('best_return_mean')}, and that of best.safetensors {best}"
    before, after = summary.get("encoder_sha256_before"), summary.get("encoder_sha256_after")
    if summary.get("mode") in ("frozen", "random") and before != after:
        yield "its frozen encoder was not the same before and after"


def _near(one: Any, other: Any) -> bool:
    return one == other or math.isclose(float(one or 0.0), float(other or 0.0), abs_tol=1e-5)


if __name__ == "__main__":
    tell(check_run(Path(sys.argv[1])))
