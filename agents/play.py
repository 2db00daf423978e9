"""Playing with a trained agent: whole episodes of the true game, and their returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stillsight.agents.runs import RunError, append_line, read_config

if TYPE_CHECKING:
    import gymnasium as gym
    import numpy as np

    from stillsight.agents.agent import Agent


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
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def check(self) -> None:
        """Raise `RunError` for counts that play nothing."""
        if self.episodes < 1:
            raise RunError(f"--episodes {self.episodes} plays nothing. Type a number from 1.")


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


def evaluate(folder: Path, config: EvaluateConfig) -> dict[str, Any]:
    """Play, print, and append the result to the run's evaluations.jsonl. A cifar run is judged instead, see `judge`.

    Args:
        folder: the run's.
        config: how to play.

    Raises:
        RunError, CheckpointError: no such run or checkpoint, or it is damaged.
    """
    config.check()
    record = read_config(folder)
    config.check_command(folder, record.get("command", "rl"))
    if record.get("command") == "cifar":
        from stillsight.agents.judge import judge

        return judge(folder, record, config.split, data=config.data, weights=config.weights, device=config.device)
    import numpy as np

    from stillsight.agents.agent import load
    from stillsight.agents.progress import ProgressDisplay
    from stillsight.envs import make_env, reference_returns

    agent = load(folder, config.checkpoint, weights=config.weights, device=config.device)
    options = agent.config.env_options()
    env = make_env(agent.config.env, options, training=False, seed=config.seed)
    display = ProgressDisplay()
    returns = []
    for index in range(config.episodes):
        episode = play(agent, env, config.seed + index, deterministic=not config.stochastic)
        returns.append(episode.total)
        display.update("episode", index + 1, config.episodes, **{"last return": episode.total})
    display.close()
    result: dict[str, Any] = {
        "checkpoint": config.checkpoint,
        "mean": np.mean(returns),
        "std": np.std(returns),
        "returns": returns,
        "deterministic": not config.stochastic,
        "seed": config.seed,
    }
    rows = {"agent": f"{np.mean(returns):.2f} ± {np.std(returns):.2f} over {len(returns)} episodes"}
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
