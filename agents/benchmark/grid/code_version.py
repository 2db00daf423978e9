"""The version of code that a cell runs: of a package, and of sources that may change under one version, a hash."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path

OURS = "stillsight"
"""The package whose own version is enough: what it changes of itself, its cells say by their settings."""


def code_version(module: str) -> str:
    """The package that `module` is of, and its version; another version may be another game or network.

    Sources of the user's own (in no package, or in one that is installed to be edited) are told apart by the first 12
    digits of the sha256 of all Python files of the top-level module.
    """
    top = module.partition(".")[0]
    name = next(iter(importlib.metadata.packages_distributions().get(top, ())), None)
    version = top if name is None else f"{name} {importlib.metadata.version(name)}"
    own = top != OURS and (name is None or _editable(name))
    return f"{version} {_sources_sha256(top)}" if own else version


def _editable(distribution: str) -> bool:
    """Whether it was installed with `pip install -e`."""
    told = importlib.metadata.distribution(distribution).read_text("direct_url.json")
    return told is not None and bool(json.loads(told).get("dir_info", {}).get("editable", False))


def _sources_sha256(top: str) -> str:
    found = importlib.util.find_spec(top)
    folders = [Path(one) for one in (found.submodule_search_locations or ())] if found is not None else []
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not folders and found is not None and found.origin is not None and Path(found.origin).is_file():
        files = [Path(found.origin)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
