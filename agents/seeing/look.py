"""`stillsight look`: what an agent sees of an environment, as a sheet, as a film and in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from stillsight.agents.errors import RunError
from stillsight.agents.features.standardise import warn_of_blank
from stillsight.agents.playing.film import film
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.runs.trust import import_from_here
from stillsight.agents.seeing.contact_sheet import Row, sheet
from stillsight.agents.seeing.keyboard import play_by_keyboard
from stillsight.agents.seeing.look_config import LookConfig
from stillsight.encoders.atomic import replacing, writing
from stillsight.envs import make_env
from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions
from stillsight.envs.random_play import MASKS, action_seed, sample
from stillsight.envs.registry import check_shift, shifts_of, suite_of
from stillsight.envs.shifts.rows import find
from stillsight.envs.shifts.shifted import Shifted
from stillsight.envs.shifts.terms import Term, terms
from stillsight.envs.wrappers.layout import Layout

LOOKS = Path("results/look")
FIRST = (0, 1, 2, 4, 8, 16)
"""Agent steps whose frames are shown of the game as it is; the last is that at which shifts are compared."""
LATER = 8
"""Agent steps after that one at which a shift is looked at again, to see what moves."""


@dataclass(frozen=True)
class Played:
    """An episode of random play, or its beginning.

    Attributes:
        seen: what an agent sees in each step, the first included.
        drawn: what `render()` draws at the steps of `FIRST`.
        actions: that were taken.
        rewards: of each step.
        ended: whether the episode ended.
    """

    seen: list[Any]
    drawn: dict[int, np.ndarray]
    actions: list[Any]
    rewards: list[float]
    ended: bool


def look(env_id: str, config: LookConfig) -> dict[str, Path]:
    """Write the sheet and the films, and print what is seen; or let a person play.

    Returns:
        name -> file that was written.

    Raises:
        RunError, EnvError: there is no such environment or shift, or nothing to see.
        DiskFault: a file cannot be written.
    """
    config.check()
    import_from_here([env_id])
    options = config.options(env_id)
    for shift in config.shift:
        check_shift(env_id, shift)
    if config.play:
        shown = options.through(config.shift[0]) if config.shift else options
        play_by_keyboard(env_id, shown, config.seed)
        return {}
    folder = config.out or LOOKS / _file_name(re.split("[:/]", env_id)[-1]).lower()
    display = ProgressDisplay()
    with closing(make_env(env_id, options, training=False, seed=config.seed)) as env:
        played = random_play(env, config.seed, max(config.steps, FIRST[-1] + LATER))
        facts = in_words(env, options, played)
    if not images(played.seen[0]):
        raise RunError(f"As asked for here, {env_id} shows numbers and no image. Drop --pixels off.")
    for key in images(played.seen[0]):
        warn_of_blank(np.stack([images(observation)[key] for observation in played.seen]))
    rows = list(_plain_rows(played))
    shifts, absent = config.shift or tuple(shifts_of(env_id)), []
    scenes = suite_of(env_id).shifts
    for done, shift in enumerate(shifts):
        display.update("shift", done, len(shifts))
        try:
            rows += _rows(env_id, options, shift, config.seed, played, scenes)
        except EnvError:
            if config.shift:
                raise
            absent.append(shift)  # of no suite: what it draws is known by trying
    display.close()
    facts["shifts"] = ", ".join(shift for shift in shifts if shift not in absent)
    if absent:
        facts["not here"] = f"{', '.join(absent)}, which need a scene or randomisation that it does not have"
    files = {"sheet": folder / "sheet.png"}
    _write(files["sheet"], env_id, facts, rows)
    filmed = {"random": options} | {f"random-{_file_name(shift)}": options.through(shift) for shift in config.shift}
    for name, shown in filmed.items() if config.steps else ():
        files[name] = folder / f"{name}.mp4"
        _film(files[name], env_id, shown, config, played)
    display.card(f"look · {env_id} · seed {config.seed}", facts | {name: str(path) for name, path in files.items()})
    return files


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.=+-]", "_", text)


def random_play(env: gym.Env[Any, Any], seed: int, steps: int) -> Played:
    """Play at random, among what is allowed, until the episode ends or `steps` are done."""
    env.action_space.seed(action_seed(seed))
    observation, _ = env.reset(seed=seed)
    played = Played([observation], {}, [], [], False)
    for step in range(steps):
        _draw(env, step, played)
        action = sample(env.action_space, env.get_wrapper_attr(MASKS)() if env.has_wrapper_attr(MASKS) else None)
        observation, reward, terminated, truncated, _ = env.step(action)
        played.seen.append(observation)
        played.actions.append(action)
        played.rewards.append(float(reward))
        if terminated or truncated:
            return replace(played, ended=True)
    _draw(env, steps, played)
    return played


def _draw(env: gym.Env[Any, Any], step: int, played: Played) -> None:
    if step in FIRST:
        frame: Any = env.render()
        if frame is not None:
            played.drawn[step] = np.array(frame)


class Replay(gym.Env[Any, Any]):
    """An episode that was played, once more: to be seen through the shifts that change its pictures."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, seen: list[Any]) -> None:
        self.observation_space = self.action_space = gym.spaces.Discrete(1)  # nobody asks for them
        self._seen, self._step = seen, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Its first frame."""
        del seed, options
        self._step = 0
        return self._seen[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Its next frame."""
        del action
        self._step += 1
        return self._seen[self._step], 0.0, False, False, {}


def _rows(
    env_id: str, options: EnvOptions, shift: str, seed: int, played: Played, scenes: Mapping[str, str]
) -> list[Row]:
    """The row of a shift, of each image: weaker, as it is asked for, stronger, later, and in two other episodes.

    The actions are those that were played. Where a shift changes pictures alone, so is the game, and what differs is
    the look; a shift that the environment draws is seen in the game of that seed.
    """
    last = len(played.seen) - 1
    at = min(FIRST[-1], last)
    later = min(at + LATER, last)
    asked = terms(shift)
    drawn = any(term.name in scenes for term in asked)

    def seen(several: Sequence[Term], *looks: tuple[int, int]) -> list[dict[str, np.ndarray]]:
        """What is seen under each of these seeds in each of these steps."""
        text, steps = "+".join(map(str, several)), max(step for _, step in looks)
        env: gym.Env[Any, Any]
        if drawn:
            env = make_env(env_id, options.through(text), training=False, seed=seed)
        else:
            env = Shifted(Replay(played.seen), text)
        with closing(env):
            shown = {each: _again(env, each, played.actions[:steps]) for each in {look_seed for look_seed, _ in looks}}
        return [images(shown[each][min(step, len(shown[each]) - 1)]) for each, step in looks]

    (half,) = seen([term._replace(strength=term.strength / 2) for term in asked], (seed, at))
    begun, now, then, *others = seen(asked, (seed, 0), (seed, at), (seed, later), (seed + 1, at), (seed + 2, at))
    tiles = [(_strengths(asked, 0.5), half), (_strengths(asked), now)]
    if all(term.strength == 1.0 for term in asked):
        tiles.insert(1, (f"{_strengths(asked)}, first frame", begun))
    else:
        twice = [term._replace(strength=min(1.0, 2 * term.strength)) for term in asked]
        tiles += [(_strengths(twice), shown) for shown in seen(twice, (seed, at))]
    if later > at:
        tiles.append((f"{later - at} steps later", then))
    tiles += [(f"seed {seed + number}", shown) for number, shown in enumerate(others, 1)]
    name, words = "+".join(term.label for term in asked), "; ".join(find(term.name).summary for term in asked)
    return [
        Row(f"{name}, {key}" if key else name, words, [(label, shown[key]) for label, shown in tiles]) for key in half
    ]


def _again(env: gym.Env[Any, Any], seed: int, actions: Sequence[Any]) -> list[Any]:
    """What is observed of an episode in which these actions are taken, as far as it goes."""
    shown = [env.reset(seed=seed)[0]]
    for action in actions:
        observation, _, terminated, truncated, _ = env.step(action)
        shown.append(observation)
        if terminated or truncated:
            break
    return shown


def _strengths(several: Sequence[Term], share: float = 1.0) -> str:
    return "strength " + " + ".join(f"{term.strength * share:.3g}" for term in several)


def _plain_rows(played: Played) -> Iterator[Row]:
    """The game as it is, image by image, and as it is filmed."""
    steps = [step for step in FIRST if step < len(played.seen)]
    shown = images(played.seen[0])
    for key in shown:
        tiles = [(f"step {step}", images(played.seen[step])[key]) for step in steps]
        yield Row(key or "seen", "the first frames, as an agent sees them, without a shift", tiles)
    drawn = [(f"step {step}", frame) for step, frame in played.drawn.items()]
    if drawn and not any(np.array_equal(drawn[0][1], image) for image in shown.values()):
        yield Row("filmed", "what render() draws in the same steps, for films", drawn)


def images(observation: Any) -> dict[str, np.ndarray]:
    """The images of an observation by key, uint8 `[H, W, 3]`; an only one under ""."""
    parts = observation if isinstance(observation, Mapping) else {"": observation}
    return {key: part.transpose(1, 2, 0) for key, part in parts.items() if np.ndim(part) == 3}


def in_words(env: gym.Env[Any, Any], options: EnvOptions, played: Played) -> dict[str, str]:
    """What an agent sees of an environment and does in it."""
    meanings = None
    if env.has_wrapper_attr("get_action_meanings"):
        meanings = env.get_wrapper_attr("get_action_meanings")()
    layout: Layout = env.get_wrapper_attr("layout")
    total = sum(played.rewards)
    ended = f"{'ended' if played.ended else 'went on'} after {len(played.rewards):,} steps"
    return {
        "sees": str(env.get_wrapper_attr("seen")),
        "layout": str(layout) + (f"; text {', '.join(layout.texts)}, not seen" if layout.texts else ""),
        "observation": _space(env.observation_space),
        "actions": f"{env.action_space}" + (f": {', '.join(map(str, meanings))}" if meanings else ""),
        "step": "one of the game's" if options.frame_skip == 1 else f"{options.frame_skip} of the game's, one action",
        "time limit": _limit(env, options),
        "random play": f"{ended}, with a return of {total:g}",
    }


def _limit(env: gym.Env[Any, Any], options: EnvOptions) -> str:
    """After how many steps an episode is cut: the user's, Gymnasium's, or those that a game counts itself."""
    if options.max_episode_steps:
        return f"{options.max_episode_steps:,} steps"
    limit = env.spec.max_episode_steps if env.spec is not None else None
    for own in ("max_steps", "max_episode_steps"):  # as MiniGrid and MiniWorld call it
        if not limit and env.has_wrapper_attr(own):
            limit = env.get_wrapper_attr(own)
    if not limit:
        return "none that is known"
    if options.frame_skip == 1:
        return f"{limit:,} steps"
    return f"{limit:,} of the game's steps, {math.ceil(limit / options.frame_skip):,} actions"


def _space(space: gym.Space[Any]) -> str:
    if isinstance(space, gym.spaces.Dict):
        return "; ".join(f"{key}: {_space(part)}" for key, part in space.items())
    return f"{space.dtype} {list(space.shape or ())}"


def _write(path: Path, env_id: str, facts: Mapping[str, str], rows: list[Row]) -> None:
    lines = [f"{name}: {facts[name]}" for name in ("sees", "layout", "observation", "actions", "random play")]
    lines.append(
        "Shifts: the same step of the same game at half, all and twice the strength that holds where none is typed; "
        "the same episode later; and as other seeds look."
    )
    drawn = sheet(f"{env_id}, as an agent sees it", lines, rows)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, writing(path):
        drawn.save(partial, format="PNG")


def _film(path: Path, env_id: str, options: EnvOptions, config: LookConfig, played: Played) -> None:
    """The same play, as `render()` draws it."""
    with closing(make_env(env_id, options, training=False, seed=config.seed)) as env:
        fps = max(1, round(env.metadata.get("render_fps", 30) / options.frame_skip))
        with film(path, fps) as shot:
            env.reset(seed=config.seed)
            shot.append(env.render())  # type: ignore[arg-type]
            for action in played.actions[: config.steps]:
                env.step(action)
                shot.append(env.render())  # type: ignore[arg-type]
