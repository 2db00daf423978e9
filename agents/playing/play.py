"""Playing with a trained agent: whole episodes of the true game, and their returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console

from stillsight.agents.playing.play_config import EvaluateConfig, shifted
from stillsight.agents.playing.player import Player, load
from stillsight.agents.playing.reevaluate import reevaluate
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.reader import read_config
from stillsight.agents.runs.records import append_line, plain
from stillsight.agents.training.seeds import PLAY
from stillsight.envs import make_env, reference_returns


@dataclass(frozen=True)
class Episode:
    """One whole episode.

    Attributes:
        total: return, unclipped.
        length: agent steps.
        terminated: it ended by the rules, and not by a time limit.
    """

    total: float
    length: int
    terminated: bool


def play(
    player: Player,
    env: gym.Env[Any, Any],
    seed: int,
    *,
    deterministic: bool = True,
    watch: Callable[[np.ndarray], None] | None = None,
) -> Episode:
    """Play one episode.

    Args:
        player: who plays.
        env: from `stillsight.envs.make_env(training=False)`.
        seed: of the episode.
        deterministic: take the most likely action.
        watch: called with each rendered frame, `[H, W, 3]` uint8, the first and the last included.
    """
    player.reset()
    pixels, _ = env.reset(seed=seed)
    total, length, terminated, truncated = 0.0, 0, False, False
    while not (terminated or truncated):
        _show(env, watch)
        pixels, reward, terminated, truncated, _ = env.step(player.predict(pixels, deterministic))
        total, length = total + float(reward), length + 1
    _show(env, watch)
    return Episode(total, length, terminated)


def _show(env: gym.Env[Any, Any], watch: Callable[[np.ndarray], None] | None) -> None:
    if watch is not None:
        frame: Any = env.render()
        if frame is not None:
            watch(frame)


def returns(
    player: Player,
    shift: str | None = None,
    *,
    strength: float | None = None,
    episodes: int = 20,
    seed: int = PLAY,
    deterministic: bool = True,
    watch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Unclipped returns of whole episodes. One seed gives the same episodes under every shift.

    Args:
        player: who plays.
        shift, strength: see `shifted`.
        episodes: how many, at least 1.
        seed: of the first episode; the others follow.
        deterministic: take the most likely action.
        watch: called after each episode with the number of episodes so far and the return.

    Raises:
        EnvError: see `shifted`.
    """
    options = shifted(player.config.env_options(), shift, strength)
    env = make_env(player.config.env, options, training=False, seed=seed)
    found = []
    for index in range(episodes):
        found.append(play(player, env, seed + index, deterministic=deterministic).total)
        if watch is not None:
            watch(index + 1, found[-1])
    env.close()
    return found


def evaluate(folder: Path, config: EvaluateConfig) -> dict[str, Any]:
    """Play, print, and append the result to the run's evaluations.jsonl. A cifar run is re-evaluated, see `reevaluate`.

    Args:
        folder: the run's.
        config: how to play.

    Raises:
        RunError, CheckpointError, EnvError: no such run, checkpoint or shift, or it is damaged.
    """
    config.check()
    record = read_config(folder)
    config.check_command(folder, record.get("command", "rl"))
    console = Console(highlight=False, stderr=config.json)
    if record.get("command") == "cifar":
        again = reevaluate(
            folder,
            record,
            config.split,
            data=config.data,
            weights=config.weights,
            device=config.device,
            display=ProgressDisplay(console),
        )
        if config.json:
            print(json.dumps(plain(again)))
        return again
    player = load(folder, config.checkpoint, weights=config.weights, device=config.device)
    options = shifted(player.config.env_options(), config.shift, config.shift_strength)
    display = ProgressDisplay(console)
    scores = returns(
        player,
        config.shift,
        strength=config.shift_strength,
        episodes=config.episodes,
        seed=config.seed,
        deterministic=not config.stochastic,
        watch=lambda done, last: display.update("episode", done, config.episodes, **{"last return": last}),
    )
    display.close()
    result: dict[str, Any] = {
        "checkpoint": config.checkpoint,
        "shift": options.shift,
        "shift_strength": options.shift_strength,
        "mean": np.mean(scores),
        "std": np.std(scores),
        "returns": scores,
        "deterministic": not config.stochastic,
        "seed": config.seed,
    }
    seen = "" if options.shift is None else f" through {options.shift} of strength {options.shift_strength:g}"
    rows = {"agent": f"{np.mean(scores):.2f} ± {np.std(scores):.2f} over {len(scores)} episodes{seen}"}
    if config.random_episodes:
        for reference, score in reference_returns(
            player.config.env, config.random_episodes, config.seed, options=options
        ).items():
            result[reference] = score
            name = "always best" if reference == "oracle" else reference
            rows[name] = f"{score['mean']:.2f} ± {score['std']:.2f} over {score['episodes']} episodes"
    append_line(folder / "evaluations.jsonl", result)
    display.card(f"{player.config.env}, {config.checkpoint} of {folder}", rows)
    if config.json:
        print(json.dumps(plain(result)))
    return result
