"""The best agent of a run that is resumed: the best one up to the checkpoint that learning goes on from."""

from __future__ import annotations

import sys
from pathlib import Path

from stillsight.agents.errors import CheckpointError
from stillsight.agents.runs import checkpoint, history, schema


def restore_best(folder: Path, step: int) -> tuple[int, float] | None:
    """Put the best agent up to a step in its place; a younger one was made by steps that are taken back.

    What is passed over, damaged or younger, is said on the error stream.

    Args:
        folder: of the run.
        step: environment steps that are done.

    Returns:
        The best agent's step and its mean return; None where there is none that is whole, and the next evaluation is
        best.
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
            best = facts["step"], facts["mean"]
            history.put_best(folder, name)
            break
        younger = facts["step"]
    if younger is not None:
        if best is None:
            history.checkpoint_file(folder, history.BEST).unlink()
        instead = "the next evaluation takes its place" if best is None else f"that of step {best[0]:,} is"
        print(
            f"stillsight: The best agent was one of step {younger:,}, which lies after the checkpoint and is taken "
            f"back with its evaluation; {instead}.",
            file=sys.stderr,
        )
    history.drop_best_before(folder)
    return best
