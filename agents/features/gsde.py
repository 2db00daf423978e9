"""gSDE: generalised state-dependent exploration (Raffin et al. 2021, arXiv 2005.05719) of an agent that plays.

A policy with `use_sde` acts by its mean action plus features times a matrix of noise, which stays as it is for many
steps. In training SB3 draws the matrix; `predict` takes the one that lies there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import Tensor

from stillsight.agents.errors import CheckpointError


def _acting(model: BaseAlgorithm) -> Any:
    """The part of a policy that acts: its actor, where it has one."""
    return getattr(model.policy, "actor", model.policy)


def distribution(model: BaseAlgorithm) -> StateDependentNoiseDistribution | None:
    """The distribution of actions of a model that explores by gSDE; None of any other."""
    found = getattr(_acting(model), "action_dist", None)
    return found if isinstance(found, StateDependentNoiseDistribution) else None


def matrices(model: BaseAlgorithm) -> list[Tensor] | None:
    """The noise that acts now: of one environment `[D, A]`, and of several `[N, D, A]`; None without gSDE."""
    found = distribution(model)
    return None if found is None else [found.exploration_mat.detach(), found.exploration_matrices.detach()]


def check_noise(model: BaseAlgorithm, noise: object, n_envs: int) -> None:
    """Refuse what is no noise of this model.

    Args:
        model: not changed.
        noise: as `matrices` gives it.
        n_envs: environments that it is for.

    Raises:
        CheckpointError: it has other shapes, or the model does not explore by gSDE.
    """
    found = distribution(model)
    shape = None if found is None else found.exploration_mat.shape
    wanted = [] if shape is None else [shape, (n_envs, *shape)]
    given = [one.shape for one in noise if isinstance(one, Tensor)] if isinstance(noise, list) else None
    if given != wanted or not wanted:
        raise CheckpointError(
            f"The checkpoint does not fit this agent (its noise of gSDE has the shapes {given}, wanted are {wanted})."
        )


def put_back(model: BaseAlgorithm, noise: Sequence[Tensor]) -> None:
    """Let this noise act, which `matrices` gave."""
    found = distribution(model)
    assert found is not None, "only what explores by gSDE has noise to put back"
    found.exploration_mat, found.exploration_matrices = (one.to(model.device) for one in noise)


class PlayNoise:
    """Noise of an agent that plays: each environment's own, drawn anew where an episode begins and as often as training
    does within one (`sde_sample_freq`). That of training lies there again after each action.

    Args:
        model: whose learned standard deviations it is drawn with.
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model = model
        self._drawn: Tensor | None = None  # [N, D, A]
        self._steps: Any = 0  # since it was drawn, [N]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these environments alone, in this order."""
        if self._drawn is not None:
            self._drawn, self._steps = self._drawn[list(rows)], self._steps[list(rows)]

    @contextmanager
    def acting(self, began: np.ndarray) -> Iterator[None]:
        """Let the noise of play act inside; without gSDE nothing happens.

        Args:
            began: bool `[N]`, which environments show the first frame of an episode; all of them do the first time.
        """
        found, training = distribution(self.model), matrices(self.model)
        if found is None or training is None:
            yield
            return
        often = int(getattr(self.model, "sde_sample_freq", -1))
        anew = began | (self._steps >= often) if often > 0 else began
        if anew.any():
            found.sample_weights(_acting(self.model).log_std, batch_size=len(began))
            fresh = found.exploration_matrices.detach()
            rows = torch.from_numpy(anew).to(fresh.device)[:, None, None]
            self._drawn = fresh if self._drawn is None else torch.where(rows, fresh, self._drawn)
            self._steps = np.where(anew, 0, self._steps)
        assert self._drawn is not None
        put_back(self.model, [self._drawn[0], self._drawn])
        try:
            yield
        finally:
            put_back(self.model, training)
        self._steps = self._steps + 1
