"""The installation: Python, what stillsight requires, whether torch and torchvision belong together, and the extras."""

from __future__ import annotations

import importlib.metadata
import sys

from stillsight.agents.doctor.outcome import Outcome

LEAST_PYTHON = (3, 11)


def python() -> list[Outcome]:
    """Whether Python is new enough."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < LEAST_PYTHON:
        return [Outcome("python", "wrong", f"{version}, and stillsight needs 3.11", "python3.11 -m venv .venv")]
    return [Outcome("python", "ok", f"{version} in {sys.prefix}")]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements() -> list[Outcome]:
    """Whether what stillsight cannot do without is there, in versions that it works with."""
    from packaging.requirements import Requirement

    if _version("stillsight") is None:
        return [Outcome("stillsight", "wrong", "runs without being installed", 'pip install -e ".[all]"')]
    outcomes = []
    whole = [Requirement(text) for text in importlib.metadata.requires("stillsight") or ()]
    for wanted in (item for item in whole if item.marker is None or item.marker.evaluate({"extra": ""})):
        version = _version(wanted.name)
        pinned = f'pip install "{wanted.name}{wanted.specifier}"'
        if version is None:
            outcomes.append(Outcome(wanted.name, "wrong", "is not installed", pinned))
        elif not wanted.specifier.contains(version, prereleases=True):
            found = f"{version}, and stillsight {_version('stillsight')} needs {wanted.specifier}"
            outcomes.append(Outcome(wanted.name, "wrong", found, pinned))
    if not outcomes:
        named = ", ".join(f"{name} {_version(name)}" for name in ("torch", "gymnasium", "stable-baselines3", "numpy"))
        outcomes.append(Outcome("packages", "ok", f"stillsight {_version('stillsight')}, {named}"))
    return outcomes


def pair() -> list[Outcome]:
    """Whether torchvision was built for this torch: a wrong pair fails at its first operator."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    torch, torchvision = _version("torch"), _version("torchvision")
    if torch is None or torchvision is None:
        return []  # which `requirements` says
    needs = next(
        (item for item in map(Requirement, importlib.metadata.requires("torchvision") or ()) if item.name == "torch"),
        None,
    )
    check, together = "torch and torchvision", f"torch {torch} and torchvision {torchvision}"
    if needs is not None and not needs.specifier.contains(Version(torch).public, prereleases=True):
        found = f"{together} do not belong together: this torchvision needs torch{needs.specifier}"
        return [Outcome(check, "wrong", found, f'pip install "torch{needs.specifier}" "torchvision=={torchvision}"')]
    builds = {Version(torch).local, Version(torchvision).local} - {None}
    if len(builds) > 1:
        found = f"{together} are built for different processors"
        build = Version(torch).local
        index = f"pip install --force-reinstall torchvision --index-url https://download.pytorch.org/whl/{build}"
        return [Outcome(check, "wrong", found, index)]
    return [Outcome(check, "ok", f"{together} belong together")]


def extras() -> list[Outcome]:
    """Which optional packages are there."""
    from packaging.requirements import Requirement

    try:
        names = importlib.metadata.metadata("stillsight").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return []  # which `requirements` says
    whole = [Requirement(text) for text in importlib.metadata.requires("stillsight") or ()]
    there, outcomes = [], []
    for name in names:
        brought = [item for item in whole if item.marker is not None and item.marker.evaluate({"extra": name})]
        brought = [item for item in brought if not item.marker.evaluate({"extra": ""})]  # type: ignore[union-attr]
        if any(item.name == "stillsight" for item in brought) or name == "dev":
            continue  # made of others, which are looked at by themselves
        faults = [
            f"{item.name} {version or 'is missing'}"
            for item in brought
            if (version := _version(item.name)) is None or not item.specifier.contains(version, prereleases=True)
        ]
        if faults:
            outcomes.append(Outcome(f"extra {name}", "note", ", ".join(faults), f'pip install "stillsight[{name}]"'))
        else:
            there.append(name)
    return [Outcome("extras", "ok", ", ".join(there) or "none"), *outcomes]
