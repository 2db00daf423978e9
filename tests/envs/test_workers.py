"""Processes of their own are taken where they were measured to be faster, and nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from stillsight.envs import EnvFault, EnvOptions, make_env, make_vec, resolve
from stillsight.envs import workers as module
from stillsight.envs.vectorised import step_times
from stillsight.envs.vectorised.worker_vec_env import WorkerVecEnv
from stillsight.envs.workers import seconds_per_step, workers_pay

ORCHARD = "stillsight/Orchard-v0"


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)


def timed(monkeypatch: pytest.MonkeyPatch, here: float, apart: float) -> list[type[VecEnv]]:
    """Pretend that steps take so long; the result lists what was timed."""
    asked: list[type[VecEnv]] = []

    def seconds(venv: VecEnv, _: float) -> float:
        asked.append(type(venv))
        return {DummyVecEnv: here, WorkerVecEnv: apart}[type(venv)]

    monkeypatch.setattr(module, "seconds_per_step", seconds)
    return asked


@pytest.mark.parametrize(("here", "apart", "pays"), [(0.010, 0.006, True), (0.010, 0.011, False)])
def test_the_faster_way_is_taken(monkeypatch: pytest.MonkeyPatch, here: float, apart: float, pays: bool) -> None:
    asked = timed(monkeypatch, here, apart)
    assert workers_pay(ORCHARD, 2, EnvOptions()) is pays
    assert asked == [DummyVecEnv, DummyVecEnv, WorkerVecEnv]


def test_a_light_environment_is_not_even_tried_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, 0.0001, 0.0)
    assert not workers_pay(ORCHARD, 2, EnvOptions())
    assert asked == [DummyVecEnv]


@pytest.mark.parametrize("error", [EnvFault("it died"), OSError("Too many open files")])
def test_a_trial_that_fails_is_no_failed_run_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    closed = []

    class Failing(DummyVecEnv):
        def __init__(self, *_: object) -> None:
            super().__init__([lambda: make_env(ORCHARD)])

        def step_wait(self) -> NoReturn:
            raise error

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr("stillsight.envs.vector.WorkerVecEnv", Failing)
    monkeypatch.setattr(module, "LIGHT", 0.0)
    monkeypatch.setattr(module, "SECONDS", 0.01)
    module._say.cache_clear()
    assert workers_pay(ORCHARD, 2, EnvOptions()) is False
    assert closed == [True]
    assert f"stillsight: {ORCHARD} is stepped in one process. {error}" in capsys.readouterr().err


LEVELS = """
import gymnasium as gym
import numpy as np

LEVEL, CHANCE = 0, False


class Levels(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action):
        earned = np.random.default_rng().random() if CHANCE else LEVEL
        return np.zeros((16, 16, 3), np.uint8), float(earned), False, False, {}


gym.register("Levels-v0", Levels, disable_env_checker=True)
"""


@pytest.mark.parametrize(
    ("changed", "pays"),
    [({}, True), ({"LEVEL": 7}, False), ({"CHANCE": True}, True)],
    ids=["the same", "another level here", "never twice the same"],
)
def test_processes_that_play_another_game_are_not_taken_however_fast(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    pays: bool,
) -> None:
    (tmp_path / "my_levels.py").write_text(LEVELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    timed(monkeypatch, 0.010, 0.006)
    module._say.cache_clear()
    try:
        make_env("my_levels:Levels-v0").close()
        for name, value in changed.items():
            setattr(sys.modules["my_levels"], name, value)
        assert workers_pay("my_levels:Levels-v0", 2, EnvOptions()) is pays
    finally:
        gym.registry.pop("Levels-v0", None)
        sys.modules.pop("my_levels", None)
    said = capsys.readouterr().err
    assert ("my_levels:Levels-v0 is stepped in one process. In worker processes it is another game" in said) != pays


def test_one_environment_or_one_core_need_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, 1.0, 0.0)
    assert not workers_pay(ORCHARD, 1, EnvOptions())
    monkeypatch.setattr(module.os, "cpu_count", lambda: 1)
    assert not workers_pay(ORCHARD, 2, EnvOptions())
    assert asked == []


def test_native_atari_has_threads_already(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ale_py")
    asked = timed(monkeypatch, 1.0, 0.0)
    assert not workers_pay("ALE/Pong-v5", 2, resolve("ALE/Pong-v5").options)
    assert asked == []


def test_a_step_of_one_environment_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Slow:
        """Takes eight seconds a step of four environments."""

        num_envs = 4
        action_space = make_vec(ORCHARD, 1).action_space

        def has_attr(self, name: str) -> bool:
            return name == "action_space"

        def reset(self) -> None:
            now[0] += 1000.0

        def step(self, actions: object) -> None:
            assert len(actions) == 4  # type: ignore[arg-type]
            now[0] += 8.0

    monkeypatch.setattr(step_times.time, "perf_counter", lambda: now[0])
    assert seconds_per_step(Slow(), 100.0) == 2.0  # type: ignore[arg-type]
