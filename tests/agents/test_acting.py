"""One rule of action: evaluations during training, `evaluate`, `record` and `Player.predict` act alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.errors import RunError
from stillsight.agents.exchange.sb3_export import directions
from stillsight.agents.features.acting import Actor, mask_width
from stillsight.agents.features.encoded_vec_env import EncodedVecEnv
from stillsight.agents.features.standardise import gather_statistics
from stillsight.agents.playing.play import evaluate, returns
from stillsight.agents.playing.play_config import EvaluateConfig, RecordConfig
from stillsight.agents.playing.video import record
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.agents.training.build import make_agent, make_venv
from stillsight.agents.training.episodes import STILL, Episode, divide, play_episodes
from stillsight.agents.training.seeds import EVALUATION, env_seed
from stillsight.encoders.building import build
from stillsight.envs import make_env, make_vec, reference_returns
from stillsight.envs.random_play import random_play

Tiny = Callable[..., RlConfig]

LENGTH = 12
LOG: list[tuple[int | None, list[list[float]]]] = []
"""Seed and actions of every episode that was played in this process."""


class Noise(gym.Env[np.ndarray, Any]):
    """Pictures of noise; each action is written down, and its sum is the reward."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own way

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.action_space: spaces.Space[Any] = spaces.Discrete(4)

    def _look(self) -> np.ndarray:
        self.picture = self.np_random.integers(0, 256, (16, 16, 3), np.uint8)
        return self.picture

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - Gymnasium's
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        LOG.append((seed, []))
        self.log = LOG[-1][1]
        return self._look(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.log.append(np.atleast_1d(action).tolist())
        return self._look(), float(np.sum(action)), len(self.log) == LENGTH, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        return self.picture


class ContinuousNoise(Noise):
    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)


class MaskedNoise(Noise):
    """Allows some actions in each step, and raises on any other."""

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        found = super().reset(**kwargs)
        self.allowed = self._draw()
        return found

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.allowed[int(action)], "an action that is not allowed"
        self.allowed = self._draw()
        return super().step(action)

    def _draw(self) -> np.ndarray:
        allowed = np.zeros(4, bool)
        allowed[self.np_random.choice(4, 2, replace=False)] = True
        return allowed

    def action_masks(self) -> np.ndarray:
        return self.allowed


class Waits(Noise):
    """Nothing moves, nothing is earned and nothing ends until a button is pressed that nobody presses."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:  # noqa: ARG002
        self.log.append([0.0])
        return self.picture, 0.0, False, False, {}


class Endless(Noise):
    """Goes on for ever, at a reward of 1 a step."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.log.append([float(action)])
        return self._look(), 1.0, False, False, {}


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    LOG.clear()
    yield
    LOG.clear()


def register(cls: type[Noise]) -> str:
    name = f"stillsight_tests/{cls.__name__}-v0"
    if name not in gym.registry:
        gym.register(name, cls)  # type: ignore[arg-type]
    return name


def played(seed: int) -> list[list[float]]:
    """Actions of the last whole episode of a seed."""
    return [actions for own, actions in LOG if own == seed and len(actions) == LENGTH][-1]


OTHERS = {
    "sb3_contrib:MaskablePPO": "ppo",
    "stable_baselines3:DDPG": "td3",
    "sb3_contrib:CrossQ": "sac",
}
"""Classes without a row, and the algorithm whose small settings suit them."""


@pytest.mark.parametrize("algo", [*ALGORITHMS, *OTHERS])
def test_every_algorithm_acts_by_one_rule_wherever_it_plays(tiny: Tiny, tmp_path: Path, algo: str) -> None:
    known = OTHERS.get(algo, algo)
    # A seed whose evaluations begin at one that can be typed as `--seed`.
    config = tiny(known, seed=1, steps=48, frame_stack=2, max_episode_steps=None, out=tmp_path / "run")
    settings = tuple(one for one in config.set if not (algo == "sb3_contrib:CrossQ" and one.startswith("target")))
    masked = algo.endswith("MaskablePPO")
    env = MaskedNoise if masked else ContinuousNoise if config.env.endswith("Continuous-v0") else Noise
    result = rl(replace(config, algo=algo, env=register(env), set=settings))
    seed = env_seed(EVALUATION + config.seed)
    expected = played(seed)
    LOG.clear()

    trust = (algo, register(env))
    choice: dict[str, Any] = {"checkpoint": "last", "episodes": 2, "seed": seed, "device": "cpu", "trust": trust}
    shown = evaluate(tmp_path / "run", EvaluateConfig(random_episodes=0, **choice))
    np.testing.assert_allclose(played(seed), expected, atol=1e-5)
    assert shown["returns"][0] == pytest.approx(result["return_mean"], abs=1e-4)
    second = played(seed + 1)
    LOG.clear()
    evaluate(tmp_path / "run", EvaluateConfig(random_episodes=0, n_envs=2, **choice))
    np.testing.assert_allclose(played(seed), expected, atol=1e-5)
    np.testing.assert_allclose(played(seed + 1), second, atol=1e-5)
    LOG.clear()
    record(tmp_path / "run", RecordConfig(**choice))
    np.testing.assert_allclose(played(seed), expected, atol=1e-5)
    np.testing.assert_allclose(played(seed + 1), second, atol=1e-5)

    player = load(tmp_path / "run", "last", device="cpu", trust=trust)
    game = make_env(player.config.env, player.config.env_options(), training=False)
    pixels, _ = game.reset(seed=seed)
    actions, over = [], False
    while not over:
        masks = game.get_wrapper_attr("action_masks")() if masked else None
        action = player.predict(pixels, masks=masks)
        actions.append(np.atleast_1d(action).tolist())
        pixels, _, over, _, _ = game.step(action)
    np.testing.assert_allclose(actions, expected, atol=1e-5)


def test_random_play_and_the_first_look_take_allowed_actions_alone(tiny: Tiny, retina_file: Path) -> None:
    del retina_file
    config = tiny("ppo", env=register(MaskedNoise), max_episode_steps=None)
    options = config.env_options()
    assert reference_returns(config.env, 3, options=options)["random"]["episodes"] == 3
    encoder = build(config, pinned=True)
    gather_statistics(make_vec(config.env, 2, options=options), encoder, encoder.learned, 40)
    assert len(LOG) >= 3, "and none raised"


def test_random_play_draws_as_the_space_does_where_everything_is_allowed() -> None:
    venv = make_vec("stillsight/Orchard-v0", 2, seed=3)
    twin = make_vec("stillsight/Orchard-v0", 2, seed=3)
    draw = random_play(venv)
    for _ in range(5):
        np.testing.assert_array_equal(draw(), [twin.action_space.sample() for _ in range(2)])


@pytest.mark.parametrize(
    ("space", "width"),
    [(spaces.Discrete(5), 5), (spaces.MultiDiscrete([2, 3]), 5), (spaces.MultiBinary(3), 6)],
)
def test_masks_hold_a_truth_value_for_each_choice(space: spaces.Space[Any], width: int) -> None:
    from sb3_contrib.common.maskable.distributions import make_masked_proba_distribution

    assert mask_width(space) == width
    distribution = make_masked_proba_distribution(space)
    dims = [space.n] if isinstance(space, spaces.Discrete) else getattr(distribution, "action_dims", [])
    assert sum(map(int, dims)) == width


def test_masks_that_are_missing_or_not_asked_for_are_sentences(tiny: Tiny, tmp_path: Path, trained: Path) -> None:
    config = tiny("ppo", steps=32, max_episode_steps=None, out=tmp_path / "run", env=register(MaskedNoise))
    rl(replace(config, algo="sb3_contrib:MaskablePPO"))
    trust = ("sb3_contrib:MaskablePPO", register(MaskedNoise))
    player = load(tmp_path / "run", "last", device="cpu", trust=trust)
    (pixels,) = np.zeros((1, 3, 16, 16), np.uint8)
    with pytest.raises(RunError, match=r"was trained with masks .* masks=env\.get_wrapper_attr\('action_masks'\)"):
        player.predict(pixels)
    with pytest.raises(RunError, match=r"bool \[1, 4\] here, and these are \[1, 3\]"):
        player.predict(pixels, masks=np.ones(3, bool))
    with pytest.raises(RunError, match="allows no action at all"):
        player.predict(pixels, masks=np.zeros(4, bool))
    assert player.predict(pixels, masks=np.array([False, False, True, False])) == 2
    assert player.predict(pixels[None], masks=np.array([[False, True, False, False]])).tolist() == [1]
    unmasked = load(trained, device="cpu")
    with pytest.raises(RunError, match="PPO asks for no masks"):
        unmasked.predict(pixels, masks=np.ones(3, bool))
    # Stock's own predict takes no masks for all actions allowed: the program that comes with an export has to ask.
    asks = 'deterministic=True, action_masks=env.get_wrapper_attr("action_masks")())'
    assert [asks in directions(one, "agent.zip") for one in (player, unmasked)] == [True, False]


def test_an_environment_that_says_of_no_masks_is_refused_before_anything_is_written(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"MaskablePPO asks .*Orchard-v0 has no method action_masks\(\).*--algo ppo"):
        rl(replace(tiny("ppo", out=tmp_path / "run"), algo="sb3_contrib:MaskablePPO"))
    assert not (tmp_path / "run").exists()


def test_a_class_whose_policy_has_no_extractor_is_refused_as_such() -> None:
    with pytest.raises(RunError, match=r"sb3_contrib:ARS .* cannot look through an encoder\. Allowed are ppo, a2c"):
        RlConfig(algo="sb3_contrib:ARS").check()


def actor_of(config: RlConfig) -> tuple[Actor, EncodedVecEnv]:
    config = config.resolved()
    encoder = build(config, pinned=True)
    agent = make_agent(config, encoder, n_envs=2)
    return Actor(agent.model, agent.venv), make_venv(config, encoder, n_envs=1, training=False, seed=77)


def test_one_environment_plays_the_very_episodes_that_sb3_evaluates(tiny: Tiny) -> None:
    # Two evaluations one after the other: the second goes on with the random numbers of the first.
    config = tiny("ppo", frame_stack=2, max_episode_steps=None)
    actor, venv = actor_of(config)
    env = make_env(config.env, config.env_options(), training=False, seed=77)
    for first in (77, None):
        theirs, lengths = evaluate_policy(actor.model, venv, 3, return_episode_rewards=True)
        ours = play_episodes(actor, [env], [[first, None, None]])
        env.reset()
        assert [round(episode.total, 6) for episode in ours] == theirs
        assert [episode.length for episode in ours] == lengths


def test_several_environments_play_the_seeds_that_one_plays(trained: Path) -> None:
    player = load(trained, device="cpu")
    alone = returns(player, episodes=5, seed=9)
    config = EvaluateConfig(episodes=5, seed=9, random_episodes=0, device="cpu")
    for n_envs in (2, 3, 8):
        assert evaluate(trained, replace(config, n_envs=n_envs))["returns"] == alone


class Varied(Noise):
    """Long episodes earn much: whoever stops at the first that are over counts the short ones."""

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        found = super().reset(**kwargs)
        self.length = int(self.np_random.choice([2, 40]))
        return found

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.log.append([float(action)])
        return self._look(), 1.0, len(self.log) == self.length, False, {}


def test_short_episodes_are_not_favoured(tiny: Tiny) -> None:
    config = tiny("ppo", env=register(Varied), max_episode_steps=None)
    actor, _ = actor_of(config)
    seeds = [[seed, seed + 4, seed + 8] for seed in range(4)]
    envs = [make_env(config.env, config.env_options(), training=False) for _ in seeds]
    episodes = play_episodes(actor, envs, seeds)
    lengths = []
    for seed in range(12):
        envs[0].reset(seed=seed)
        lengths.append(envs[0].get_wrapper_attr("length"))
    assert [episode.length for episode in episodes] == lengths, "all seeds, in their order"
    assert {2, 40} == set(lengths)


def test_episodes_are_divided_beforehand() -> None:
    assert divide(10, 4) == [3, 3, 2, 2]
    assert divide(2, 3) == [1, 1, 0]


@pytest.mark.parametrize(("env", "limit", "length"), [(Endless, 30, 30), (Waits, 5_000, STILL), (Waits, 7, 7)])
def test_an_episode_that_never_ends_is_stopped_said_and_recorded(
    tiny: Tiny, tmp_path: Path, env: type[Noise], limit: int, length: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("ppo", steps=32, env=register(env), max_episode_steps=None, eval_episodes=3, eval_max_steps=limit)
    result = rl(replace(config, out=tmp_path / "run"))
    assert (result["return_episodes"], result["return_capped"]) == (3, 3)
    assert result["return_mean"] == (30.0 if env is Endless else 0.0)
    sentence = f"3 of 3 episodes were stopped before their end, after {limit:,} steps"
    shown = " ".join(capsys.readouterr().out.split())
    assert sentence in shown
    assert "--eval-max-steps 0 plays to the end" in shown
    trust = (register(env),)
    found = evaluate(tmp_path / "run", EvaluateConfig(episodes=2, random_episodes=1, device="cpu", trust=trust))
    assert (found["capped"], found["lengths"], found["max_steps"]) == (2, [length, length], limit)
    assert "2 of 2 episodes were stopped" in capsys.readouterr().out
    (path,) = record(tmp_path / "run", RecordConfig(max_steps=5, device="cpu", trust=trust))
    assert path.name.endswith("-max-steps-5.mp4")
    assert "1 of 1 episodes were stopped" in " ".join(capsys.readouterr().out.split())


def test_an_episode_that_ends_by_itself_at_the_limit_is_whole(tiny: Tiny) -> None:
    config = tiny("ppo", env=register(Noise), max_episode_steps=None)
    actor, _ = actor_of(config)
    env = make_env(config.env, config.env_options(), training=False)
    (whole,) = play_episodes(actor, [env], [[1]], max_steps=LENGTH)
    (cut,) = play_episodes(actor, [env], [[1]], max_steps=LENGTH - 1)
    assert (whole.length, whole.terminated, whole.capped) == (LENGTH, True, False)
    assert (cut.length, cut.terminated, cut.capped) == (LENGTH - 1, False, True)


def test_evaluations_show_progress_and_are_in_no_rate(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json
    import time

    from stillsight.agents.training import callbacks

    original = callbacks.play_episodes

    def slow(*arguments: Any, **options: Any) -> list[Episode]:
        time.sleep(2.0)
        return original(*arguments, **options)

    monkeypatch.setattr(callbacks, "play_episodes", slow)
    rl(tiny("ppo", steps=128, eval_every=32, eval_episodes=2, out=tmp_path / "run"))
    shown = capsys.readouterr().out
    assert shown.count("evaluation episode 2/2") == 4
    seconds = json.loads((tmp_path / "run" / "summary.json").read_text())["wall_seconds"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["time/time_elapsed"] <= seconds + 1.0, "three evaluations of two seconds are not in it"
    (line,) = [line for line in shown.splitlines() if line.startswith("step 128/128")]
    rate = float(line.split("steps/s")[1].split()[0].replace(",", ""))
    assert rate > 128 / (seconds + 2.0)
