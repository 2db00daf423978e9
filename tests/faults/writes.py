"""Writes: each file operation of each command is refused once, with each error that disks have."""

from __future__ import annotations

import errno
import random
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import compare
from children import Outcome, Refusal, Server
from jobs import JOBS, Job, furnish
from kills import slug, undisturbed
from record import Record

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE)

FROM: dict[str, tuple[str, str]] = {
    "evaluate": ("ppo", "evaluate {run} --episodes 1 --random-episodes 0 --device cpu"),
    "record": ("ppo", "record {run} --device cpu"),
    "plot": ("ppo", "plot {run} --out {run}/curve.png"),
    "evaluate, cifar": ("cifar, frozen", "evaluate {run} --device cpu --trust {cache}"),
    "report": ("benchmark", "report {run}"),
}
"""Commands that work on a finished run -> the job of that run, and the words."""


class Trial(NamedTuple):
    """One refused operation."""

    job: str
    at: int
    site: str
    how: int
    lasting: bool

    @property
    def name(self) -> str:
        """Of the trial, the same in every session."""
        return f"{self.job}: {self.at} {self.site} {errno.errorcode[self.how]}{' from then on' * self.lasting}"


def writes(record: Record, place: Path, count: int | None, seed: int, chosen: list[str], jobs: int) -> None:
    """Refuse operations, and write what each command made of it.

    Args:
        record: where; what is there already is not done again.
        place: for the runs.
        count: trials, drawn from all; None for all.
        seed: of the draw.
        chosen: names of jobs and of `FROM`.
        jobs: children side by side.
    """
    with Server(place / "server") as server:
        whole: dict[str, tuple[Path, Outcome]] = {}
        for name in chosen:
            source = FROM[name][0] if name in FROM else name
            if source not in whole:
                whole[source] = undisturbed(server, place, JOBS[source])
            if name in FROM:
                whole[name] = _whole(server, place, name, whole[source][0])
        places = [place for name in chosen for place in _places(name, whole[name][1], whole[name][0])]
        trials = drawn(places, random.Random(seed))
        print(f"writes: {len(places)} writes that can fail, {len(trials)} ways, {count or len(trials)} of them tried")
    waiting = [trial for trial in trials[:count] if not record.has(trial.name)]
    lock = threading.Lock()

    def work(name: str) -> None:
        with Server(place / name) as server:
            while True:
                with lock:
                    if not waiting:
                        return
                    trial = waiting.pop(0)
                row = _one(server, place / f"{name}-refused", trial, whole)
                with lock:
                    record.add(trial.name, row)

    with ThreadPoolExecutor(jobs) as pool:
        for ended in [pool.submit(work, f"server{index}") for index in range(jobs)]:
            ended.result()


def job_of(name: str) -> Job:
    """A job, or a command on a finished run as one."""
    if name in JOBS:
        return JOBS[name]
    source, words = FROM[name]
    return replace(JOBS[source], name=name, words=words, again=words)


def _whole(server: Server, place: Path, name: str, source: Path) -> tuple[Path, Outcome]:
    home = place / "whole" / slug(name)
    shutil.rmtree(home, ignore_errors=True)
    places = furnish(home)
    shutil.copytree(source, places["run"], symlinks=True)
    _move(source, places)
    job = job_of(name)
    outcome = server.run(job.command(places), folder=home, under=[places["run"], places["cache"]], noted=True)
    if outcome.code:
        raise SystemExit(f"faults: {name} does not run at all: {outcome.error}")
    return places["run"], outcome


def _move(source: Path, places: dict[str, Path]) -> None:
    """Let a copied run speak of its new places."""
    config = places["run"] / "config.json"
    if config.exists():
        config.write_text(config.read_text().replace(str(source.parent), str(places["run"].parent)))


def _places(name: str, reference: Outcome, run: Path) -> list[list[Trial]]:
    """The first and the last operation of each kind on each file: each one's ways to fail, which are every error, and a
    disk that stays full."""
    seen: dict[str, list[int]] = {}
    for number, (what, path) in enumerate(reference.operations, 1):
        plain = re.sub(r"\.tmp\w+|[0-9a-f]{8,}|\d+", "N", path.removeprefix(f"{run.parent}/"))
        seen.setdefault(f"{what} {plain}", []).append(number)
    hows = [(number, False) for number in ERRORS] + [(errno.ENOSPC, True)]
    return [
        [Trial(name, at, site, how, lasting) for how, lasting in hows]
        for site, numbers in seen.items()
        for at in dict.fromkeys((numbers[0], numbers[-1]))
    ]


def drawn(places: list[list[Trial]], draw: random.Random) -> list[Trial]:
    """All trials in the order in which they are tried: each place fails once before any fails a second time, with
    errors as often as each other."""
    places = [place[turn % len(place) :] + place[: turn % len(place)] for turn, place in enumerate(places)]
    rounds = [list(trials) for trials in zip(*places, strict=True)]
    for trials in rounds:
        draw.shuffle(trials)
    return [trial for trials in rounds for trial in trials]


def _one(server: Server, home: Path, trial: Trial, whole: dict[str, tuple[Path, Outcome]]) -> dict[str, Any]:
    job = job_of(trial.job)
    shutil.rmtree(home, ignore_errors=True)
    places = furnish(home)
    if trial.job in FROM:
        source = whole[FROM[trial.job][0]][0]
        shutil.copytree(source, places["run"], symlinks=True)
        _move(source, places)
    watched = [places["run"], places["cache"]]
    refusal = Refusal(trial.at, trial.how, trial.lasting)
    first = server.run(job.command(places), folder=home, under=watched, refusal=refusal)
    right = whole[trial.job][0]
    faults = ["traceback"] * first.traceback + ["hangs"] * first.hung + [f"orphan: {name}" for name in first.orphans]
    if first.code == 0:  # then everything must be there
        faults += [f"exit code 0, and {fault}" for fault in compare.left_over(places["run"], right)]
    elif first.code not in (1, 2):
        faults.append(f"exit code {first.code}")
    elif not first.traceback and not first.sentence.startswith("stillsight: ") and "failed" not in first.out:
        faults.append(f"no sentence: {first.sentence}")  # a benchmark names cells that failed on its output
    if first.code:
        on = job.going_on(places) if places["run"].exists() else job.command(places)
        second = server.run(on, folder=home, under=watched)
        if second.code == 2 and trial.job in JOBS:
            second = server.run(job.command(places), folder=home, under=watched)
        if second.code:
            faults.append(f"does not go on: exit code {second.code}: {second.sentence}")
        else:
            runs = sorted(path.parent for path in places["run"].glob("**/config.json"))
            faults += [fault for folder in runs for fault in compare.rows_once(folder)]
            faults += compare.left_over(places["run"], right)
        faults += ["traceback when going on"] * second.traceback
    unequal = compare.differences(places["run"], right) if not faults and job.name in JOBS else []
    return {
        "job": trial.job,
        "site": trial.site,
        "error": errno.errorcode[trial.how],
        "lasting": trial.lasting,
        "code": first.code,
        "said": first.sentence.replace(str(home), "HOME")[:300],
        "faults": faults,
        "unequal": unequal,
    }
