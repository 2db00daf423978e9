"""Beside one another: two writers, two that go on, and commands that read a run while it is trained."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compare
from children import Outcome, Server
from jobs import JOBS, furnish
from kills import finished
from record import Record

READERS = (
    "evaluate {run} --episodes 1 --random-episodes 0 --device cpu --checkpoint last",
    "plot {run} --out {run}.png",
    "list runs --folder {run}",
    "record {run} --checkpoint last --max-steps 5 --out {run}-films --device cpu",
)
"""What is typed beside a training."""


def beside(record: Record, place: Path, count: int, seed: int) -> None:
    """Run each of the cases `count` times, and write what came of it.

    Args:
        record: where; what is there already is not done again.
        place: for the runs.
        count: trials of each case.
        seed: of the moments at which the second begins.
    """
    cases: dict[str, Callable[..., dict[str, Any]]] = {
        "two writers": _two_writers,
        "two default names": _two_names,
        "two that go on": _two_resumed,
        "readers": _readers,
    }
    with Server(place / "first") as first, Server(place / "second") as second:
        for number in range(count):
            for name, case in cases.items():
                trial = f"{name} {number}"
                if not record.has(trial):
                    home = place / "beside"
                    shutil.rmtree(home, ignore_errors=True)
                    places = furnish(home)
                    job = JOBS[("ppo", "dqn")[number % 2]]
                    delay = random.Random(f"{seed} {trial}").uniform(0.0, 1.0)
                    row = case(first, second, home, places, job, delay)
                    record.add(trial, {"case": name, "job": job.name, "delay": round(delay, 2), **row})


def together(
    first: Server, second: Server, home: Path, words: tuple[list[str], list[str]], delay: float
) -> tuple[Outcome, Outcome]:
    """Two commands, the second `delay` seconds after the first."""
    ended: dict[int, Outcome] = {}

    def run(number: int, server: Server) -> None:
        ended[number] = server.run(words[number], folder=home)

    threads = [threading.Thread(target=run, args=pair) for pair in ((0, first), (1, second))]
    threads[0].start()
    time.sleep(delay)
    threads[1].start()
    for thread in threads:
        thread.join()
    return ended[0], ended[1]


def _common(run: Path, ended: tuple[Outcome, ...]) -> list[str]:
    faults = ["traceback"] * any(outcome.traceback for outcome in ended)
    faults += ["hangs"] * any(outcome.hung for outcome in ended)
    return faults + (compare.rows_once(run) if run.exists() else [])


def _one_wins(run: Path, ended: tuple[Outcome, Outcome]) -> dict[str, Any]:
    codes = sorted(outcome.code for outcome in ended)
    faults = _common(run, ended)
    if codes != [0, 2]:
        faults.append(f"exit codes {codes}, and not 0 and 2")
    if not (run / "done").exists():
        faults.append("the run has no end")
    said = next((outcome.sentence for outcome in ended if outcome.code), "")
    return {"codes": codes, "said": said[:300], "faults": faults}


def _two_writers(first: Server, second: Server, home: Path, places: dict[str, Path], job: Any, delay: float) -> Any:
    words = job.command(places)
    return _one_wins(places["run"], together(first, second, home, (words, words), delay))


def _two_resumed(first: Server, second: Server, home: Path, places: dict[str, Path], job: Any, delay: float) -> Any:
    last = places["run"] / "checkpoints" / "last.safetensors"
    words = job.command(places)
    after = 1.2
    for _ in range(10):  # until it was stopped between its first checkpoint and its end
        shutil.rmtree(places["run"], ignore_errors=True)
        first.run(words, folder=home, kill_after=after)
        ended = finished(places["run"])
        if last.exists() and not ended:
            break
        after *= 0.8 if ended else 1.25
    else:
        return {"faults": [], "note": "it was never stopped in the middle"}
    on = job.going_on(places)
    return _one_wins(places["run"], together(first, second, home, (on, on), min(delay, 0.3)))


def _two_names(first: Server, second: Server, home: Path, places: dict[str, Path], job: Any, delay: float) -> Any:
    words = [word for word in job.command(places) if word not in ("--out", str(places["run"]))]
    ended = together(first, second, home, (words, words), delay / 2)
    runs = sorted(path.parent for path in (home / "results").glob("**/config.json"))
    faults = [fault for run in runs for fault in _common(run, ended)]
    if len(runs) != 2 or not all((run / "done").exists() for run in runs):
        faults.append(f"{len(runs)} folders, and not two that ended")
    if any(outcome.code for outcome in ended):
        faults.append(f"exit codes {[outcome.code for outcome in ended]}")
    return {"faults": faults}


def _readers(first: Server, second: Server, home: Path, places: dict[str, Path], job: Any, delay: float) -> Any:
    ended: list[Outcome] = []
    words = [word if word != "192" else "1200" for word in job.command(places)]
    training = threading.Thread(target=lambda: ended.append(first.run(words, folder=home)))
    training.start()
    last = places["run"] / "checkpoints" / "last.safetensors"
    until = time.monotonic() + 60.0
    while not last.exists() and time.monotonic() < until and training.is_alive():
        time.sleep(0.02)
    time.sleep(delay)
    read = []
    for reader in READERS:
        outcome = second.run(reader.format(**places).split(), folder=home)
        read.append((reader.split()[0], outcome, training.is_alive()))
    training.join()
    faults = _common(places["run"], (ended[0], *(outcome for _, outcome, _ in read)))
    faults += [f"{name}: exit code {outcome.code}: {outcome.sentence}" for name, outcome, _ in read if outcome.code]
    if ended[0].code:
        faults.append(f"the training ended with exit code {ended[0].code}: {ended[0].sentence}")
    return {"faults": faults, "while it trained": [name for name, _, alive in read if alive]}
