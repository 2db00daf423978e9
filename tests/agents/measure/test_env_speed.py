"""Environments alone: every backend in turns, ratios of the same round, and what fails is a row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stillsight.agents import RlConfig
from stillsight.agents.cli import main
from stillsight.agents.measure import env_speed as module
from stillsight.agents.measure.env_speed import env_speed
from stillsight.agents.measure.measure_config import ThroughputConfig
from stillsight.envs.errors import EnvError
from stillsight.envs.options import EnvOptions
from stillsight.envs.vectorised import step_times as timing
from stillsight.envs.vectorised.backends import BackendProcess, GymnasiumLoop, backends, opened, speed

ORCHARD = "stillsight/Orchard-v0"


class Fake:
    """Stands for a measuring process, with rates that are known."""

    rates: dict[str, list[float]]
    order: list[tuple[str, str]]

    def __init__(self, _env_id: str, backend: str, n_envs: int, options: EnvOptions, _seed: int) -> None:
        self.backend, self.facts = backend, {"envs": n_envs, "observation": str(options.size), "look": options.look}
        self.left = list(self.rates.get(backend, []))

    def built(self) -> None:
        if not self.left:
            raise EnvError("It cannot draw here.")

    def measure(self, _seconds: float) -> dict[str, float]:
        self.order.append(("measured", self.backend))
        rate = self.left.pop(0)
        if rate < 0:
            raise EnvError("Its process died (SIGSEGV).")
        return {"env_steps_per_s": rate, "of_median_step": rate}

    def stop(self) -> None:
        self.order.append(("stopped", self.backend))


@pytest.fixture
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    Fake.order = []
    monkeypatch.setattr(module, "BackendProcess", Fake)


@pytest.mark.usefixtures("_fake")
def test_backends_take_turns_and_ratios_are_of_the_same_round(capsys: pytest.CaptureFixture[str]) -> None:
    Fake.rates = {"loop": [10.0, 5.0, 10.0], "process": [20.0, 10.0, 30.0], "workers": [30.0, 15.0, 60.0]}
    config = ThroughputConfig(envs=(ORCHARD,), rounds=3, json=True)
    found = env_speed(RlConfig(n_envs=4, size=32), config)
    measured = [name for what, name in Fake.order if what == "measured"]
    assert measured == ["loop", "process", "workers"] * 3
    rows = {row["backend"]: row for row in found["rows"]}
    assert rows["process"]["env_steps_per_s"] == {"median": 20.0, "least": 10.0, "most": 30.0}
    assert rows["process"]["beside_loop"] == 2.0
    assert rows["workers"]["beside_loop"] == 3.0
    assert (rows["process"]["envs"], rows["process"]["observation"]) == (4, "32")
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == found["rows"]
    assert printed["machine"]["cores"] >= 1
    assert "gymnasium" in printed["machine"]["versions"]


@pytest.mark.usefixtures("_fake")
def test_what_fails_is_a_row_that_says_why_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    Fake.rates = {"loop": [10.0, 10.0], "workers": [30.0, -1.0]}
    found = env_speed(RlConfig(), ThroughputConfig(envs=("Nope-v0", ORCHARD), rounds=2))
    rows = {(row["env"], row["backend"]): row for row in found["rows"]}
    assert rows["Nope-v0", "all"]["refused"].startswith("No environment is called 'Nope-v0'")
    assert rows[ORCHARD, "process"]["refused"] == "It cannot draw here."
    assert rows[ORCHARD, "workers"]["refused"] == "Its process died (SIGSEGV)."
    assert rows[ORCHARD, "loop"]["env_steps_per_s"]["median"] == 10.0
    assert "env_steps_per_s" not in rows[ORCHARD, "workers"]
    assert [name for what, name in Fake.order if what == "stopped"] == ["process", "workers", "loop"]
    table = capsys.readouterr().out
    assert "(2) It cannot draw here." in table
    assert "10 .. 10" in table


@pytest.mark.usefixtures("_fake")
def test_a_shift_is_drawn_through_where_a_suite_gives_it() -> None:
    Fake.rates = {"loop": [10.0], "process": [20.0], "workers": [30.0]}
    found = env_speed(RlConfig(shift="noise:0.2"), ThroughputConfig(envs=(ORCHARD,), rounds=1))
    assert {row["look"] for row in found["rows"]} == {"noise of strength 0.2"}
    with pytest.raises(EnvError, match=r"^Nothing was measured: .*Orchard-v0 cannot give the shift 'plain'"):
        env_speed(RlConfig(shift="plain"), ThroughputConfig(envs=(ORCHARD,), rounds=1))


MODULE = """
import os

import gymnasium as gym
import numpy as np


class Deadly(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(9)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action):
        self.steps += 1
        if self.steps > 20:
            os.kill(os.getpid(), 11)
        return np.zeros((16, 16, 3), np.uint8), 0.0, False, False, {}


gym.register("Deadly-v0", Deadly, disable_env_checker=True)
"""


def test_a_process_that_dies_while_it_is_measured_is_a_sentence(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_deadly.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    process = BackendProcess("my_deadly:Deadly-v0", "process", 1, EnvOptions(), 0)
    process.built()
    assert process.facts == {"envs": 1, "observation": "[3, 16, 16]"}
    with pytest.raises(EnvError, match=r"^Its process died \(SIGSEGV\)\.$"):
        process.measure(5.0)
    process.stop()


def test_every_backend_of_orchard_is_measured_and_a_missing_one_is_told() -> None:
    assert backends(ORCHARD) == ["loop", "process", "workers"]
    loop = opened(ORCHARD, "loop", 4, EnvOptions())
    assert isinstance(loop, GymnasiumLoop)
    assert loop.num_envs == 1
    assert loop.reset()[0].shape == (48, 48, 3), "as Gymnasium has it"
    assert speed(loop, 0.01)["env_steps_per_s"] > 0
    with pytest.raises(EnvError, match="'ale' was asked for, and stillsight/Orchard-v0 has none"):
        opened(ORCHARD, "native:ale", 2, EnvOptions())


def test_the_loop_renders_where_an_agent_sees_the_rendering() -> None:
    loop = opened("CartPole-v1", "loop", 1, EnvOptions())
    assert loop.reset()[0].shape == (400, 600, 3)
    for _ in range(60):  # over the end of an episode, which is begun anew
        answer = loop.step([0])
    assert answer[0].shape == (400, 600, 3)


def test_backends_that_step_by_themselves_are_named() -> None:
    pytest.importorskip("ale_py")
    assert backends("ALE/Pong-v5") == ["loop", "process", "workers", "native:ale", "native:envpool"]
    pytest.importorskip("pygame")
    assert backends("CartPole-v1")[-1] == "native:gymnasium"
    with pytest.raises(EnvError, match="cannot begin some episodes alone"):
        opened("CartPole-v1", "native:gymnasium", 2, EnvOptions())


def test_the_rate_counts_every_step_and_that_of_the_median_one_is_told_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    now, steps = [0.0], iter([1.0, 1.0, 1.0, 1.0, 6.0])

    class Slow:
        num_envs = 4
        action_space = opened(ORCHARD, "loop", 1, EnvOptions()).action_space

        def reset(self) -> None:
            now[0] += 1000.0

        def step(self, _actions: Any, /) -> None:
            now[0] += next(steps)

        def has_attr(self, _name: str, /) -> bool:
            return False

        def env_method(self, _name: str, /) -> list[Any]:
            return []

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    assert speed(Slow(), 0.0) == {"env_steps_per_s": 2.0, "of_median_step": 4.0}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--encoder", "retina"], "--encoder has no effect beside --envs, which measures environments alone. Drop"),
        (["--encoders", "retina"], "--encoders has no effect beside --envs"),
        (["--arms", "stock"], "--arms has no effect beside --envs"),
    ],
)
def test_flags_of_a_run_are_refused(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["throughput", "--envs", ORCHARD, *words]) == 2
    assert sentence in capsys.readouterr().err


def test_shifts_are_those_of_the_environments_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert ThroughputConfig(envs=("HalfCheetah-v5",)).concerning(RlConfig(shift="plain")).env == "HalfCheetah-v5"
    assert main(["throughput", "--envs", ORCHARD, "--shift", "camera"]) == 2
    assert "Orchard-v0 cannot give the shift 'camera'" in capsys.readouterr().err
