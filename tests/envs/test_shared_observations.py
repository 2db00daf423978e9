"""What workers write is what this process reads, and no memory is left behind, whoever ends first."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_world import Drawn, drawn_space
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from stillsight.envs import EnvError, EnvOptions, make_vec
from stillsight.envs.errors import EnvFault
from stillsight.envs.vectorised.shared_observations import SharedObservations
from stillsight.envs.vectorised.worker_vec_env import WorkerVecEnv

ROBOT = "robot_world:Robot-v0"
NUMBERED = st.integers(0, 2**32)


def equal(one: Any, other: Any) -> None:
    """The same arrays, to the bit and the dtype."""
    if isinstance(other, dict):
        assert set(one) == set(other)  # an environment may give them in another order than its space
        for key in other:
            equal(one[key], other[key])
        return
    one, other = np.asarray(one), np.asarray(other)
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    assert one.tobytes() == other.tobytes()


def together(workers: VecEnv, plain: VecEnv, steps: int, seed: int) -> int:
    """Step both alike, assert that all they say is equal, and return how many episodes ended."""
    rng, ended = np.random.default_rng(seed), 0
    workers.seed(seed)
    plain.seed(seed)
    kept = workers.reset()
    first = pickle.loads(pickle.dumps(kept))
    equal(kept, plain.reset())
    for _ in range(steps):
        actions = rng.integers(0, 3, workers.num_envs)
        shown, rewards, dones, infos = workers.step(actions)
        expected = plain.step(actions)
        equal(shown, expected[0])
        equal(rewards.astype(np.float32), expected[1])
        equal(dones, expected[2])
        for info, other in zip(infos, expected[3], strict=True):
            assert set(info) == set(other)
            assert info["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            if "terminal_observation" in other:
                equal(info["terminal_observation"], other["terminal_observation"])
                ended += 1
        assert [info.get("begun") for info in workers.reset_infos] == [i.get("begun") for i in plain.reset_infos]
    equal(kept, first)  # what was given is the caller's, and later steps do not change it
    return ended


@given(NUMBERED, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_another_holder_of_the_memory_reads_what_one_writes(number: int, n_envs: int) -> None:
    space = drawn_space(number)
    ours = SharedObservations(space, n_envs)
    theirs: SharedObservations = pickle.loads(pickle.dumps(ours))
    space.seed(number)
    now, last = [space.sample() for _ in range(n_envs)], [space.sample() for _ in range(n_envs)]
    for i in range(n_envs):
        theirs.write(i, last[i], last=True)
        theirs.write(i, now[i])
    read = ours.read()
    for i in range(n_envs):
        equal({key: part[i] for key, part in read.items()} if isinstance(space, spaces.Dict) else read[i], now[i])
        equal(ours.read_last(i), last[i])
    ours.close()
    theirs.close()


@given(NUMBERED)
@settings(max_examples=3, deadline=None, derandomize=True)
def test_workers_show_any_dict_of_boxes_as_one_process_does(number: int) -> None:
    makers = [partial(Drawn, number), partial(Drawn, number)]
    workers, plain = WorkerVecEnv("Drawn-v0", makers, space=drawn_space(number)), DummyVecEnv(list(makers))
    assert together(workers, plain, 40, seed=number % 1000) > 3
    workers.close()


def test_cameras_and_joints_of_workers_are_those_of_one_process() -> None:
    options = EnvOptions(pixels=("image", "wrist"), state=("on",), step_timeout=60.0)
    workers, plain = (make_vec(ROBOT, 2, options=options, workers=count) for count in (2, 0))
    assert together(workers, plain, 40, seed=4) > 3
    workers.close()


@pytest.mark.parametrize(
    ("space", "fits"),
    [
        (spaces.Box(0, 1, (3,), np.float32), True),
        (spaces.Dict(a=spaces.Box(0, 255, (2, 2), np.uint8)), True),
        (spaces.Dict(a=spaces.Box(0, 1, (3,)), b=spaces.Discrete(3)), False),
        (spaces.Discrete(3), False),
        (spaces.Dict(a=spaces.Dict(b=spaces.Box(0, 1, (3,)))), False),
    ],
)
def test_what_is_not_made_of_arrays_goes_through_pipes(space: spaces.Space[Any], fits: bool) -> None:
    assert SharedObservations.fits(space) is fits


def test_frames_do_not_go_through_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    venv = make_vec("stillsight/Orchard-v0", 2, options=EnvOptions(size=256, max_episode_steps=2), workers=2)
    assert isinstance(venv, WorkerVecEnv)
    venv.reset()
    for _ in range(2):
        venv.step_async(np.zeros(2, int))
        received = [remote.recv_bytes() for remote in venv.remotes]
        assert max(map(len, received)) < 3_000, "an image has 196 608 bytes, and the last of an episode is one more"
        for remote, answer in zip(venv.remotes, received, strict=True):
            monkeypatch.setattr(remote, "recv", partial(pickle.loads, answer), raising=False)
        _, _, dones, infos = venv.step_wait()
        monkeypatch.undo()
    assert dones.all()
    assert infos[0]["terminal_observation"].shape == (3, 256, 256)
    venv.close()


def test_without_memory_of_the_kind_they_go_through_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stillsight.envs.vectorised.shared_observations._unnamed", refuse)
    workers, plain = make_vec("stillsight/Orchard-v0", 1, workers=1), make_vec("stillsight/Orchard-v0", 1)
    together(workers, plain, 10, seed=3)
    workers.close()


def held() -> int:
    """Blocks of memory like ours that this process has in its address space, and files to them."""
    maps = Path("/proc/self/maps").read_text().count("memfd:stillsight")
    links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _there(name)]
    return maps + sum("memfd:stillsight" in link for link in links)


def named() -> list[str]:
    """Blocks of memory with a name, but for ViZDoom's, which another test may play at this moment."""
    return sorted(name for name in os.listdir("/dev/shm") if not name.startswith("ViZDoom"))


def _there(name: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{name}")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("end", ["closed", "killed", "cannot be made", "forgotten"])
def test_nothing_is_held_afterwards(end: str) -> None:
    gc.collect()
    before, files = held(), named()
    if end == "cannot be made":
        with pytest.raises(EnvError, match=r"in one it observes Dict\('part 0': .*, in another process Dict\('other'"):
            WorkerVecEnv("Drawn-v0", [partial(Drawn, 3)], space=spaces.Dict(other=spaces.Box(0, 1, (3,))))
    else:
        venv = make_vec("stillsight/Orchard-v0", 1, workers=1)
        venv.reset()
        assert held() == before + 2, "the memory, and the file by which Python's mmap holds it"
        assert named() == files, "it has no name that could stay"
        if end == "killed":
            os.kill(venv.processes[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
            with pytest.raises(EnvFault, match="SIGKILL"):
                venv.step(np.array([1]))
        if end != "forgotten":
            venv.close()
        else:
            for process in venv.processes:  # type: ignore[attr-defined]
                process.kill()
                process.join()
        del venv
    gc.collect()
    assert held() == before
    assert named() == files
