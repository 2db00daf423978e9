"""How many episodes succeed, wherever episodes are counted: evaluations, summary, evaluate, films and random play."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from stillsight.agents import RlConfig, rl
from stillsight.agents.benchmark.grid.cell import Work
from stillsight.agents.benchmark.running import worker
from stillsight.agents.cli import main
from stillsight.agents.playing.play_config import RecordConfig
from stillsight.agents.playing.video import record
from stillsight.agents.runs.trust import Trust
from stillsight.envs import reference_returns

Tiny = Callable[..., RlConfig]
ID = "stillsight_tests/EveryOther-v0"


class EveryOther(gym.Env[np.ndarray, Any]):
    """Four steps an episode, of which every other one succeeds, the first one too; there is nothing to earn."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own way
    observation_space, action_space = spaces.Box(0, 255, (16, 16, 3), np.uint8), spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.steps, self.episodes = render_mode, 0, 0

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - Gymnasium's
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episodes, self.steps = 1 if seed is not None else self.episodes + 1, 0
        return self.render(), {}

    def step(self, _: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps == 4
        return self.render(), 0.0, over, False, {"is_success": over and self.episodes % 2 == 1}

    def render(self) -> np.ndarray:  # type: ignore[override]
        return np.full((16, 16, 3), 10 * self.steps, np.uint8)


@pytest.fixture(autouse=True)
def _registered() -> None:
    if ID not in gym.registry:
        gym.register(ID, EveryOther)  # type: ignore[arg-type]


def test_evaluations_count_the_episodes_that_succeed(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    rl(tiny("ppo", env=ID, max_episode_steps=None, eval_every=48, eval_episodes=3, eval_envs=1, out=run))
    told = capsys.readouterr().out
    assert "over 3 episodes, 67% of them successful" in told
    rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    assert [row["successes"] for row in rows][:1] == [[True, False, True]]
    assert all(row["success_rate"] == np.mean(row["successes"]) for row in rows)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["success_rate"] == rows[-1]["success_rate"]

    assert main(["evaluate", str(run), "--episodes", "4", "--random-episodes", "4", "--json", "--trust", ID]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["successes"] == [True] * 4, "each has a seed of its own, and is the first one"
    assert found["success_rate"] == 1.0
    assert found["random"]["success_rate"] == 0.5
    (film,) = record(run, RecordConfig(trust=(ID,)))
    assert json.loads(film.with_suffix(".json").read_text())["success"] is True


def test_a_cell_of_a_benchmark_counts_them_clean_and_under_each_shift(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("ppo", env=ID, max_episode_steps=None, eval_episodes=1, eval_envs=1)
    work = Work(config=config, shifts=("noise",), episodes=3, videos=0)
    result = worker._agent(work, config, tmp_path / "run", Trust((ID,)), tunes=False)
    assert result.success == {"clean": 1.0, "noise": 1.0}
    assert result.scores == {"clean": (0.0,) * 3, "noise": (0.0,) * 3}
    said_nothing = tiny("ppo", eval_episodes=1, eval_envs=1)
    other = worker._agent(Work(said_nothing, (), 1, 0), said_nothing, tmp_path / "other", Trust(), tunes=False)
    assert other.success is None


def test_a_last_evaluation_that_was_recorded_keeps_its_successes(tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    rl(tiny("ppo", env=ID, max_episode_steps=None, eval_episodes=3, eval_envs=1, out=run))
    before = json.loads((run / "summary.json").read_text())["success_rate"]
    (run / "done").unlink()
    (run / "summary.json").unlink()
    rl(RlConfig(resume=run, trust=(ID,)))
    assert json.loads((run / "summary.json").read_text())["success_rate"] == before == 2 / 3
    assert len((run / "eval.jsonl").read_text().splitlines()) == 1


def test_random_play_counts_an_episode_that_was_stopped_by_its_last_step() -> None:
    assert reference_returns(ID, 4)["random"]["success_rate"] == 0.5
    assert reference_returns(ID, 4, max_steps=2)["random"]["success_rate"] == 0.0


def test_nothing_is_counted_where_the_environment_does_not_say(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "eval.jsonl").read_text().splitlines()]
    assert not any("success_rate" in row or "successes" in row for row in rows)
    assert "success_rate" not in json.loads((trained / "summary.json").read_text())
    assert "success_rate" not in reference_returns("stillsight/Orchard-v0", 1)["random"]
