"""The best agent of a run that is resumed: the best one up to the checkpoint that learning goes on from, and whether
what is evaluated now can be compared with it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillsight.agents.errors import CheckpointError
from stillsight.agents.runs import checkpoint, history, schema

EVALUATED = ("eval_episodes", "eval_max_steps")
"""Flags that may change on `--resume` and by which another evaluation has another mean: the best of many means of one
episode is luck that a mean of ten never has, and returns count until an episode is stopped. How many games are played
side by side (`eval_envs`) changes which ones, and as they go on from one evaluation to the next these are others
anyway."""


@dataclass(frozen=True)
class Best:
    """The agent that did best in an evaluation.

    Attributes:
        step: environment steps that it had learned from.
        mean: return of that evaluation.
        evaluated: what `EVALUATED` was then; None of versions that did not write it down.
    """

    step: int
    mean: float
    evaluated: Mapping[str, int] | None

    def others(self, now: Mapping[str, int], changed: Mapping[str, tuple[Any, Any]]) -> list[str]:
        """How evaluations differ by now from the one that it was found by, each as words; then its mean is of something
        else.

        Args:
            now: what `EVALUATED` is.
            changed: field -> (before, now) of the flags that this session changes.
        """
        before = {name: changed.get(name, (now[name],))[0] for name in EVALUATED} | dict(self.evaluated or {})
        return [f"{name} {before[name]} before, {now[name]} now" for name in EVALUATED if before[name] != now[name]]


def restore_best(folder: Path, step: int) -> Best | None:
    """Put the best agent up to a step in its place; a younger one was made by steps that are taken back.

    What is passed over, damaged or younger, is said on the error stream.

    Args:
        folder: of the run.
        step: environment steps that are done.

    Returns:
        The best agent; None where there is none that is whole, and the next evaluation is best.
    """
    best, younger = None, None
    for name in (history.BEST, history.BEST_BEFORE):
        path = history.checkpoint_file(folder, name)
        if not path.exists():
            continue
        try:
            facts = checkpoint.facts(checkpoint.load(path), schema.BestFacts, path)
        except CheckpointError as error:
            print(f"stillsight: {error} The next evaluation takes its place.", file=sys.stderr)
            continue
        if facts["step"] <= step:
            best = Best(facts["step"], facts["mean"], facts.get("evaluated"))
            history.put_best(folder, name)
            break
        younger = facts["step"]
    if younger is not None:
        if best is None:
            history.checkpoint_file(folder, history.BEST).unlink()
        instead = "the next evaluation takes its place" if best is None else f"that of step {best.step:,} is"
        print(
            f"stillsight: The best agent was one of step {younger:,}, which lies after the checkpoint and is taken "
            f"back with its evaluation; {instead}.",
            file=sys.stderr,
        )
    history.drop_best(folder, history.BEST_BEFORE, history.BEST_ROLLOUT)
    return best
