"""Playing with a trained agent: whole episodes of the true game, and their returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stillsight.agents.errors import RunError
from stillsight.agents.runs.folder import append_line, read_config

if TYPE_CHECKING:
    import gymnasium as gym
    import numpy as np

    from stillsight.agents.training.build import Agent
    from stillsight.envs import EnvOptions


@dataclass(frozen=True, kw_only=True)
class PlayChoice:
    """Which agent plays, and how."""

    checkpoint: Literal["best", "last"] = "best"
    """best: of the evaluations during training. last: at the end of training, or where it stopped."""
    episodes: int = 20
    """Whole episodes to play."""
    seed: int = 20_000
    """Seed of the first episode; the others follow. Training uses small seeds and its evaluations 10,000 and up."""
    stochastic: bool = False
    """Sample actions instead of taking the most likely one."""
    weights: Path | None = None
    """The encoder's weights, if they are not any more where the run found them."""
    shift: str | None = None
    """Show the game otherwise: hue, noise, blur, occluder or overlay; none for the game as it is. As in the run by
    default."""
    shift_strength: float | None = None
    """Strength of --shift, 0 (nothing changes) to 1; 0.5 by default."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def check(self) -> None:
        """Raise `RunError` for counts that play nothing, and `EnvError` for a shift that there is not."""
        if self.episodes < 1:
            raise RunError(f"--episodes {self.episodes} plays nothing. Type a number from 1.")
        from stillsight.envs import EnvOptions

        shifted(EnvOptions(), self.shift, self.shift_strength)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(PlayChoice):
    """Play whole episodes with a trained agent and print their returns, beside those of random play; or classify the
    images of a cifar run again and compare with what it recorded."""

    random_episodes: int = 20
    """Episodes of random play to compare with; 0 for none."""
    split: Literal["test", "validation"] = "test"
    """Of a cifar run: which images."""
    data: Path | None = None
    """Of a cifar run: the folder of its data set, if it has moved."""

    def check_command(self, folder: Path, command: str) -> None:
        """Refuse flags that a run of `command` has no use for, instead of passing over them."""
        for item in fields(self):
            fits = item.name in ("weights", "device") or (item.name in ("split", "data")) == (command == "cifar")
            if not fits and getattr(self, item.name) != item.default:
                flag = item.name.replace("_", "-")
                other = "rl" if command == "cifar" else "cifar"
                raise RunError(f"--{flag} is for {other} runs, and {folder} is a run of {command}. Drop it.")


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
    agent: Agent,
    env: gym.Env[Any, Any],
    seed: int,
    *,
    deterministic: bool = True,
    watch: Callable[[np.ndarray], None] | None = None,
) -> Episode:
    """Play one episode.

    Args:
        agent: who plays.
        env: from `stillsight.envs.make_env(training=False)`.
        seed: of the episode.
        deterministic: take the most likely action.
        watch: called with each rendered frame, `[H, W, 3]` uint8, the first and the last included.
    """
    agent.reset()
    pixels, _ = env.reset(seed=seed)
    total, length, terminated, truncated = 0.0, 0, False, False
    while not (terminated or truncated):
        _show(env, watch)
        pixels, reward, terminated, truncated, _ = env.step(agent.predict(pixels, deterministic))
        total, length = total + float(reward), length + 1
    _show(env, watch)
    return Episode(total, length, terminated)


def _show(env: gym.Env[Any, Any], watch: Callable[[np.ndarray], None] | None) -> None:
    if watch is not None:
        frame: Any = env.render()
        if frame is not None:
            watch(frame)


def shifted(options: EnvOptions, shift: str | None, strength: float | None = None) -> EnvOptions:
    """`options` with another shift: None leaves them as they are, "none" takes a shift away.

    Raises:
        EnvError: no such shift, a strength out of range, or a strength without a shift.
    """
    if shift is None and strength is None:
        return options
    return replace(options, shift=None if shift == "none" else shift, shift_strength=strength)


def returns(
    agent: Agent,
    shift: str | None = None,
    *,
    strength: float | None = None,
    episodes: int = 20,
    seed: int = 20_000,
    deterministic: bool = True,
    watch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Unclipped returns of whole episodes. One seed gives the same episodes under every shift.

    Args:
        agent: who plays.
        shift, strength: see `shifted`.
        episodes: how many, at least 1.
        seed: of the first episode; the others follow.
        deterministic: take the most likely action.
        watch: called after each episode with the number of episodes so far and the return.

    Raises:
        EnvError: see `shifted`.
    """
    from stillsight.envs import make_env

    options = shifted(agent.config.env_options(), shift, strength)
    env = make_env(agent.config.env, options, training=False, seed=seed)
    found = []
    for index in range(episodes):
        found.append(play(agent, env, seed + index, deterministic=deterministic).total)
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
    if record.get("command") == "cifar":
        from stillsight.agents.playing.reevaluate import reevaluate

        return reevaluate(folder, record, config.split, data=config.data, weights=config.weights, device=config.device)
    import numpy as np

    from stillsight.agents.runs.progress import ProgressDisplay
    from stillsight.agents.training.build import load
    from stillsight.envs import reference_returns

    agent = load(folder, config.checkpoint, weights=config.weights, device=config.device)
    options = shifted(agent.config.env_options(), config.shift, config.shift_strength)
    display = ProgressDisplay()
    scores = returns(
        agent,
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
        for player, score in reference_returns(
            agent.config.env, config.random_episodes, config.seed, options=options
        ).items():
            result[player] = score
            name = "always best" if player == "oracle" else player
            rows[name] = f"{score['mean']:.2f} ± {score['std']:.2f} over {score['episodes']} episodes"
    append_line(folder / "evaluations.jsonl", result)
    display.card(f"{agent.config.env}, {config.checkpoint} of {folder}", rows)
    return result
