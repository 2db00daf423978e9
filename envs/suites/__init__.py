"""Suites of environments, one file each: every module of this folder with a `SUITE` is one."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from stillsight.envs.suites.suite import Suite

_NAMES = sorted(module.name for module in iter_modules(__path__) if module.name != "suite")

SUITES: tuple[Suite, ...] = tuple(
    sorted((import_module(f"{__name__}.{name}").SUITE for name in _NAMES), key=lambda suite: suite.place)
)
"""In the order in which their rows are listed; an id is of the first suite that it fits."""
