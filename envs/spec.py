"""EnvSpec: what is known of an environment before it is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from stillsight.envs.options import EnvOptions

Actions: TypeAlias = Literal["discrete", "multi-discrete", "multi-binary", "continuous", "unknown"]


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """One environment: its id, what it needs, and how it is shown to an agent."""

    id: str
    """The id as a user types it: a Gymnasium id, or `module:Id` for one that a module registers when imported."""
    summary: str = ""
    """One line for lists and cards; empty for an id without a row."""
    actions: Actions = "unknown"
    """As registered; an argument of the environment may change it, so the made environment's space decides."""
    extra: str | None = None
    """The pip extra of stillsight that brings what it needs."""
    needs: tuple[str, ...] = ()
    """The modules, brought by the extra, that must be importable."""
    options: EnvOptions = field(default_factory=EnvOptions)
    """How it is shown to an agent unless the user asks otherwise."""
