"""Kills: runs that are killed at a file operation or at any moment are gone on with to the end."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import compare
from children import KILL, Outcome, Refusal, Server
from jobs import JOBS, Job, furnish
from record import Record

SECOND = 0.25
"""Share of the runs that are killed a second time, while they are gone on with."""


def kills(record: Record, place: Path, count: int, seed: int, chosen: list[str]) -> None:
    """Kill `count` runs, and write how each ended.

    Args:
        record: where; what is there already is not done again.
        place: for the runs.
        count: kills, dealt out over the jobs; every other one at a random moment.
        seed: of the choices.
        chosen: names of jobs.
    """
    with Server(place / "server") as server:
        whole: dict[str, tuple[Path, Outcome]] = {}
        for number in range(count):
            job = JOBS[chosen[number % len(chosen)]]
            name = f"{number} {job.name}"
            if record.has(name):
                continue
            if job.name not in whole:
                whole[job.name] = undisturbed(server, place, job)
            draw = random.Random(f"{seed} {name}")
            record.add(name, _one(server, place, job, *whole[job.name], draw, number // len(chosen) % 2 == 0))


def undisturbed(server: Server, place: Path, job: Job) -> tuple[Path, Outcome]:
    """The folder of a run to which nothing happens, and how it ended."""
    home = place / "whole" / slug(job.name)
    shutil.rmtree(home, ignore_errors=True)
    places = furnish(home)
    outcome = server.run(job.command(places), folder=home, under=[places["run"], places["cache"]], noted=True)
    if outcome.code:
        raise SystemExit(f"faults: {job.name} does not run at all: {outcome.error}")
    return places["run"], outcome


def slug(name: str) -> str:
    """`name` as a folder's."""
    return name.replace(", ", "-").replace(" ", "-")


def _one(
    server: Server,
    place: Path,
    job: Job,
    whole: Path,
    reference: Outcome,
    draw: random.Random,
    killed_at_operation: bool,
) -> dict[str, Any]:
    home = place / "killed"
    shutil.rmtree(home, ignore_errors=True)
    places = furnish(home)
    watched = [places["run"], places["cache"]]
    how: dict[str, Any] = {"job": job.name}
    killing: dict[str, Any]
    if killed_at_operation:
        at = draw.randint(1, reference.count)
        how["at"] = "{}: {} {}".format(at, *_site(reference, at, whole.parent))
        killing = {"refusal": Refusal(at, KILL)}
    else:
        after = draw.uniform(0.0, reference.seconds)
        how["at"] = f"after {after:.2f} s"
        killing = {"kill_after": after}
    ended = [server.run(job.command(places), folder=home, under=watched, **killing)]
    if draw.random() < SECOND and ended[0].code and not finished(places["run"]):
        again = {"refusal": Refusal(draw.randint(1, reference.count), KILL)}
        ended.append(server.run(_next(job, places), folder=home, under=watched, **again))
        how["twice"] = True
    how["killed"] = any(outcome.code == -9 for outcome in ended)
    if ended[-1].code and not finished(places["run"]):
        ended.append(server.run(_next(job, places), folder=home, under=watched))
        if ended[-1].code == 2 and job.name != "benchmark":  # what it says to type is the command that began it
            how["begun again"] = ended[-1].sentence
            ended.append(server.run(job.command(places), folder=home, under=watched))
    return {**how, **verdict(job, places["run"], whole, ended)}


def _next(job: Job, places: dict[str, Path]) -> list[str]:
    """What a person types after the machine went down: to go on, or to begin where there is nothing yet."""
    return job.going_on(places) if places["run"].exists() else job.command(places)


def finished(run: Path) -> bool:
    """Whether a run says of itself that it is done: nobody would go on with it."""
    return (run / "done").exists()


def verdict(job: Job, run: Path, whole: Path, ended: list[Outcome]) -> dict[str, Any]:
    """What is wrong with a run that was gone on with to the end."""
    faults = []
    whole_again = ended[-1].code == 0 or finished(run)
    if not whole_again:
        faults.append(f"does not end: exit code {ended[-1].code}: {ended[-1].sentence}")
    faults += [f"orphan: {name}" for outcome in ended for name in outcome.orphans]
    faults += ["traceback"] * any(outcome.traceback for outcome in ended)
    faults += ["hangs"] * any(outcome.hung for outcome in ended)
    if whole_again:
        runs = sorted(path.parent for path in run.glob("**/config.json"))
        faults += [fault for folder in runs for fault in compare.rows_once(folder)]
        faults += compare.left_over(run, whole)
    unequal = compare.differences(run, whole) if whole_again else []
    return {
        "ends": whole_again,
        "faults": faults,
        "equal": not unequal,
        "unequal": unequal,
        "promised": job.promised,
    }


def _site(reference: Outcome, at: int, home: Path) -> tuple[str, str]:
    what, path = reference.operations[at - 1]
    return what, path.removeprefix(f"{home}/")
