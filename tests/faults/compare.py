"""What a run folder must be like after whatever happened: whole, each row once, equal to one that ran undisturbed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STREAMS = ("metrics", "episodes", "eval")
TIMES = re.compile(
    r"seconds|_per_s\b|^images_encoded$|^time/|^time$|took|joules|energy|memory|date|fps|bytes|machine"
    r"|sessions|versions|commit|command|host|cost|\bout\b|resume|resumed|folder|engine|sha256\.time"
    r"|^_num_timesteps_at_start$"  # of the session, for its rate
)
"""Names of numbers that differ from run to run, and say nothing of what was learned."""
PASSING = re.compile(
    r"^events$|/events$|\.log$|/figures/|index\.html|report\.md|\.svg$|\.png$|machine\.json|config\.json|\.lock$"
)
"""Files that say when and where they were made, or are pictures of the others."""


def timeless(value: Any) -> Any:
    """`value` without what differs from run to run."""
    if isinstance(value, dict):
        kept = {name: timeless(item) for name, item in value.items() if not TIMES.search(name)}
        if "curve" in kept:  # a benchmark's: steps, return, and seconds
            kept["curve"] = [row[:2] if isinstance(row, list) else row for row in kept["curve"] or ()]
        return kept
    if isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str) and TIMES.search(value[0]):
            return [value[0]]  # a pair of a checkpoint's structure
        if len(value) == 2 and value[0] == "episodes" and isinstance(value[1], dict) and "list" in value[1]:
            return ["episodes", [one["list"][:2] for one in value[1]["list"]]]  # return, length, and seconds
        return [timeless(item) for item in value]
    return value


def rows_once(folder: Path) -> list[str]:
    """What is wrong with the rows of a run: lines that are no JSON, steps that go back or stand there twice."""
    faults = []
    for stream in STREAMS:
        path = folder / f"{stream}.jsonl"
        if not path.exists():
            continue
        numbers: list[float] = []
        for line in path.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                faults.append(f"{path.name}: a row is no JSON")
                continue
            if "step" in row or "epoch" in row:
                numbers.append(row.get("step", row.get("epoch")))
        if numbers != sorted(numbers):
            faults.append(f"{path.name}: steps go back")
        if stream != "episodes" and len(numbers) != len(set(numbers)):
            faults.append(f"{path.name}: a step stands there twice")
    return faults


def names(folder: Path) -> dict[str, Path]:
    """Files of a run by their names below it; event files are named without their numbers."""
    files = ((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    return {re.sub(r"events\.out\.tfevents.*", "events", name): path for name, path in files}


def left_over(folder: Path, whole: Path) -> list[str]:
    """Files of a run that one which ran undisturbed has not, and those that it lacks."""
    mine, right = ({name for name in names(place) if not name.endswith(".lock")} for place in (folder, whole))
    faults = [f"left over: {name}" for name in sorted(mine - right)]
    return faults + [f"missing: {name}" for name in sorted(right - mine)]


def differences(folder: Path, whole: Path) -> list[str]:
    """Files that do not say what those of `whole` say, times left out."""
    faults = []
    mine, right = names(folder), names(whole)
    for name in sorted(mine.keys() & right.keys()):
        if not PASSING.search(name) and not _same(mine[name], right[name]):
            faults.append(f"differs: {name}")
    return faults


def _same(mine: Path, right: Path) -> bool:
    if mine.suffix == ".safetensors":
        return tensors(mine) == tensors(right)
    if mine.suffix == ".json":
        return bool(timeless(json.loads(mine.read_text())) == timeless(json.loads(right.read_text())))
    if mine.suffix == ".jsonl":
        return _rows(mine) == _rows(right)
    return mine.read_bytes() == right.read_bytes()


def _rows(path: Path) -> list[Any]:
    return [timeless(json.loads(line)) for line in path.read_text().splitlines()]


def tensors(path: Path) -> tuple[Any, dict[str, tuple[Any, ...]]]:
    """The plain values and the tensors of a safetensors file, read by its format: no code of ours is trusted here."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    structure = header.pop("__metadata__", {}).get("structure")
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        tensors[name] = (entry["dtype"], entry["shape"], content[8 + length + first : 8 + length + last])
    plain = timeless(json.loads(structure)) if structure else None
    return plain, tensors


def told(faults: Iterable[str]) -> str:
    """Faults in one line."""
    return "; ".join(faults)
