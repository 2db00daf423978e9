"""An agent that is not asked for the most likely action acts as its run's own evaluations did: it explores as then."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.cli import main
from stillsight.agents.errors import CheckpointError
from stillsight.agents.playing.play_config import EvaluateConfig
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.records import read_lines
from stillsight.agents.training import callbacks
from stillsight.agents.training.algorithms import ALGORITHMS, spec
from stillsight.agents.training.build import make_agent
from stillsight.agents.training.continuing.inheritance import inherit
from stillsight.agents.training.episodes import play_episodes
from stillsight.agents.training.seeds import EVALUATION, env_seed
from stillsight.agents.training.state import model_state
from stillsight.encoders.building import build
from stillsight.encoders.errors import EncoderError
from stillsight.envs import make_env

Tiny = Callable[..., RlConfig]
FALLING = ("exploration_initial_eps=0.9", "exploration_final_eps=0.3", "exploration_fraction=1.0")
STEPS, N_ENVS = 96, 2


def scheduled(step: int) -> float:
    """The rate of `FALLING` after a step."""
    return 0.9 - 0.6 * step / STEPS


def explorer(tiny: Tiny, algo: str, *settings: str, **changes: Any) -> RlConfig:
    config = tiny(algo)
    return tiny(algo, set=(*config.set, *settings), stochastic_eval=True, **changes)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Step -> the rate at which the evaluation there was played, filled while a run learns."""
    seen: dict[int, float] = {}
    evaluate = callbacks.Evaluate.evaluate

    def noted(self: callbacks.Evaluate, *, final: bool = False) -> Any:
        seen[self.actor.model.num_timesteps] = self.actor.model.exploration_rate  # type: ignore[attr-defined]
        return evaluate(self, final=final)

    monkeypatch.setattr(callbacks.Evaluate, "evaluate", noted)
    return seen


@pytest.mark.parametrize("algo", ["dqn", "qrdqn", "stable_baselines3:DQN"])
def test_a_player_explores_as_its_run_did_at_the_checkpoint(
    tiny: Tiny, tmp_path: Path, algo: str, rates: dict[int, float]
) -> None:
    if algo == "qrdqn":
        pytest.importorskip("sb3_contrib")
    config = explorer(tiny, "dqn", *FALLING, eval_every=48, checkpoint_every=32, keep=2, out=tmp_path / "run")
    rl(replace(config, algo=algo))
    assert sorted(rates) == [48, 96]
    assert rates[48] == pytest.approx(scheduled(48 - N_ENVS)), "SB3 lowers it after the callbacks of a step"
    assert rates[96] == pytest.approx(0.3)
    best, last = (load(tmp_path / "run", which, device="cpu", trust=[algo]) for which in ("best", "last"))
    assert best.model.exploration_rate == rates[best.step]  # type: ignore[attr-defined]
    assert last.model.exploration_rate == rates[96]  # type: ignore[attr-defined]
    kept = load(tmp_path / "run", "32", device="cpu", trust=[algo])
    assert kept.model.exploration_rate == pytest.approx(scheduled(32))  # type: ignore[attr-defined]


@pytest.mark.parametrize("algo", ["dqn", "qrdqn", "ppo"])
def test_a_player_plays_the_very_evaluation_of_its_run(tiny: Tiny, tmp_path: Path, algo: str) -> None:
    """With the random numbers that the last checkpoint holds, which is written just before the last evaluation."""
    if algo == "qrdqn":
        pytest.importorskip("sb3_contrib")
    settings = () if algo == "ppo" else ("exploration_initial_eps=0.6", "exploration_final_eps=0.6")
    config = explorer(tiny, algo, *settings, max_episode_steps=None, eval_episodes=4, out=tmp_path / "run")
    rl(config)
    (row,) = read_lines(tmp_path / "run" / "eval.jsonl")
    player = load(tmp_path / "run", "last", device="cpu")
    stored = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.safetensors")

    def totals(deterministic: bool) -> list[float]:
        model_state.set_random_state(player.model, stored["random"])
        first = env_seed(player.config.seed + EVALUATION)
        envs = [
            make_env(player.config.env, player.config.eval_options(), training=False, seed=first + index)
            for index in range(N_ENVS)
        ]
        seeds = [[first, None], [first + 1, None]]
        return [episode.total for episode in play_episodes(player.actor, envs, seeds, deterministic=deterministic)]

    assert totals(deterministic=False) == row["returns"]
    assert totals(deterministic=True) != row["returns"]


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_the_share_of_random_actions_is_the_rate(tiny: Tiny, tmp_path: Path, rate: float) -> None:
    settings = (f"exploration_initial_eps={rate}", f"exploration_final_eps={rate}")
    rl(explorer(tiny, "dqn", *settings, out=tmp_path / "run"))
    player = load(tmp_path / "run", device="cpu")
    pixels = np.random.default_rng(3).integers(0, 256, (3, 16, 16), np.uint8)
    greedy = [int(player.predict(pixels)) for _ in range(player.model.observation_space.shape[0])][-1]  # type: ignore[index]
    drawn = [int(player.predict(pixels, deterministic=False)) for _ in range(2_000)]
    choices = player.action_space.n  # type: ignore[attr-defined]
    other = sum(action != greedy for action in drawn) / len(drawn)
    assert other == pytest.approx(rate * (choices - 1) / choices, abs=0.04)
    assert {int(player.predict(pixels)) for _ in range(20)} == {greedy}, "asked for the most likely, it takes that"


def test_evaluate_and_record_explore(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("exploration_initial_eps=0.9", "exploration_final_eps=0.9")
    rl(explorer(tiny, "dqn", *settings, max_episode_steps=None, out=tmp_path / "run"))

    def returns(*words: str) -> tuple[list[float], bool]:
        capsys.readouterr()
        given = ["--episodes", "4", "--random-episodes", "0", "--device", "cpu", "--json", *words]
        assert main(["evaluate", str(tmp_path / "run"), *given]) == 0
        told = json.loads(capsys.readouterr().out)
        return told["returns"], told["deterministic"]

    greedy, stochastic = returns(), returns("--stochastic")
    assert (greedy[1], stochastic[1]) == (True, False)
    assert greedy[0] != stochastic[0]
    assert returns() == greedy
    assert returns("--stochastic") == stochastic, "its seed is the run's"
    films = []
    for words in ([], ["--stochastic"]):
        given = ["--device", "cpu", "--out", str(tmp_path / "films"), *words]
        assert main(["record", str(tmp_path / "run"), *given]) == 0
        films += [json.loads(path.read_text()) for path in (tmp_path / "films").glob("*.json")]
    assert len({film["return"] for film in films}) == 2


def test_a_checkpoint_of_an_older_version_explores_by_the_schedule(
    tiny: Tiny, tmp_path: Path, rates: dict[int, float]
) -> None:
    rl(explorer(tiny, "dqn", *FALLING, eval_every=48, out=tmp_path / "run"))
    path = tmp_path / "run" / "checkpoints" / "best.safetensors"
    tree = checkpoint.load(path)
    assert tree.pop("exploration_rate") == rates[tree["step"]]
    checkpoint.save(path, tree)
    player = load(tmp_path / "run", "best", device="cpu")
    assert player.model.exploration_rate == pytest.approx(scheduled(tree["step"]))  # type: ignore[attr-defined]


@pytest.mark.parametrize("rate", ["much", float("nan"), float("inf"), [0.5]])
def test_a_rate_that_is_no_number_is_refused(tiny: Tiny, tmp_path: Path, rate: object) -> None:
    rl(tiny("dqn", out=tmp_path / "run"))
    path = tmp_path / "run" / "checkpoints" / "best.safetensors"
    checkpoint.save(path, checkpoint.load(path) | {"exploration_rate": rate})
    with pytest.raises(CheckpointError, match="exploration_rate"):
        load(tmp_path / "run", "best", device="cpu")


def test_a_new_run_that_begins_with_the_policy_explores_anew(tiny: Tiny, tmp_path: Path) -> None:
    rl(explorer(tiny, "dqn", *FALLING, out=tmp_path / "first"))
    config = explorer(tiny, "dqn", *FALLING, from_run=tmp_path / "first").resolved()
    agent = make_agent(config, build(config), n_envs=N_ENVS)
    untouched = agent.model.exploration_rate  # type: ignore[attr-defined]
    inherit(agent)
    assert agent.model.exploration_rate == untouched  # type: ignore[attr-defined]
    agent.venv.close()


def test_an_agent_without_a_rate_keeps_none(trained: Path) -> None:
    assert "exploration_rate" not in checkpoint.load(trained / "checkpoints" / "best.safetensors")
    assert not hasattr(load(trained, device="cpu").model, "exploration_rate")


@pytest.mark.parametrize("algo", [*ALGORITHMS, "stable_baselines3:DDPG", "stable_baselines3:DQN"])
def test_all_but_td3_and_ddpg_draw(algo: str) -> None:
    if spec(algo).extra == "contrib":
        pytest.importorskip("sb3_contrib")
    assert spec(algo).draws == (algo not in ("td3", "stable_baselines3:DDPG"))


@pytest.mark.parametrize("algo", ["td3", "stable_baselines3:DDPG"])
def test_to_sample_is_refused_where_nothing_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], algo: str
) -> None:
    env = "stillsight/OrchardContinuous-v0"
    assert main(["rl", "--env", env, "--algo", algo, "--stochastic-eval", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.strip() == (
        f"stillsight: --stochastic-eval has no effect with --algo {algo}, whose policy draws no actions: its noise is "
        "that of training alone. Type --algo sac, or drop --stochastic-eval."
    )
    assert not (tmp_path / "run").exists()
    played = RlConfig(env=env, algo=algo)
    with pytest.raises(EncoderError) as caught:
        EvaluateConfig(stochastic=True).deterministic(played)
    assert str(caught.value) == (
        f"--stochastic has no effect on a run of --algo {algo}, whose policy draws no actions: its noise is that of "
        "training alone. Play another run, or drop --stochastic."
    )
    assert EvaluateConfig().deterministic(played)
    assert not EvaluateConfig(stochastic=True).deterministic(RlConfig(env=env, algo="sac"))


def test_evaluate_and_record_refuse_it_by_name(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rl(tiny("td3", out=tmp_path / "run"))
    for command in ("evaluate", "record"):
        assert main([command, str(tmp_path / "run"), "--stochastic", "--device", "cpu"]) == 2
        assert "--stochastic has no effect on a run of --algo td3" in capsys.readouterr().err
    assert not (tmp_path / "run" / "evaluations.jsonl").exists()
    assert not list(tmp_path.rglob("*.mp4"))
