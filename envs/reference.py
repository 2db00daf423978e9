"""Reference returns: what a return is worth, beside random play and an oracle that knows the state."""

from __future__ import annotations

from typing import NotRequired, TypedDict

import numpy as np

from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions
from stillsight.envs.random_play import random_play
from stillsight.envs.success import success, success_rate
from stillsight.envs.vector import make_vec


class Reference(TypedDict):
    """Returns of one player, unclipped, over whole games."""

    mean: float
    std: float
    """Spread over episodes (population standard deviation)."""
    episodes: int
    success_rate: NotRequired[float]
    """Share of episodes that reached their goal, 0..1, where the environment says so, see `success`."""


def reference_returns(
    env_id: str, episodes: int = 20, seed: int = 0, *, options: EnvOptions | None = None, max_steps: int = 0
) -> dict[str, Reference]:
    """Plays `episodes` episodes at random, under `"random"`, and by the environment's own `oracle_action()`, under
    `"oracle"`, where it has one. The demo prints these beside the agent's return. Random play takes one of the actions
    that `action_masks()` allows, where the environment has it. An episode counts until step `max_steps`, where that is
    not 0.

    Raises `EnvError` for all that `make_vec` does, and for fewer than one episode.
    """
    if episodes < 1:
        raise EnvError(f"{episodes} episodes were asked for; a mean takes at least 1. Try 20.")
    venv = make_vec(env_id, seed=seed, options=options, training=False)
    players = ["random", "oracle"] if venv.has_attr("oracle_action") else ["random"]
    scores: dict[str, Reference] = {}
    for player in players:
        venv.seed(seed)  # both meet the same episodes
        venv.reset()
        draw = random_play(venv)
        returns: list[float] = []
        outcomes: list[bool | None] = []
        total, length = 0.0, 0
        while len(returns) < episodes:
            actions = np.asarray(venv.env_method("oracle_action")) if player == "oracle" else draw()
            _, rewards, dones, infos = venv.step(actions)
            total, length = total + float(rewards[0]), length + 1
            if dones[0]:
                total = float(infos[0]["episode"]["r"])
            elif length == max_steps:
                venv.reset()
            else:
                continue
            returns.append(total)
            outcomes.append(success(infos[0]))
            total, length = 0.0, 0
        scores[player] = Reference(mean=float(np.mean(returns)), std=float(np.std(returns)), episodes=episodes)
        if (rate := success_rate(outcomes)) is not None:
            scores[player]["success_rate"] = rate
    venv.close()
    return scores
