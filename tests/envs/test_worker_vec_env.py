"""What goes wrong in a worker process is said on this side: what, where, after which action."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from stillsight.envs import EnvError, make_vec
from stillsight.envs.errors import EnvFault

MODULE = """
import os

import gymnasium as gym
import numpy as np


class Fragile(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(9)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if getattr(self, "over", False):
            raise LookupError("no second game")
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action):
        if action == 3:
            os._exit(7)
        if action == 4:
            raise ZeroDivisionError("four")
        self.over = action == 5
        return np.zeros((16, 16, 3), np.uint8), float("nan" if action == 6 else 0), self.over, False, {}


gym.register("Fragile-v0", Fragile, disable_env_checker=True)
"""


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "my_fragile.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_fragile:Fragile-v0"
    gym.registry.pop("Fragile-v0", None)
    sys.modules.pop("my_fragile", None)


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (3, r"Worker 1 of 2, which plays my_fragile:Fragile-v0, died with exit code 7 after the action 3\."),
        (4, "my_fragile:Fragile-v0 raised an error in worker 1 after the action 4: ZeroDivisionError: four"),
        (5, "my_fragile:Fragile-v0 raised an error in worker 1 after the action 5: LookupError: no second game"),
        (6, r"Fragile-v0 broke its word in step 2 \(step 2 of its episode, after action 6\): its reward is nan"),
    ],
    ids=["dies", "raises", "raises at a reset", "breaks its word"],
)
def test_what_ends_a_worker_is_a_sentence(fragile: str, action: int, sentence: str) -> None:
    venv = make_vec(fragile, 2, workers=2)
    venv.reset()
    venv.step(np.array([0, 1]))
    with pytest.raises(EnvFault, match=sentence) as caught:
        venv.step(np.array([0, action]))
    notes = "".join(getattr(caught.value, "__notes__", ()))
    assert ("my_fragile.py" in notes) == (action in (4, 5)), "a bug keeps its traceback, as a note"
    venv.close()
    venv.close()


def test_a_worker_that_was_killed_is_named_with_the_signal() -> None:
    venv = make_vec("stillsight/Orchard-v0", 2, workers=2)
    venv.reset()
    venv.step(np.array([0, 2]))
    os.kill(venv.processes[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
    sentence = r"Worker 0 of 2, which plays stillsight/Orchard-v0, died with exit code -9 \(SIGKILL: .*\) after the"
    with pytest.raises(EnvFault, match=sentence):
        venv.step(np.array([1, 2]))
    venv.close()


FORKED = """
import sys

import cv2
import gymnasium as gym
import numpy as np
import torch

from stillsight.envs.vectorised.worker_vec_env import WorkerVecEnv


class Computes(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(4), {}

    def step(self, action):
        ones = np.ones((400, 400))
        numbers = [
            (ones @ ones).sum(),
            float((torch.ones(400, 400) @ torch.ones(400, 400)).sum()),
            cv2.resize(np.ones((300, 300, 3)), (100, 100)).sum() + cv2.invert(np.eye(200))[0],
            np.random.random(),
        ]
        maps = open("/proc/self/smaps_rollup").read() if sys.platform == "linux" else ""
        own = sum(int(line.split()[1]) for line in maps.splitlines() if line.startswith("Private_"))
        return np.array(numbers), 0.0, False, False, {"own": own, "path": sys.path}


if __name__ == "__main__":
    venv = WorkerVecEnv("Computes", [Computes] * 3)
    venv.reset()
    numbers, _, _, infos = venv.step(np.zeros(3))
    assert (numbers[:, :2] == 400**3).all() and (numbers[:, 2] == 30_001).all(), numbers
    assert len({*numbers[:, 3]}) == 3, "workers drew the same numbers"
    assert all(info["path"] == sys.path for info in infos)
    venv.close()
    print(max(info["own"] for info in infos) // 1024)
"""


def test_workers_share_what_they_import_and_no_random_numbers(tmp_path: Path) -> None:
    """numpy's, torch's and OpenCV's threads live on in none of them, and nothing of the current folder is imported."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "forked.py").write_text(FORKED)
    for name in ("torch", "numpy", "cv2"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the current folder')")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "elsewhere" / "forked.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    if sys.platform == "linux":
        assert int(done.stdout) < 150, "megabytes of a worker's own; one that imports torch itself has more than 200"


KILLED = """
import os
import sys
import time

import gymnasium as gym
import numpy as np

from stillsight.envs.vectorised.worker_vec_env import WorkerVecEnv


class Endless(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        if sys.argv[1] == "making":
            print(os.getpid(), flush=True)
            time.sleep(3)

    def reset(self, *, seed=None, options=None):
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action):
        time.sleep(600)


if __name__ == "__main__":
    venv = WorkerVecEnv("Endless-v0", [Endless, Endless], space=Endless.observation_space)
    venv.reset()
    venv.step_async(np.array([0, 1]))
    print(*(process.pid for process in venv.processes), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
@pytest.mark.parametrize("moment", ["making", "stepping"])
def test_workers_end_with_a_process_that_is_killed(tmp_path: Path, moment: str) -> None:
    """SIGKILL tells nobody: a worker whose environment hangs would stay for ever, another one shows a traceback."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert pids
        if moment == "stepping" and sys.platform == "linux":
            assert all("memfd:stillsight" in Path(f"/proc/{pid}/maps").read_text() for pid in pids)
        named = sorted(os.listdir("/dev/shm")) if sys.platform == "linux" else []
        process.kill()
        shown = process.stderr.read()  # until the last process that could write there has ended
    assert not [pid for pid in pids if _runs(pid)]
    assert "Traceback" not in shown
    assert "resource_tracker" not in shown
    if sys.platform == "linux":  # the memory went with the last process that had it
        assert not set(os.listdir("/dev/shm")) - set(named)


def _runs(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


SCRIPT = """
import gymnasium as gym
import numpy as np

from stillsight.envs import EnvOptions, make_vec, workers
from stillsight.envs.errors import EnvError


class Mine(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action):
        return np.zeros((16, 16, 3), np.uint8), 0.0, False, False, {}


def main():
    workers.LIGHT, workers.SECONDS, workers.os.cpu_count = 0.0, 0.01, lambda: 2
    gym.register("Mine-v0", Mine, disable_env_checker=True)
    for _ in range(2):
        print("pays:", workers.workers_pay("Mine-v0", 2, EnvOptions()))
    try:
        make_vec("Mine-v0", 2, workers=2)
    except EnvError as error:
        print("refused:", error)


GUARD
"""


@pytest.mark.parametrize("guard", ["if __name__ == '__main__':\n    main()", "main()"], ids=["guarded", "unguarded"])
def test_a_trial_that_fails_means_that_workers_do_not_pay_and_is_said_once(tmp_path: Path, guard: str) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT).replace("GUARD", guard))
    result = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("pays: False") == 2
    assert "refused: Worker processes cannot make Mine-v0 (" in result.stdout
    assert "--workers off" in result.stdout
    said = [line for line in result.stderr.splitlines() if line.startswith("stillsight:")]
    assert len(said) == 1
    assert said[0].startswith("stillsight: Mine-v0 is stepped in one process. Worker processes cannot make Mine-v0 (")
    if "__name__" in guard:
        assert "No environment is called 'Mine-v0'" in said[0]
        assert "Traceback" not in result.stderr


GLOBALS = """
import os
import random

import gymnasium as gym
import numpy as np
import torch


class Globals(gym.Env):
    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action):
        drawn = np.random.random(), random.random(), torch.rand(1).item()
        return np.zeros((16, 16, 3), np.uint8), 0.0, False, False, {"drawn": drawn, "level": os.environ.get("LEVEL")}


gym.register("Globals-v0", Globals, disable_env_checker=True)
"""


@pytest.fixture
def of_globals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[dict[str, Any]]]]:
    """Gives what two workers say in their first step."""
    (tmp_path / "my_globals.py").write_text(GLOBALS)
    monkeypatch.syspath_prepend(str(tmp_path))

    def infos(seed: int) -> list[dict[str, Any]]:
        with closing(make_vec("my_globals:Globals-v0", 2, seed=seed, workers=2)) as venv:
            venv.reset()
            return venv.step(np.zeros(2, np.int64))[3]

    yield infos
    gym.registry.pop("Globals-v0", None)
    sys.modules.pop("my_globals", None)


def test_generators_that_all_share_are_seeded_by_the_copy(of_globals: Callable[[int], list[dict[str, Any]]]) -> None:
    runs = [[info["drawn"] for info in of_globals(seed)] for seed in (3, 3, 4)]
    assert runs[0] == runs[1], "numpy's, Python's and torch's"
    assert runs[0][1] == runs[2][0], "copy i is the environment of seed + i"
    assert all(len(set(column)) == 2 for column in zip(*runs[0], strict=True)), "copies draw for themselves"


def test_workers_have_the_environment_variables_of_now(
    of_globals: Callable[[int], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = []
    for level in ("6", "7", None):  # the server of processes has those of the first time
        monkeypatch.delenv("LEVEL", raising=False)
        if level is not None:
            monkeypatch.setenv("LEVEL", level)
        levels.append([info["level"] for info in of_globals(0)])
    assert levels == [["6"] * 2, ["7"] * 2, [None] * 2]


def test_a_worker_in_which_a_mistake_shows_is_refused_in_its_words(
    fragile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_vec(fragile).close()
    monkeypatch.setattr(sys, "path", [each for each in sys.path if "pytest-of" not in each])  # what workers are given
    with pytest.raises(EnvError, match=r"Worker processes cannot make my_fragile:Fragile-v0 \(EnvError: The module"):
        make_vec(fragile, 2, workers=2)
