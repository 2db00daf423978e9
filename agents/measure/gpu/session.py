"""`stillsight gpu`: part after part within the time, each in a process that is ended with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from stillsight.agents.errors import RunError
from stillsight.agents.measure.gpu.gpu_config import SHARES, GpuConfig, PartName
from stillsight.agents.measure.gpu.gpu_page import INDEX, render
from stillsight.agents.runs.machine import machine
from stillsight.encoders.atomic import to_json, write_atomically

FILES: dict[PartName, str] = {
    "tests": "tests.json",
    "ppo": "agents.json",
    "sac": "agents.json",
    "dqn": "agents.json",
    "encoders": "encoders.json",
    "cifar-finetune": "cifar.json",
    "cifar-frozen": "cifar.json",
}
"""Part -> the file that holds its numbers, under its name."""
LOG = 4_000
"""Characters that are kept of what a failed part printed."""
PARTS_MODULE = "stillsight.agents.measure.gpu.parts"


def gpu(config: GpuConfig) -> int:
    """Do every part, write the folder, and return 0, or 1 where something failed.

    Raises:
        RunError: there is no CUDA GPU, and no `small` was asked for.
    """
    config.check()
    if not (config.small or torch.cuda.is_available()):
        raise RunError(
            f"stillsight gpu measures a CUDA GPU, and torch {torch.__version__} finds none here; stillsight doctor may "
            'say why. To see whether the command works, type --small; behind make: GPU_FLAGS="--small".'
        )
    folder = config.out or Path("results", "runs", time.strftime("gpu-%Y%m%d-%H%M%S"))
    folder.mkdir(parents=True, exist_ok=True)
    return session(config, folder, _process, Console(highlight=False))


Measure = Callable[[PartName, Path, float], dict[str, Any]]
"""A part, the file of its numbers, and its seconds -> what is known of how it ended."""


def session(
    config: GpuConfig,
    folder: Path,
    process: Callable[[GpuConfig, PartName, Path, float, Path], str | None],
    console: Console,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Do every part of `config`, keeping `folder` complete after each.

    Args:
        config: which parts, and how long.
        folder: where everything goes.
        process: does one part: the configuration, its name, the file of its numbers, its seconds, and a file for what
            it prints; it returns why it was ended, None where it ended by itself.
        console: a line is printed about each part.
        clock: seconds.

    Returns:
        0, or 1 where a part or a test failed.
    """
    began = clock()
    index: dict[str, Any] = {
        "machine": {**machine(), "command": _command(config)},
        "driver": _driver(),
        "seconds": config.seconds,
        "small": config.small,
        "parts": {},
    }
    if config.commit:
        index["machine"]["commit"] = config.commit
    with tempfile.TemporaryDirectory(prefix="stillsight-gpu-") as work:
        for place, name in enumerate(config.parts):
            left = config.seconds - (clock() - began)
            ahead = sum(SHARES[other] for other in config.parts[place:])
            limit = left * SHARES[name] / ahead
            started = clock()
            numbers, log = Path(work, f"{name}.json"), Path(work, f"{name}.log")
            ended: str | None = "stopped by hand."
            try:
                ended = process(config, name, numbers, max(limit, 0.0), log)
            finally:
                entry, result = _entry(numbers, log, ended)
                entry |= {"seconds": round(clock() - started, 1), "limit": round(limit, 1), "file": FILES[name]}
                index["parts"][name] = entry
                index["took"] = round(clock() - began, 1)
                _write(folder, index, name, result)
            console.print(f"{name}: {entry['said']} ({entry['seconds']:.0f} s)", markup=False, soft_wrap=True)
    console.print(f"everything is in {folder}: gpu.md and its JSON", markup=False, soft_wrap=True)
    return int(any(entry["state"] != "done" for entry in index["parts"].values()))


def _write(folder: Path, index: dict[str, Any], name: PartName, result: dict[str, Any]) -> None:
    """Put the numbers of one part beside those of the others, and make the page anew."""
    file = folder / FILES[name]
    known = json.loads(file.read_text()) if file.exists() else {}
    write_atomically(file, to_json({**known, name: result}, indent=1))
    write_atomically(folder / INDEX, to_json(index, indent=1))
    write_atomically(folder / "gpu.md", render(folder))


def _entry(numbers: Path, log: Path, ended: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of a part: how it ended, and what it printed where that was not well; and its numbers."""
    found: dict[str, Any] = json.loads(numbers.read_text()) if numbers.exists() else {"whole": False, "result": {}}
    result: dict[str, Any] = found["result"]
    failed = result.get("failed", 0) + result.get("error", 0) if "tests" in result else 0
    broken: dict[str, str] = result.get("broken", {})
    if found["whole"] and not failed and not broken:
        counts = (f"{result[key]} {key}" for key in ("passed", "skipped") if result.get(key))
        return {"state": "done", "said": ", ".join(counts) or "done"}, result
    if failed:
        reason = f"{failed} of {len(result['tests'])} tests failed."
    else:
        reason = found.get("sentence") or ended or "; ".join(f"{arm}: {why}" for arm, why in broken.items())
    state = "partial" if result and not failed else "failed"
    entry = {
        "state": state,
        "said": f"{state}: {reason or 'it ended without a word.'}",
        "traceback": found.get("traceback", ""),
        "log": log.read_text(errors="replace")[-LOG:] if log.exists() else "",
    }
    return entry, result


def _process(config: GpuConfig, name: PartName, numbers: Path, limit: float, log: Path) -> str | None:
    """Run a part in a session of its own, and kill all of it when its time is over."""
    words: Sequence[str] = [name, str(numbers), f"{limit:.2f}", "small" if config.small else "full"]
    if config.data is not None:
        words = [*words, str(config.data)]
    with log.open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", PARTS_MODULE, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        try:
            running.wait(limit)
            return None if running.returncode in (0, 1) else f"its process ended with {running.returncode}."
        except subprocess.TimeoutExpired:
            return f"its {limit:.0f} s were over."
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)  # with what it started: arms, workers of loaders, pytest
            running.wait()


def _command(config: GpuConfig) -> str:
    """What was typed, as far as it differs from the defaults."""
    flags = [f"--parts {' '.join(config.parts)}"] if config.parts != tuple(SHARES) else []
    flags += [f"--seconds {config.seconds:g}"] if config.seconds != sum(SHARES.values()) else []
    flags += ["--data FOLDER"] if config.data else []
    flags += ["--small"] if config.small else []
    return "make gpu" + (f' GPU_FLAGS="{" ".join(flags)}"' if flags else "")


def _driver() -> str:
    """Name, driver, memory and power limit of each GPU, as nvidia-smi says them; "" where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
