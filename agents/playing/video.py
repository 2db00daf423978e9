"""Recording: whole episodes as films, each with a .json beside it. Needs no screen."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from stillsight.agents.playing.film import film
from stillsight.agents.playing.play import open_env, play
from stillsight.agents.playing.play_config import RecordConfig
from stillsight.agents.playing.player import Player, load
from stillsight.agents.runs.place import place
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.records import plain
from stillsight.agents.training.episodes import capped_note
from stillsight.encoders.atomic import to_json, write_atomically
from stillsight.encoders.errors import DiskFault
from stillsight.encoders.system import stopping
from stillsight.encoders.system.stopping import Stop
from stillsight.envs.options import EnvOptions


def record(folder: Path, config: RecordConfig) -> list[Path]:
    """Record episodes of the run in `folder` into its videos/, or into `config.out`, and return the mp4 files.

    A file is called after its checkpoint and step, its seed, and whatever is shown otherwise than in the run. Each has
    a .json beside it with the episode's return, length and seed.

    Raises:
        RunError, CheckpointError: no such run or checkpoint, it is damaged, or there is nothing to see.
    """
    config.check()
    player = load(folder, config.checkpoint, weights=config.weights, device=config.device, trust=config.trust)
    options, limit = config.options(player.config), config.limit(player.config)
    deterministic = config.deterministic(player.config)
    env = open_env(player, options, config.seed)
    fps = config.fps or max(1, round(env.metadata.get("render_fps", 30) / options.frame_skip))
    display = ProgressDisplay()
    written: list[Path] = []
    films = config.out or place(folder, "videos")
    try:
        for seed in range(config.seed, config.seed + config.episodes):
            path = films / f"{film_name(player, config, options, seed)}.mp4"
            with ExitStack() as whole:
                with film(path, fps, config.size) as shot:
                    episode = play(player, env, seed, deterministic=deterministic, max_steps=limit, watch=shot.append)
                    whole.enter_context(stopping.answering(deferred=True))  # a film and its JSON, or neither
                facts = {
                    **asdict(episode),
                    "return": episode.total,
                    "frames": shot.frames,
                    "fps": fps,
                    "seed": seed,
                    "deterministic": deterministic,
                    "checkpoint": player.checkpoint,
                    "step": player.step,
                    "env": player.config.env,
                    "env_set": list(config.env_set),
                    "shift": options.shift,
                    "shift_strength": options.shift_strength,
                }
                del facts["total"]
                if episode.success is None:
                    del facts["success"]
                write_atomically(path.with_suffix(".json"), to_json(plain(facts), indent=2) + "\n")
                display.note(f"{path}  return {episode.total:g}, {shot.frames} frames at {fps} frames/s")
                if (note := capped_note([episode], limit, "--max-steps")) is not None:
                    display.note(note)
                written.append(path)
                stopping.check()
    except Stop as stop:
        stop.sentence = f"Stopped by {stop.name}: {len(written)} of {config.episodes} films are whole and kept."
        raise
    except DiskFault as fault:
        fault.advice = "Films can go elsewhere: --out FOLDER."
        raise
    env.close()
    return written


def film_name(player: Player, config: RecordConfig, options: EnvOptions, seed: int) -> str:
    """Name of the film of one episode, without its ending: two films of one name show one and the same episode."""
    named = [] if player.checkpoint.isdigit() else [player.checkpoint]
    parts = [*named, f"step-{player.step}", f"seed-{seed}"]
    if options.shift is not None:
        parts += [options.shift] if options.shift_strength is None else [f"{options.shift}-{options.shift_strength:g}"]
    parts += config.env_set
    if config.stochastic:
        parts.append("stochastic")
    if config.max_steps is not None:
        parts.append(f"max-steps-{config.max_steps}")
    if config.size is not None:
        parts.append(f"size-{config.size}")
    if config.fps is not None:
        parts.append(f"fps-{config.fps}")
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts))
