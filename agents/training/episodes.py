"""Episodes of the true game, played whole by an actor in several environments at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from stillsight.agents.features.acting import Actor, masks_of
from stillsight.agents.training.config import MAX_STEPS
from stillsight.encoders.system import stopping
from stillsight.envs.success import success, success_rate
from stillsight.envs.wrappers.layout import Observation, alike, batch

STILL = 1_000
"""Agent steps without a change of the picture and without a reward after which an episode is stopped, wherever there is
a limit at all. A policy that does not press FIRE waits in Breakout until the emulator gives up."""


@dataclass(frozen=True)
class Episode:
    """One episode.

    Attributes:
        total: return, unclipped.
        length: agent steps.
        terminated: it ended by the rules, and not by a time limit.
        capped: it was stopped by `max_steps`, or because nothing happened any more: the return is that until then.
        success: whether it reached its goal; None where the environment does not say, see `envs.success`.
    """

    total: float
    length: int
    terminated: bool
    capped: bool = False
    success: bool | None = None


@dataclass
class _Game:
    """An environment and the episode that is played in it."""

    env: gym.Env[Any, Any]
    seeds: list[int | None]
    shown: Observation
    total: float = 0.0
    length: int = 0
    still: int = 0

    def begin(self) -> None:
        self.shown, _ = self.env.reset(seed=self.seeds.pop(0))
        self.total, self.length, self.still = 0.0, 0, 0

    def step(self, action: Any, max_steps: int) -> Episode | None:
        """One step; the episode, if it ended."""
        before = self.shown
        self.shown, reward, terminated, truncated, info = self.env.step(action)
        self.total, self.length = self.total + float(reward), self.length + 1
        happened = float(reward) != 0.0 or not alike(before, self.shown)
        self.still = 0 if happened else self.still + 1
        capped = max_steps > 0 and (self.length >= max_steps or self.still >= STILL)
        capped = capped and not (terminated or truncated)
        if not (terminated or truncated or capped):
            return None
        return Episode(self.total, self.length, terminated, capped, success(info))


def play_episodes(
    actor: Actor,
    envs: Sequence[gym.Env[Any, Any]],
    seeds: Sequence[Sequence[int | None]],
    *,
    deterministic: bool = True,
    max_steps: int = MAX_STEPS,
    show: Callable[[gym.Env[Any, Any]], None] | None = None,
    watch: Callable[[int, int, Episode | None], None] | None = None,
) -> list[Episode]:
    """Play a fixed list of episodes in each environment, all of them to their end, so that short ones are not favoured.

    Args:
        actor: who plays; it forgets what it saw before.
        envs: from `stillsight.envs.make_env(training=False)`.
        seeds: for each environment the seeds of its episodes, None to go on with its own random numbers.
        deterministic: take the most likely action.
        max_steps: agent steps after which an episode is stopped and marked as `capped`, as it is when nothing happened
            for `STILL` steps; 0 plays on for ever.
        show: called with the environment after each reset and each step.
        watch: called after each step of all with the number of finished episodes, the number of steps so far, and the
            last episode if one has just ended.

    Returns:
        The first episodes of all environments, then the second ones, and so on.

    Raises:
        RunError: the policy asks for masks that an environment does not give.
        Stop: somebody asked for it.
    """
    games = [_Game(env, list(own), np.empty(0)) for env, own in zip(envs, seeds, strict=True)]
    played: list[list[Episode]] = [[] for _ in games]
    live = [index for index, game in enumerate(games) if game.seeds]
    for index in live:
        games[index].begin()
        if show is not None:
            show(games[index].env)
    actor.reset()
    began, steps = np.ones(len(live), bool), 0
    while live:
        stopping.check()
        masks = masks_of(actor.model, [games[index].env for index in live])
        shown = batch([games[index].shown for index in live])
        actions = actor.act(shown, deterministic=deterministic, began=began, masks=masks)
        began, last, kept = np.zeros(len(live), bool), None, []
        for row, index in enumerate(live):
            game = games[index]
            episode = game.step(actions[row], max_steps)
            if show is not None:
                show(game.env)
            if episode is not None:
                played[index].append(episode)
                last = episode
                if not game.seeds:
                    continue
                game.begin()
                began[row] = True
                if show is not None:
                    show(game.env)
            kept.append(row)
        steps += len(live)
        if len(kept) < len(live):
            actor.keep(kept)
            live, began = [live[row] for row in kept], began[kept]
        if watch is not None:
            watch(sum(map(len, played)), steps, last)
    rounds = max(map(len, played), default=0)
    return [own[number] for number in range(rounds) for own in played if number < len(own)]


def divide(episodes: int, environments: int) -> list[int]:
    """How many of `episodes` each environment plays: as evenly as can be, fixed before anything is played."""
    return [episodes // environments + (index < episodes % environments) for index in range(environments)]


def share_successful(episodes: Sequence[Episode]) -> float | None:
    """Share of the episodes that reached their goal, 0..1; None where not all say."""
    return success_rate([episode.success for episode in episodes])


def successes(episodes: Sequence[Episode]) -> dict[str, Any]:
    """`successes`, a truth value for each episode, and `success_rate`, 0..1, for a record; {} where not all say."""
    rate = share_successful(episodes)
    return {} if rate is None else {"success_rate": rate, "successes": [episode.success for episode in episodes]}


def earned(mean: float, std: float, episodes: int, success_rate: float | None = None) -> str:
    """Return and, where it is known, success of so many episodes, in words."""
    successful = "" if success_rate is None else f", {success_rate:.0%} of them successful"
    return f"{mean:.2f} ± {std:.2f} over {episodes} episodes{successful}"


def capped_note(episodes: Sequence[Episode], max_steps: int, flag: str) -> str | None:
    """What to say of episodes that were stopped; None where none was."""
    count = sum(episode.capped for episode in episodes)
    if not count:
        return None
    return (
        f"{count} of {len(episodes)} episodes were stopped before their end, after {max_steps:,} steps or after "
        f"{STILL:,} in which nothing happened; their returns count what was earned until then. "
        f"{flag} 0 plays to the end."
    )
