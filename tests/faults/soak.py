"""Soak: an hour of training, in which memory, handles, threads and the cost of a step must stay as they are.

The cost is processor time, so that what else the machine does is not taken for growth.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jobs import AGENT
from record import Record

SETTINGS = {
    "ppo": "n_steps=64 batch_size=64 n_epochs=2",
    "dqn": "learning_starts=200 batch_size=16 buffer_size=2000 train_freq=4 target_update_interval=200",
}
LARGEST = {"memory": 16e6, "handles": 1.0, "threads": 1.0, "step": 0.05}
"""What a quantity may grow by in an hour and count as flat: bytes, numbers, and a share of its mean."""
VISIBLE = {"memory": 4e6, "handles": 1.0, "threads": 1.0, "step": 0.03}
"""What it must have grown by while it was watched, to be called growth: less than that is how memory is dealt out."""
WARM = 0.2
"""Share of the time in the beginning, in which buffers fill, that is left out."""
BLOCKS = 12
"""Parts of the rest, whose means the line is fitted to: samples beside one another are not independent."""
STUDENT = {9: 2.26, 10: 2.23, 11: 2.20, 12: 2.18}
"""Two-sided 95% quantiles of Student's t, by degrees of freedom."""


class Slope(NamedTuple):
    """Growth in an hour, and how far it may be off, with 95% confidence."""

    per_hour: float
    spread: float
    mean: float

    def verdict(self, largest: float, visible: float, hours: float) -> str:
        """flat, growing or shrinking, or that the time was too short to tell.

        Args:
            largest: growth in an hour that counts as flat.
            visible: growth in all that counts as one.
            hours: that were watched.
        """
        if abs(self.per_hour) + self.spread <= largest:
            return "flat"
        if abs(self.per_hour) - self.spread > largest and abs(self.per_hour) * hours > visible:
            return "growing" if self.per_hour > 0 else "shrinking"
        return "not known"


def slope(times: Sequence[float], values: Sequence[float]) -> Slope:
    """The line through the means of blocks of samples.

    Args:
        times: in seconds, rising.
        values: at those.
    """
    size = max(1, len(values) // BLOCKS)
    blocks = [(times[i : i + size], values[i : i + size]) for i in range(0, len(values) - size + 1, size)][:BLOCKS]
    x = [sum(part) / len(part) / 3600 for part, _ in blocks]
    y = [sum(part) / len(part) for _, part in blocks]
    count, mean_x, mean_y = len(x), sum(x) / len(x), sum(y) / len(y)
    square = sum((one - mean_x) ** 2 for one in x)
    if count < 3 or not square:
        return Slope(0.0, math.inf, mean_y)
    rise = sum((one - mean_x) * (other - mean_y) for one, other in zip(x, y, strict=True)) / square
    rest = sum((other - mean_y - rise * (one - mean_x)) ** 2 for one, other in zip(x, y, strict=True))
    error = math.sqrt(rest / (count - 2) / square)
    return Slope(rise, STUDENT.get(count - 2, 3.0) * error, mean_y)


def soak(record: Record, place: Path, minutes: float, algos: Sequence[str], jobs: int) -> None:
    """Train for so long with each algorithm, and write how each quantity went.

    Args:
        record: where; what is there already is not done again.
        place: for the runs.
        minutes: of each.
        algos: of `SETTINGS`.
        jobs: trainings side by side.
    """
    trials = {f"{algo} {minutes:g} min": algo for algo in algos}
    left = [trial for trial in trials if not record.has(trial)]
    with ThreadPoolExecutor(jobs) as pool:
        for trial, row in zip(left, pool.map(lambda name: _one(place, minutes, trials[name]), left), strict=True):
            record.add(trial, row)


def _one(place: Path, minutes: float, algo: str) -> dict[str, Any]:
    place.mkdir(parents=True, exist_ok=True)
    run = place / f"{algo}-{int(time.time())}"
    agent = AGENT.replace("--steps 192", "--steps 1_000_000_000").replace("--eval-every 64", "--eval-every 5_000")
    agent = agent.replace("--checkpoint-every 32", "--checkpoint-every 2_000")
    words = f"rl --env stillsight/Orchard-v0 --algo {algo} {agent} --workers off --out {run} --set {SETTINGS[algo]}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (place / f"{algo}.out").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "stillsight", *words.split()], stdout=out, stderr=out, env=environment
        )
        samples: list[dict[str, float]] = []
        began = time.monotonic()
        every = max(0.5, minutes * 60 / 600)
        while time.monotonic() - began < minutes * 60 and process.poll() is None:
            time.sleep(every)
            if (run / "episodes.jsonl").exists() and (state := _state(process.pid)):
                samples.append({"time": round(time.monotonic() - began, 2), "steps": _steps(run), **state})
        broke = process.poll()
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    faults = [] if broke is None else [f"it ended by itself with exit code {broke}"]
    faults += ["it did not end within a minute of Ctrl-C"] if code == -9 else []
    whole = {key: [row[key] for row in samples] for key in samples[0]} if samples else {}
    result: dict[str, Any] = {"algo": algo, "minutes": minutes, "samples": whole, "faults": faults}
    if len(samples) < 2 * BLOCKS:
        return {**result, "faults": [*faults, "too few samples"]}
    first = int(WARM * len(samples))
    times = whole["time"][first:]
    quantities = {name: whole[name][first:] for name in ("memory", "handles", "threads")}
    seconds = zip(whole["cpu"], whole["cpu"][1:], whole["steps"], whole["steps"][1:], strict=False)
    rates = [(late - early) / max(1.0, more - less) for early, late, less, more in seconds]
    quantities["step"] = _smooth(rates)[first:]
    fitted = {}
    for name, values in quantities.items():
        line = slope(times[: len(values)], values)
        scale = line.mean if name == "step" else 1.0
        largest, visible = LARGEST[name] * scale, VISIBLE[name] * scale
        verdict = line.verdict(largest, visible, (times[-1] - times[0]) / 3600)
        fitted[name] = {**line._asdict(), "largest": largest, "verdict": verdict}
        if fitted[name]["verdict"] == "growing":
            faults.append(f"{name} grows by {line.per_hour:.3g} ± {line.spread:.2g} an hour")
    return {**result, "steps": whole["steps"][-1], "fitted": fitted, "faults": faults}


def _smooth(rates: list[float], width: int = 5) -> list[float]:
    """Medians of neighbours: a sample in which nothing was written yet says nothing."""
    return [
        sorted(rates[max(0, i - width) : i + width + 1])[len(rates[max(0, i - width) : i + width + 1]) // 2]
        for i in range(len(rates))
    ]


def _steps(run: Path) -> float:
    """Environment steps done, by the last whole row."""
    path = run / "episodes.jsonl"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1000))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            return float(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0.0


def _state(process: int) -> dict[str, float] | None:
    """Memory in bytes, open files, threads, and seconds of processor time of a process."""
    place = Path("/proc") / str(process)
    try:
        status = dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines() if ":\t" in line)
        handles = len(os.listdir(place / "fd"))
        times = (place / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it ended
        return None
    return {
        "memory": 1024.0 * int(status["VmRSS"].split()[0]),
        "handles": float(handles),
        "threads": float(status["Threads"]),
        "cpu": (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"),
    }
