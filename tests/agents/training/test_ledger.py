"""The ledger: what training has taken, of all processes that work for it and over all sessions of a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from stillsight.agents import RlConfig, rl
from stillsight.agents.runs.records import read_lines
from stillsight.agents.training import ledger
from stillsight.agents.training.ledger import AGE, Ledger, Meter
from stillsight.encoders.preprocess import ImageCounter
from stillsight.encoders.system.processor_time import PROC

BURN = """
import sys, time
while time.process_time() < 0.3:
    pass
print(time.process_time(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not (PROC / "self" / "stat").exists(), reason="the system says nothing of other processes")
def test_an_engine_that_is_a_process_of_its_own_is_counted() -> None:
    """The failure it prevents: the CPU seconds of a game whose engine is a process of its own are a third of what it
    takes, and it looks cheaper than one that is played in this process."""
    meter = Meter(Ledger(), ImageCounter())
    with meter.running():
        with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
            assert engine.stdout is not None
            burned = float(engine.stdout.readline())
            meter.settle()
            living = meter.ledger.all_cpu_seconds
            assert living is not None
            assert living >= burned - 0.02, "Linux counts hundredths"
        meter.settle()
    assert meter.ledger.all_cpu_seconds is not None
    assert meter.ledger.all_cpu_seconds >= max(living, burned)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """What the system says that all processes have taken, one after the other."""
    answers: list[float | None] = []
    monkeypatch.setattr(ledger, "processor_seconds", lambda: answers.pop(0))
    return answers


def test_pauses_are_left_out_and_sessions_add_up(told: list[float | None]) -> None:
    told += [0.0, 10.0, 11.0, 15.0, 17.0]
    meter = Meter(Ledger(all_cpu_seconds=100.0), ImageCounter())
    with meter.running(), meter.paused():  # 10, and 11 when it begins
        pass  # until 15
    assert meter.ledger.all_cpu_seconds == 100.0 + (11 - 10) + (17 - 15)
    assert not told


def test_what_a_lost_process_took_is_not_taken_back(told: list[float | None]) -> None:
    told += [0.0, 10.0, 30.0, 25.0, 26.0]
    meter = Meter(Ledger(), ImageCounter())
    with meter.running():
        seen = []
        for _ in range(2):
            meter.settle()
            seen.append(meter.ledger.all_cpu_seconds)
    assert seen == [20.0, 20.0]
    assert meter.ledger.all_cpu_seconds == 21.0


def test_what_was_unknown_for_a_while_stays_unknown(told: list[float | None]) -> None:
    told += [0.0, 10.0, None, 30.0, 40.0]
    meter = Meter(Ledger(), ImageCounter())
    with meter.running():
        meter.settle()
        meter.settle()
    assert meter.ledger.all_cpu_seconds is None
    assert meter.ledger.seconds > 0


def test_other_processes_are_not_asked_for_at_every_rollout(
    told: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To ask takes milliseconds, and the rollouts of some algorithms take no more."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(ledger, "alone", lambda: False)
    told += [0.0, 1.0, 2.0, 4.0]
    meter = Meter(Ledger(), ImageCounter())
    with meter.running():
        clock[0] = AGE / 2
        meter.settle(hurried=True)
        assert (meter.ledger.seconds, meter.ledger.all_cpu_seconds) == (AGE / 2, 0.0)
        clock[0] = AGE
        meter.settle(hurried=True)
        assert (meter.ledger.seconds, meter.ledger.all_cpu_seconds) == (AGE, 1.0)
    assert (meter.ledger.seconds, meter.ledger.all_cpu_seconds) == (AGE, 3.0)


def test_a_run_from_before_all_were_counted_does_not_know() -> None:
    stored = asdict(Ledger(images=7, seconds=3.0, all_cpu_seconds=2.0, best=1.5, encoder_sha256="0"))
    assert Ledger.restored(stored) == Ledger(7, 3.0, 2.0, 1.5, "0")
    del stored["all_cpu_seconds"]
    assert Ledger.restored(stored | {"cpu_seconds": 2.0}) == Ledger(7, 3.0, None, 1.5, "0")


@pytest.mark.skipif(not (PROC / "self" / "stat").exists(), reason="the system says nothing of other processes")
def test_workers_are_counted_too(tiny: Callable[..., RlConfig], tmp_path: Path) -> None:
    config = tiny("ppo", steps=64, n_envs=2, workers="on", eval_every=32, out=tmp_path / "run")
    summary: dict[str, Any] = rl(config)
    assert summary["vec_env"] != "DummyVecEnv"
    spent = [row["train_cpu_seconds"] for row in read_lines(tmp_path / "run" / "eval.jsonl")]
    assert len(spent) >= 2
    assert 0 < spent[0] <= spent[-1] <= summary["cpu_seconds"]
