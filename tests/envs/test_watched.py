"""An environment that hangs ends the wait for it: in this process, in a worker, at a step and at a reset."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import EnvError, EnvOptions, make_env, make_vec
from stillsight.envs.errors import EnvFault
from stillsight.envs.wrappers import watched

MODULE = """
import signal
import time

import gymnasium as gym
import numpy as np


class Sticky(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(9)
    resets = 0

    def __init__(self, resets=10**9, stubborn=False):
        self.most, self.stubborn = resets, stubborn

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets += 1
        if self.resets > self.most:
            self.hang()
        return self.np_random.integers(0, 256, (16, 16, 3), dtype=np.uint8), {}

    def step(self, action):
        if action == 7:
            self.hang()
        return np.zeros((16, 16, 3), np.uint8), 0.0, False, False, {}

    def hang(self):
        if self.stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            try:
                time.sleep(600)
            except Exception:
                if not self.stubborn:
                    raise


gym.register("Sticky-v0", Sticky, disable_env_checker=True)
"""
SECONDS = 0.4


@pytest.fixture
def sticky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "my_sticky.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_sticky:Sticky-v0"
    gym.registry.pop("Sticky-v0", None)
    sys.modules.pop("my_sticky", None)


def test_a_step_that_hangs_in_this_process_is_interrupted_and_named(sticky: str) -> None:
    env = make_env(sticky, EnvOptions(step_timeout=SECONDS))
    env.step(np.int64(1))
    began = time.monotonic()
    with pytest.raises(EnvFault) as caught:
        env.step(np.int64(7))
    assert SECONDS <= time.monotonic() - began < SECONDS + 5
    assert str(caught.value) == (
        "Sticky-v0 hangs: step 2, after the action 7, has not come back for 0.4 seconds. Mend the environment, "
        "or wait longer: --step-timeout 4 (0 waits for ever)."
    )
    env.step(np.int64(1))  # and the next call is another one


def test_a_reset_that_hangs_is_interrupted_and_named(sticky: str) -> None:
    env = make_env(sticky, EnvOptions(step_timeout=SECONDS, kwargs=(("resets", 1),)))
    with pytest.raises(EnvFault, match=r"Sticky-v0 hangs: a reset has not come back for 0\.4 seconds\."):
        env.reset()


def test_time_between_calls_does_not_count(sticky: str) -> None:
    env = make_env(sticky, EnvOptions(step_timeout=SECONDS))
    for _ in range(3):
        env.step(np.int64(1))
        time.sleep(1.5 * SECONDS)


PATIENT = """
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from stillsight.envs import EnvOptions, make_vec

workers = int(sys.argv[1])


class Slow(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(9)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action):
        Path("stepping").touch()
        while not Path("go").exists():
            time.sleep(0.01)
        return np.zeros((16, 16, 3), np.uint8), 1.0, False, False, {}


gym.register("Slow-v0", Slow, disable_env_checker=True)

if __name__ == "__main__":
    venv = make_vec("my_slow:Slow-v0", 1, workers=workers, options=EnvOptions(step_timeout=4.0))
    venv.reset()
    print(*venv.step(np.zeros(1, np.int64))[1])
    venv.close()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped here")
@pytest.mark.parametrize("workers", [0, 1])
def test_time_in_which_the_process_was_stopped_does_not_count(tmp_path: Path, workers: int) -> None:
    """As a scheduler suspends a job, or Ctrl-Z one at a terminal: for longer than the step had left."""
    (tmp_path / "my_slow.py").write_text(PATIENT)
    process = subprocess.Popen(
        [sys.executable, "my_slow.py", str(workers)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (tmp_path / "stepping").exists() and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(5.0)
        os.killpg(process.pid, signal.SIGCONT)
        time.sleep(0.5)  # in which it would have been ended
        (tmp_path / "go").touch()
        shown, said = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, shown) == (0, "1.0\n"), said


class Still:
    """A clock that stands still but for what is slept, and for the seconds by which each sleep is late."""

    def __init__(self, late: list[float]) -> None:
        self.now, self.late = 1_000.0, late

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        if not self.late:
            raise StopIteration
        self.now += seconds + self.late.pop(0)


@pytest.mark.parametrize(
    ("late", "left"),
    [([0.0] * 9, 1.0), ([0.0, 500.0] + [0.0] * 7, 1.0), ([3.0] * 9, 1.0), ([0.0] * 10, 0.0), ([700.0] * 10, 0.0)],
)
def test_a_call_has_its_seconds_however_late_the_clock_is(
    monkeypatch: pytest.MonkeyPatch, late: list[float], left: float
) -> None:
    """Ten seconds, of which each sleep takes one and comes back late."""
    clock = Still(late.copy())
    monkeypatch.setattr(watched, "time", clock)
    dog = watched.Watchdog()
    env = watched.Watched(gym.make("CartPole-v1"), 10.0)
    call = watched.Call(env, 0, clock.now + 10.0, threading.get_ident())
    dog._calls = {id(call): call}
    told: list[watched.Call] = []
    monkeypatch.setattr(dog, "_interrupt", lambda one: bool(told.append(one)) or True)
    with pytest.raises(StopIteration):
        dog._watch()
    assert call.until - clock.now == pytest.approx(left)
    assert told == ([call] if left == 0.0 else [])


def test_a_call_that_began_after_the_pause_has_no_more_than_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Still([500.0])
    monkeypatch.setattr(watched, "time", clock)
    dog = watched.Watchdog()
    env = watched.Watched(gym.make("CartPole-v1"), 10.0)
    slept = clock.sleep

    def sleep(seconds: float) -> None:
        slept(seconds)
        call = watched.Call(env, 0, clock.now + 10.0, threading.get_ident())
        dog._calls = {id(call): call}

    monkeypatch.setattr(clock, "sleep", sleep)
    with pytest.raises(StopIteration):
        dog._watch()
    (call,) = dog._calls.values()
    assert call.until == clock.now + 10.0


class Slow(gym.Env[np.ndarray, int]):
    """Whose steps take longer than the watchdog sleeps, so that it has looked at each of them."""

    def step(self, _: int) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        time.sleep(1.3)
        return np.zeros(1), 0.0, False, False, {}


def test_an_environment_that_was_watched_can_be_freed() -> None:
    """The failure: the watchdog's thread held the last call that it had looked at, and with it a whole game that was
    never freed; ale-py said so on stderr as the process ended."""
    slow = Slow()
    env, freed = watched.Watched(slow, 60.0), weakref.ref(slow)
    env.step(0)
    del env, slow
    gc.collect()
    assert freed() is None


STUBBORN = """
import sys
import numpy as np
from stillsight.envs import EnvOptions, make_env
from stillsight.envs.wrappers import watched

watched.GRACE = 0.5
env = make_env("my_sticky:Sticky-v0", EnvOptions(step_timeout=0.3, kwargs=(("stubborn", True),)))
env.step(np.int64(7))
"""


@pytest.mark.usefixtures("sticky")
def test_one_that_swallows_the_interruption_ends_its_process_with_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(STUBBORN)
    result = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    (said,) = result.stderr.splitlines()
    assert said.startswith("stillsight: Sticky-v0 hangs: step 1, after the action 7, has not come back")
    assert said.endswith("It does not let itself be ended alone: so ends the run.")


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_worker_that_hangs_is_named_and_killed_whatever_it_does(sticky: str, stubborn: bool) -> None:
    venv = make_vec(sticky, 2, workers=2, options=EnvOptions(step_timeout=2.0, kwargs=(("stubborn", stubborn),)))
    processes = [process.pid for process in venv.processes]  # type: ignore[attr-defined]
    venv.reset()
    venv.step(np.array([0, 1]))
    with pytest.raises(EnvFault) as caught:
        venv.step(np.array([0, 7]))
    assert str(caught.value) == (
        "Worker 1 of 2, which plays my_sticky:Sticky-v0, hangs after the action 7, and was ended: it has not answered "
        "for 2 seconds. Mend the environment, or wait longer: --step-timeout 20 (0 waits for ever)."
    )
    venv.close()
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_worker_that_hangs_in_a_reset_is_named(sticky: str) -> None:
    # It is reset once when it is made, a second time here.
    venv = make_vec(sticky, 2, workers=2, options=EnvOptions(step_timeout=2.0, kwargs=(("resets", 1),)))
    with pytest.raises(EnvFault, match=r"Worker 0 of 2, .* hangs after no action yet, and was ended: it has not answ"):
        venv.reset()
    venv.close()


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), 1e9])
def test_a_timeout_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(EnvError, match=r"A step timeout of .* seconds was asked for; it is 0 .*Try --step-timeout 600"):
        EnvOptions(step_timeout=seconds)
