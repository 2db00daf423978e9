"""What the machine has to give: room on disks, open files, shared memory, memory; and what is kept in caches."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path

from stillsight.agents.doctor.outcome import Outcome
from stillsight.agents.runs.reader import RUNS

GB = 10**9
LEAST_FREE, LITTLE_FREE = GB, 10 * GB
"""Bytes free on a disk, below which a run may not end, and below which it is worth saying."""
LEAST_FILES, FEW_FILES = 256, 1_024
"""Open files of a process, likewise; each worker and each log takes some."""
LITTLE_MEMORY = 2 * GB
"""Bytes of memory that a process can have."""
LITTLE_SHARED = 256 * 10**6
"""Bytes of shared memory, by which workers hand over their images."""
SHARED, MEMORY = Path("/dev/shm"), Path("/proc/meminfo")


def cache_folder() -> Path:
    """Where programs of this user keep what they can compute again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def disks() -> list[Outcome]:
    """Whether run folders, caches and temporary files can be written, and how much room there is."""
    places = {"runs": RUNS, "caches": cache_folder(), "temporary files": Path(tempfile.gettempdir())}
    return [_disk(what, place) for what, place in places.items()]


def _disk(what: str, place: Path) -> Outcome:
    there = next(path for path in (place, *place.absolute().parents) if path.exists())
    check = f"disk for {what}"
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as error:
        elsewhere = {"runs": "--out FOLDER", "caches": "export XDG_CACHE_HOME=FOLDER"}.get(what, "export TMPDIR=FOLDER")
        return Outcome(check, "wrong", f"{place} cannot be written ({error.strerror or error})", elsewhere)
    found = f"{free / GB:,.1f} GB free at {place}"
    if free < LEAST_FREE:
        return Outcome(check, "wrong", f"{found}, and a run may need more", f"df -h {there}, and make room")
    if free < LITTLE_FREE:
        return Outcome(check, "note", found, f"df -h {there}")
    return Outcome(check, "ok", found)


def open_files() -> list[Outcome]:
    """How many files a process may hold open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return [Outcome("open files", "ok", "no limit")]
    if soft < FEW_FILES:
        most = hard if hard != resource.RLIM_INFINITY else 65_536
        state, found = ("wrong", "fewer than a run needs") if soft < LEAST_FILES else ("note", "few for many workers")
        return [Outcome("open files", state, f"{soft:,} at most, {found}", f"ulimit -n {min(most, 65_536)}")]  # type: ignore[arg-type]
    return [Outcome("open files", "ok", f"{soft:,} at most")]


def memory() -> list[Outcome]:
    """Memory, as far as the machine says, and shared memory, which containers often have little of."""
    outcomes = []
    try:
        lines = MEMORY.read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        found = f"{free / GB:,.1f} GB free"
        if free < LITTLE_MEMORY:
            found += ", little for a replay memory"
            outcomes.append(Outcome("memory", "note", found, "--set buffer_size=20_000"))
        else:
            outcomes.append(Outcome("memory", "ok", found))
    except (OSError, StopIteration):
        pass  # not Linux
    if SHARED.exists():
        shared = shutil.disk_usage(SHARED)
        found = f"{shared.free / GB:,.2f} GB free of {shared.total / GB:,.2f} at {SHARED}"
        if shared.free < LITTLE_SHARED:
            advice = "docker run --shm-size=1g ..., or --workers off"
            outcomes.append(Outcome("shared memory", "note", f"{found}, little for workers", advice))
        else:
            outcomes.append(Outcome("shared memory", "ok", found))
    return outcomes


def caches() -> list[Outcome]:
    """What is kept on the disk to save time, and how large it is."""
    hub = Path(os.environ.get("TORCH_HOME") or cache_folder() / "torch") / "hub" / "checkpoints"
    places = {
        "downloaded weights": hub,
        "choices of engines": cache_folder() / "stillsight",
        "features of images": Path("data/features"),
    }
    sizes = {what: (place, _size(place)) for what, place in places.items() if place.is_dir()}
    if not sizes:
        return [Outcome("caches", "ok", "empty")]
    found = {what: f"{size / 1e6:,.1f} MB in {place}" for what, (place, size) in sizes.items()}
    return [Outcome(f"cache of {what}", "ok", text) for what, text in found.items()]


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink() and path.is_file())
