"""Playing with a trained agent: whole episodes of the true game, and their returns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console

from stillsight.agents.command_line.json_output import print_json
from stillsight.agents.errors import RunError
from stillsight.agents.features.live_units import Sample, live_units
from stillsight.agents.playing.evaluations import EVALUATIONS, keep
from stillsight.agents.playing.play_config import EvaluateConfig
from stillsight.agents.playing.player import Player, load
from stillsight.agents.playing.reevaluate import reevaluate
from stillsight.agents.runs.place import place
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.records import plain
from stillsight.agents.runs.trust import Trust, open_run
from stillsight.agents.training.episodes import Episode, capped_note, earned, play_episodes, successes
from stillsight.agents.training.seeds import PLAY
from stillsight.encoders.atomic import to_json
from stillsight.encoders.system.stopping import Stop
from stillsight.envs import make_env, reference_returns
from stillsight.envs.options import EnvOptions
from stillsight.envs.wrappers.layout import Layout


def play(
    player: Player,
    env: gym.Env[Any, Any],
    seed: int,
    *,
    deterministic: bool = True,
    max_steps: int | None = None,
    watch: Callable[[np.ndarray], None] | None = None,
) -> Episode:
    """Play one episode.

    Args:
        player: who plays.
        env: from `stillsight.envs.make_env(training=False)`.
        seed: of the episode.
        deterministic: take the most likely action.
        max_steps: agent steps after which it is stopped, see `play_episodes`; as in the run's evaluations by default.
        watch: called with each rendered frame, `[H, W, 3]` uint8, the first and the last included.
    """

    def show(shown: gym.Env[Any, Any]) -> None:
        frame: Any = shown.render()
        if frame is not None and watch is not None:
            watch(frame)

    (episode,) = play_episodes(
        player.actor,
        [env],
        [[seed]],
        deterministic=deterministic,
        max_steps=player.config.eval_max_steps if max_steps is None else max_steps,
        show=None if watch is None else show,
    )
    return episode


def open_env(player: Player, options: EnvOptions, seed: int) -> gym.Env[Any, Any]:
    """The environment of a player, as it is evaluated and filmed.

    Raises:
        EnvError: see `make_env`.
        RunError: what it shows, or how it is acted in, is not what the agent was trained in.
    """
    env = make_env(player.config.env, options, training=False, seed=seed)
    shown, known = Layout.of(env.observation_space), player.known
    if shown is None or shown.form != known.layout.form or env.action_space != known.action:
        env.close()
        raise RunError(
            f"This agent sees {_words(known.layout)} and acts in {known.action}, and {player.config.env} as asked for "
            f"here shows {_words(shown)} and takes {env.action_space}. Drop the --env-set that changes it."
        )
    return env


def _words(layout: Layout | None) -> str:
    if layout is None:
        return "nothing that an agent sees"
    return f"pixels {list(layout.pixels)}" if layout.plain else str(layout)


def play_seeds(
    player: Player,
    options: EnvOptions,
    *,
    episodes: int,
    seed: int,
    n_envs: int = 1,
    deterministic: bool = True,
    max_steps: int | None = None,
    watch: Callable[[int, int, Episode | None], None] | None = None,
) -> list[Episode]:
    """Play the episodes of `episodes` seeds from `seed` on, in their order; see `play_episodes`.

    Raises:
        EnvError, RunError: see `open_env`.
    """
    count = min(n_envs, episodes)
    with ExitStack() as opened:
        envs = []
        for _ in range(count):
            envs.append(open_env(player, options, seed))
            opened.callback(envs[-1].close)
        return play_episodes(
            player.actor,
            envs,
            [range(seed + index, seed + episodes, count) for index in range(count)],
            deterministic=deterministic,
            max_steps=player.config.eval_max_steps if max_steps is None else max_steps,
            watch=watch,
        )


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
    """Unclipped returns of whole episodes, see `episodes_under`.

    Args:
        player, shift, strength, episodes, seed, deterministic: see there.
        watch: called after each episode with the number of episodes so far and the return.
    """

    def tell(done: int, _: int, last: Episode | None) -> None:
        if watch is not None and last is not None:
            watch(done, last.total)

    played = episodes_under(
        player, shift, strength=strength, episodes=episodes, seed=seed, deterministic=deterministic, watch=tell
    )
    return [episode.total for episode in played]


def episodes_under(
    player: Player,
    shift: str | None = None,
    *,
    strength: float | None = None,
    episodes: int = 20,
    seed: int = PLAY,
    deterministic: bool = True,
    watch: Callable[[int, int, Episode | None], None] | None = None,
) -> list[Episode]:
    """Play whole episodes through a visual shift. One seed gives the same episodes under every shift.

    Args:
        player: who plays.
        shift, strength: see `EnvOptions.through`; None as in the run's evaluations.
        episodes: how many, at least 1.
        seed: of the first episode; the others follow.
        deterministic: take the most likely action.
        watch: see `play_episodes`.

    Raises:
        EnvError: see `EnvOptions.through` and `make_env`.
    """
    options = player.config.eval_options().through(shift, strength)
    return play_seeds(player, options, episodes=episodes, seed=seed, deterministic=deterministic, watch=watch)


def evaluate(folder: Path, config: EvaluateConfig) -> dict[str, Any]:
    """Play, print, and append the result to the run's evaluations.jsonl. A cifar run is re-evaluated, see `reevaluate`.

    Args:
        folder: the run's.
        config: how to play.

    Raises:
        RunError, CheckpointError, EnvError: no such run, checkpoint or shift, or it is damaged.
        DiskFault: the result was printed, and could not be appended.
    """
    config.check()
    trust = Trust(config.trust)
    opened = open_run(folder, trust, weights=config.weights, device=config.device)
    config.check_command(folder, opened.command)
    console = Console(highlight=False, stderr=config.json)
    display = ProgressDisplay(console)
    if opened.word:
        display.note(opened.word)
    if opened.command == "cifar":
        return reevaluate(
            folder,
            config.split,
            data=config.data,
            weights=config.weights,
            device=config.device,
            display=display,
            trust=trust,
            out=config.out or folder,
            printed=config.json,
        )
    place(config.out or folder, EVALUATIONS)  # now, and not after all games
    player = load(folder, config.checkpoint, weights=config.weights, device=config.device, trust=config.trust)
    options, limit = config.options(player.config), config.limit(player.config)
    deterministic = config.deterministic(player.config)
    sample = player.actor.sample = Sample()
    last = 0.0

    def watch(done: int, steps: int, ended: Episode | None) -> None:
        nonlocal last
        last = last if ended is None else ended.total
        facts = {"last return": last} if done else {}
        display.update("episode", done, config.episodes, steps=steps, **facts)

    try:
        played = play_seeds(
            player,
            options,
            episodes=config.episodes,
            seed=config.seed,
            n_envs=config.n_envs,
            deterministic=deterministic,
            max_steps=limit,
            watch=watch,
        )
    except Stop as stop:
        stop.sentence = (
            f"Stopped by {stop.name} before all {config.episodes} episodes were played; nothing was recorded."
        )
        raise
    finally:
        display.close()
    live = live_units(player.actor.model.policy, sample)
    scores = [episode.total for episode in played]
    result: dict[str, Any] = {
        "checkpoint": player.checkpoint,
        "step": player.step,
        "shift": options.shift,
        "shift_strength": options.shift_strength,
        "env_set": list(config.env_set),
        "mean": np.mean(scores),
        "std": np.std(scores),
        "returns": scores,
        "lengths": [episode.length for episode in played],
        "capped": sum(episode.capped for episode in played),
        "max_steps": limit,
        **successes(played),
        **(live.facts if live is not None else {}),
        "deterministic": deterministic,
        "seed": config.seed,
    }
    seen = f" through {options.look}" if options.look else ""
    rows = {"agent": earned(result["mean"], result["std"], len(scores), result.get("success_rate")) + seen}
    if (note := capped_note(played, limit, "--max-steps")) is not None:
        rows["capped"] = note
    if config.random_episodes:
        for reference, score in reference_returns(
            player.config.env, config.random_episodes, config.seed, options=options, max_steps=limit
        ).items():
            result[reference] = score
            name = "always best" if reference == "oracle" else reference
            rows[name] = earned(**score)
    display.card(f"{player.config.env}, {player.checkpoint} of {folder}", rows)
    if live is not None and (warning := live.warning(options.look)) is not None:
        print(f"stillsight: warning: {warning}", file=sys.stderr)
    if config.json:
        print_json(to_json(plain(result)))
    keep(config.out or folder, result)
    return result
