"""Playing an environment by keyboard in a window, by Gymnasium's own `play`."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from stillsight.agents.errors import RunError
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.envs import make_env
from stillsight.envs.options import EnvOptions

WINDOW = 480
"""Pixels of the shorter side of the window, at least."""
CHOICES = "1234567890qwertyuiopasdfghjklzxcvbnm"
"""Keys of choices, in their order."""
AXES = (("left", "right"), ("down", "up"), ("a", "d"), ("s", "w"))
"""Keys that move a number of a continuous action to its lower and to its upper end, in the order of the numbers."""


def play_by_keyboard(env_id: str, options: EnvOptions, seed: int) -> None:
    """Open a window and let a person play until it is closed.

    Raises:
        RunError: there is no window here, pygame is not installed, or its actions have no keys.
        EnvError: see `make_env`.
    """
    if (reason := no_window()) is not None:
        raise RunError(
            f"There is no window to play in: {reason}. Drop --play for a sheet and a film; or type it where there is a "
            "screen."
        )
    from gymnasium.utils.play import play

    env = make_env(env_id, options, training=False, seed=seed)
    keys, noop, words = keys_of(env)
    display = ProgressDisplay()
    display.card(f"play · {env_id} · close the window or press Esc to end", words)
    frame: Any = env.render()
    fps = max(1, round(env.metadata.get("render_fps", 30) / options.frame_skip))
    total: list[float] = []

    def watch(_before: Any, _after: Any, _action: Any, reward: Any, terminated: bool, truncated: bool, _: Any) -> None:
        total.append(float(reward))
        if terminated or truncated:
            display.note(f"episode: return {sum(total):g} in {len(total):,} steps")
            total.clear()

    play(
        env,
        fps=fps,
        zoom=max(1, -(-WINDOW // min(frame.shape[:2]))),
        keys_to_action=keys,
        noop=noop,
        callback=watch,  # and no seed, with which each episode would be the same
    )


def no_window() -> str | None:
    """Why no window can be opened, as a part of a sentence; None where one can."""
    if find_spec("pygame") is None:
        return 'pygame is not installed (pip install "stillsight[box2d]")'
    driver = os.environ.get("SDL_VIDEODRIVER", "")
    if driver in ("dummy", "offscreen"):
        return f"SDL_VIDEODRIVER={driver} draws none"
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "this machine has no screen, or it is not known here (neither DISPLAY nor WAYLAND_DISPLAY is set)"
    return None


def keys_of(env: gym.Env[Any, Any]) -> tuple[dict[tuple[int, ...], Any], Any, dict[str, str]]:
    """The keys of an environment: codes of those that are pressed -> action, what is done without any, and both in
    words.

    Raises:
        RunError: its actions are several choices at once, or more than there are keys.
    """
    space = env.action_space
    if isinstance(space, spaces.Discrete) and space.n <= len(CHOICES):
        names = _meanings(env, int(space.n))
        choices = zip(range(int(space.n)), CHOICES, strict=False)
        codes: dict[tuple[int, ...], Any] = {(_code(key),): action for action, key in choices}
        noop = next((action for action, name in enumerate(names) if name.upper() in ("NOOP", "STAY", "IDLE")), 0)
        words = {CHOICES[action]: name for action, name in enumerate(names)}
        return codes, noop, words | {"no key": names[noop]}
    if isinstance(space, spaces.Box) and space.shape and np.prod(space.shape) <= len(AXES):
        return _axes(space)
    raise RunError(
        f"{space} has no keys here: a person plays up to {len(CHOICES)} choices, or up to {len(AXES)} numbers. Drop "
        "--play for a sheet and a film."
    )


def _axes(space: spaces.Box) -> tuple[dict[tuple[int, ...], Any], Any, dict[str, str]]:
    """Two keys for each number of a continuous action, which is at its end nearest to 0 where neither is pressed."""
    low, high = space.low.ravel(), space.high.ravel()
    rest = np.clip(np.zeros_like(low), low, high)
    words: dict[str, str] = {}
    ways: list[Sequence[tuple[str, float]]] = []
    for number, (down, up) in enumerate(AXES[: len(low)]):
        ends = [(key, end) for key, end in ((down, low[number]), (up, high[number])) if end != rest[number]]
        ways.append([("", rest[number]), *ends])
        words |= {key: f"number {number} is {end:g}" for key, end in ends}
    actions = {}
    for pressed in itertools.product(*ways):
        keys = tuple(sorted(_code(key) for key, _ in pressed if key))
        if keys:
            actions[keys] = np.array([value for _, value in pressed], space.dtype).reshape(space.shape)
    words["no key"] = f"all are {', '.join(f'{value:g}' for value in rest)}"
    return actions, rest.astype(space.dtype).reshape(space.shape), words


def _code(key: str) -> int:
    """pygame's number of a key; it can tell names only once a window is open."""
    import pygame

    return int(getattr(pygame, f"K_{key if len(key) == 1 else key.upper()}"))


def _meanings(env: gym.Env[Any, Any], count: int) -> list[str]:
    if env.has_wrapper_attr("get_action_meanings"):
        names = [str(name) for name in env.get_wrapper_attr("get_action_meanings")()]
        if len(names) == count:
            return names
    return [f"action {action}" for action in range(count)]
