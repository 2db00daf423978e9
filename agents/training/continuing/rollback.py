"""Rollback: take back the rollout, or the update after it, that a run is stopped in the middle of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from stillsight.agents.buffers.replay import Mark
from stillsight.agents.training.ledger import Ledger
from stillsight.agents.training.state import model_state as state
from stillsight.agents.training.state.rollout_length import learns_at, rollout_steps

LONG = 1.0
"""Seconds beyond which a rollout or an update is long; `callbacks.Stoppable` waits three times as long for one to
end."""


@dataclass(frozen=True)
class Begun:
    """Where an agent stood when a rollout began.

    Attributes:
        counters: of the model.
        ledger: as it was.
        whole: all that learning goes on with, of a rollout in which somebody may be stopped: one with an evaluation in
            it, one before a long update, and a long one of an algorithm that has no replay memory. None of others.
        replay: where the replay memory stood, where there are both.
        lasts: whether `whole` holds copies, which the update after the rollout leaves alone.
    """

    counters: dict[str, Any]
    ledger: Ledger
    whole: dict[str, Any] | None
    replay: Mark | None
    lasts: bool


class Rollback:
    """What the rollout, or the update, that is under way can be taken back to.

    Args:
        model: whose rollouts they are.
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model = model
        self._rollout: Begun | None = None
        self._update: Begun | None = None  # in an update, what the rollout before it began with, if that can be saved
        self._began, self._lasted = 0.0, float("inf")  # the rollout: when by the clock, and for how long the last one
        self._learns: float | None = None  # when the update began that is under way
        self._learned = 0.0  # for how long it has
        self._learning = float("inf")  # for how long the last one did; of none yet nobody knows how long it will be

    @property
    def collecting(self) -> bool:
        """Whether a rollout is under way: the games are ahead of what was learned."""
        return self._rollout is not None

    @property
    def began(self) -> int | None:
        """Environment steps at which the rollout began that is under way; None where none is."""
        return None if self._rollout is None else self._rollout.counters["num_timesteps"]

    @property
    def within(self) -> str:
        """What is under way and can be taken back, in a word."""
        return "rollout" if self._update is None else "update"

    def rollout_began(self, ledger: Ledger, whole: Callable[[], dict[str, Any]], *, evaluated: bool) -> None:
        """Remember where the agent stands: until `rollout_ended` it holds steps that it has not learned from.

        Args:
            ledger: as it stands.
            whole: gives all that learning goes on with, as it stands now.
            evaluated: whether an evaluation may fall into this rollout.
        """
        model, off_policy = self.model, isinstance(self.model, OffPolicyAlgorithm)
        lasts = self._learning > LONG and learns_at(model, model.num_timesteps + rollout_steps(model))
        gathers = lasts or (self._lasted > LONG and not off_policy) or evaluated
        stands = whole() if gathers else None
        if stands is not None and (lasts or off_policy):  # DQN moves its target network in rollouts
            stands = state.copied(stands)
        replay = None if stands is None else state.mark_replay(model)
        self._rollout = Begun(state.counters(model), replace(ledger), stands, replay, lasts)
        self._began = time.perf_counter()

    def rollout_ended(self) -> None:
        """What was collected is whole, and learned from next."""
        now, begun = time.perf_counter(), self._rollout
        self._update = begun if begun is not None and begun.lasts else None
        self._rollout, self._lasted = None, now - self._began
        self._learns = now if learns_at(self.model, self.model.num_timesteps) else None
        self._learned = 0.0

    def stepped(self) -> bool:
        """An optimizer has made a step of the update that is under way.

        Returns:
            Whether that can be taken back. What is half learned is nothing to go on with: an update that cannot has to
            be waited for.
        """
        if self._learns is not None:
            self._learned = time.perf_counter() - self._learns
        return self._update is not None

    def update_ended(self) -> None:
        """All was learned that the rollout before was collected for."""
        if self._learns is not None:
            self._learning = self._learned
        self._learns, self._update = None, None

    def take_back(self, unstored: int) -> Begun | None:
        """Put the model where it stood at what is to be saved of it.

        In the middle of a rollout, an algorithm that learns from rollouts goes back to where that began, for its
        weights are the same. So does one with a replay memory where an evaluation falls into the rollout, which is
        played whole then by the agent that it is due for, or a long update is to follow; else it goes back to the last
        step that the memory holds. In the middle of an update every algorithm goes back to where the rollout before
        that began: all that was half learned is taken back.

        Args:
            unstored: environment steps that were counted and did not reach the replay memory.

        Returns:
            Where the rollout began that it went back to; None where it stays in the middle of one. Games and random
            numbers of then are in `Begun.whole`; where that is None, games begin anew.
        """
        model, begun = self.model, self._rollout
        if begun is not None and begun.whole is None and isinstance(model, OffPolicyAlgorithm):
            begun = None
            model.num_timesteps -= unstored
        if self._update is not None and self._update.whole is not None:
            begun = self._update
            state.restore(model, self._update.whole)
        if begun is not None:
            vars(model).update(begun.counters)
            state.rewind_replay(model, begun.replay)
        return begun
