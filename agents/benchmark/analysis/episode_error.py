"""The error that evaluation episodes leave in a difference of agents, which all play the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stillsight.agents.benchmark.analysis.stats import Array


class Error(NamedTuple):
    """One part of a squared standard error.

    Attributes:
        square: how large it is, `[...]`.
        freedom: its degrees of freedom (Satterthwaite 1946).
    """

    square: Array
    freedom: float


class Term(NamedTuple):
    """Agents whose mean counts `weight` times in an estimate.

    Attributes:
        weight: 1 for an arm, -1 for the one that it is compared with.
        returns: of each seed's agent in each episode, `[seeds, episodes]`; a column is the same episode in all terms.
    """

    weight: float
    returns: Array


def episode_error(terms: Sequence[Term]) -> Error | None:
    """Squared standard error of a sum of arms' means that comes from the choice of the episodes.

    What an episode adds to the return of an arm is the same in all of its seeds, so that their spread does not show it,
    and no number of seeds makes it less. It is found in how the sum of the arms' means differs from episode to episode:
    an episode that is as easy for all arms sets nothing apart. What a seed meets in one episode and no other seed does
    is in that too, divided by the seeds. The spread of the seeds' scores holds it already, so that the whole is too
    large rather than too small. An estimate without it may come out negative, with hardly a degree of freedom:
    intervals by it were a million returns wide.

    Returns in rows of seeds and columns of episodes have two-way random effects without replication: Searle, Casella &
    McCulloch 1992, "Variance components", chapter 4.

    Args:
        terms: of the sum. Where some have more episodes than others, those that all have count.

    Returns:
        None where there are fewer than two episodes, which say nothing of others.
    """
    episodes = min(term.returns.shape[1] for term in terms)
    if episodes < 2:
        return None
    each = np.sum([term.weight * term.returns[:, :episodes].mean(0) for term in terms], axis=0)
    # What rounding leaves of episodes that add the same to all arms is no error.
    largest = max(float(np.abs(term.weight * term.returns).max()) for term in terms)
    spread = float(each.var(ddof=1)) if np.ptp(each) > 1e-12 * largest else 0.0
    return Error(np.array(spread / episodes), episodes - 1)
