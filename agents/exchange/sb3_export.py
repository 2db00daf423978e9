"""`stillsight export`: the agent of a run as a zip that stock Stable-Baselines3 loads."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnasium import spaces
from rich.console import Console

from stillsight.agents.errors import RunError
from stillsight.agents.exchange.exchange_config import ExportConfig
from stillsight.agents.exchange.sb3_model import frames, observation_space, stock_model
from stillsight.agents.exchange.sb3_zip import FORMAT, POLICY_FILE, RUN_FILE, TEXT_FILE
from stillsight.agents.features.acting import takes_masks
from stillsight.agents.playing.player import Player, load
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.records import plain
from stillsight.agents.training.state import model_state
from stillsight.agents.training.state.encoder_facts import NAMED, encoder_facts
from stillsight.encoders.atomic import replacing, to_json


def export(folder: Path, config: ExportConfig) -> Path:
    """Write the agent of the run in `folder` as `config.sb3`, print how to use it, and return the file.

    Raises:
        RunError: no such run, a file that is there, an encoder that torch cannot export, or a disk that takes nothing.
        CheckpointError: no such checkpoint, or a damaged one.
    """
    config.check()
    assert config.sb3 is not None
    player = load(folder, config.checkpoint, weights=config.weights, device="cpu", trust=config.trust)
    eyes = encoder_facts(player.encoder, player.model.policy, player.known.layout)
    run = run_record(player, eyes)
    model = stock_model(player, run)
    told = directions(player, config.sb3.name)
    try:
        config.sb3.parent.mkdir(parents=True, exist_ok=True)
        with replacing(config.sb3) as partial, tempfile.TemporaryDirectory() as scratch:
            model.save(partial)
            learned = Path(scratch) / "policy.safetensors"
            checkpoint.save(learned, {**model_state.learned(player.model), "step": player.step, **eyes})
            with zipfile.ZipFile(partial, "a") as archive:
                archive.writestr(RUN_FILE, to_json(run, indent=2))
                archive.write(learned, POLICY_FILE)
                archive.writestr(TEXT_FILE, told)
    except OSError as error:
        raise RunError(f"{config.sb3} cannot be written ({error}). Nothing was. Type another file: --sb3.") from error
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{config.sb3}: {player.checkpoint} of {folder}, step {player.step:,}. {told}", markup=False)
    return config.sb3


def run_record(player: Player, eyes: Mapping[str, Any]) -> dict[str, Any]:
    """What must be known of a run to play its policy with stillsight, as JSON knows it; `eyes` from `encoder_facts`."""
    return {
        "format": FORMAT,
        "config": {"command": "rl", **plain(player.config), "out": None, "resume": None, "device": "auto"},
        "spaces": player.known.to_json(),
        "step": player.step,
        **{name: eyes[name] for name in NAMED},
    }


def facts(run: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of itself, out of a run's record."""
    return {name: run[name] for name in ("step", *NAMED)}


def directions(player: Player, name: str) -> str:
    """What is in the zip called `name`, what it sees, and a script of stock SB3 that plays with it."""
    space, cls = observation_space(player), type(player.model)
    package = cls.__module__.partition(".")[0]
    count = frames(player)
    stacked = "" if count == 1 else f", {count} frames, the oldest first"
    acts_on = (
        f"pixels: {_box(space)}, RGB, channels first"
        if isinstance(space, spaces.Box)
        else (f"a dict of {_parts(space)}, and nothing else; images are RGB, channels first")
    )
    options = {key: value for key, value in player.config.env_options().to_json().items() if value}
    shown = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in options.items()) or "nothing changed"
    replay = hasattr(player.model, "replay_buffer")
    room = f" Replay memory has no room yet: {cls.__name__}.load(..., buffer_size=100_000)." if replay else ""
    if replay and getattr(player.model, "n_steps", 1) > 1 and isinstance(space, spaces.Dict):
        room += " It learns on with 1-step returns: SB3 has no others of a Dict."
    return (
        f"Stock {package} loads it, without stillsight. The policy acts on {acts_on}{stacked}. "
        f"In the run the game was shown with: {shown}. The encoder is in it, in float32; what "
        f"was frozen stays so where the policy learns on.{room}\n\n" + "\n".join(_script(player, name)) + "\n"
    )


def _script(player: Player, name: str) -> list[str]:
    """The lines of a program that plays an episode."""
    cls, offset, layout = type(player.model), player.known.offset, player.known.layout
    shown = layout.space
    sees = f"uint8 {list(layout.pixels)}, RGB" if layout.plain else f"a dict of {_parts(shown)}"
    action = f"action + {offset}" if offset else "action"
    stack = []
    if frames(player) > 1:  # as the run stacked them: an episode begins with copies of its first frame
        stack = [f"env = gym.wrappers.FrameStackObservation(env, {frames(player)})"]
    masks = ', action_masks=env.get_wrapper_attr("action_masks")()' if takes_masks(player.model) else ""
    return [
        "import gymnasium as gym",
        f"from {cls.__module__.partition('.')[0]} import {cls.__name__}",
        "",
        f'model = {cls.__name__}.load("{name}")',
        f"env = ...  # {player.config.env}, whose observations are {sees}",
        *stack,
        "observation, _ = env.reset()",
        "state, began, done = None, True, False",
        "while not done:",
        f"    action, state = model.predict(observation, state, episode_start=[began], deterministic=True{masks})",
        f"    observation, reward, ended, cut, _ = env.step({action})",
        "    began, done = False, ended or cut",
    ]


def _box(space: spaces.Space[Any]) -> str:
    return f"{space.dtype} {list(space.shape or ())}"


def _parts(space: spaces.Space[Any]) -> str:
    """The parts of a Dict, in words."""
    assert isinstance(space, spaces.Dict)
    return ", ".join(f"{key} {_box(part)}" for key, part in space.items())
