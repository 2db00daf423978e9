"""EnvSpec, OwnImage, Preset and Score: what is known of an environment before it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from stillsight.envs.options import EnvOptions

Actions: TypeAlias = Literal["discrete", "multi-discrete", "multi-binary", "continuous", "unknown"]


class OwnImage(NamedTuple):
    """The image that a suite's environments observe themselves.

    Attributes:
        key: of it, as "image" in a Dict; "" for an observation that is the image.
        larger: what to type so that it is drawn larger.
    """

    key: str
    larger: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """A return that somebody published, to set beside an agent's.

    Attributes:
        value: mean return of a whole episode.
        who: algorithm and budget in agent steps, "PPO, 1M steps".
        source: where it was published.
    """

    value: float
    who: str
    source: str

    def __str__(self) -> str:
        return f"{self.value:g} ({self.who}; {self.source})"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What works for an algorithm in an environment, as data; it goes on top of the algorithm's own preset.

    Attributes:
        settings: arguments of the algorithm's class, as `--set` takes them.
        frame_stack: frames in an observation; 4 in Mnih et al. 2015.
        n_envs: environments side by side; None for the algorithm's own number.
        source: who published or tried it, for which budget, and what is otherwise here.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    frame_stack: int = 4
    n_envs: int | None = None
    source: str = ""


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
    random: float | None = None
    """Mean return of random play, 100 episodes of these options with seed 0, to four digits, as measured in
    results/published/envs/random.jsonl; None where it was not."""
    published: tuple[Score, ...] = ()
    """Returns that others reached from pixels, for orientation: their frame skips, sizes and budgets may be others."""
