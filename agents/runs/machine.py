"""What ran something: commit, versions, hardware, time."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

VERSIONED = (
    "stillsight",
    "torch",
    "torchvision",
    "gymnasium",
    "stable-baselines3",
    "sb3-contrib",
    "numpy",
    "ale-py",
    "vizdoom",
    "envpool",
    "mujoco",
    "dm-control",
    "minigrid",
)


def machine() -> dict[str, Any]:
    """What ran this: command line, commit, versions, hardware, time (UTC)."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join(["stillsight", *sys.argv[1:]]),
        **_code(),
        "python": platform.python_version(),
        "versions": {name: version for name in VERSIONED if (version := _version(name))},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _code() -> dict[str, str]:
    """Of the checkout that this code runs from: `commit`, "" outside one; where it was changed since, that with
    "+dirty" behind it, and `changes`, the first 12 digits of the sha256 of what `git diff` says of that."""
    try:
        commit, changes = _git("rev-parse", "HEAD"), _git("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return {"commit": ""}
    if not changes:
        return {"commit": commit.decode().strip()}
    return {"commit": f"{commit.decode().strip()}+dirty", "changes": hashlib.sha256(changes).hexdigest()[:12]}


def _git(*words: str) -> bytes:
    here = Path(__file__).resolve().parent
    return subprocess.run(["git", *words], cwd=here, capture_output=True, check=True).stdout


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
