"""Every row that is installed here keeps the contract of envs/README.md: the same questions for each.

`pytest -m slow tests/envs/suites/test_contract.py -k crafter` asks those of one suite; the quick ones are always asked.
"""

from __future__ import annotations

import multiprocessing
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from stable_baselines3.common import env_checker
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from stillsight.envs import ROWS, EnvSpec, make_env, make_vec
from stillsight.envs.registry import guessed_from_name
from stillsight.envs.wrappers.actions import kind

QUICK = {
    *("stillsight/Orchard-v0", "stillsight/OrchardContinuous-v0", "CartPole-v1", "ALE/Pong-v5", "VizdoomBasic-v1"),
    *("MiniGrid-DoorKey-5x5-v0", "BabyAI-GoToRedBall-v0"),
}
SIZES = {
    "Orchard": (48, 48),
    "CarRacing": (96, 96),
    "MiniGrid": (56, 56),
    "MiniWorld": (60, 80),
    "highway-env": (128, 128),
    **dict.fromkeys(("highway-fast-v0", "highway-v0", "merge-v1", "exit-v1"), (64, 128)),
}
"""Height and width of rows that are shown as they are."""
STEPS = 6


@pytest.fixture(
    params=[pytest.param(row, marks=() if name in QUICK else pytest.mark.slow) for name, row in ROWS.items()],
    ids=lambda row: row.id,
)
def row(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EnvSpec:
    """A row whose packages are here."""
    spec: EnvSpec = request.param
    if missing := [module for module in spec.needs if find_spec(module) is None]:
        pytest.skip(f"{spec.id} needs {missing} (extra {spec.extra})")
    monkeypatch.chdir(tmp_path)  # vizdoom leaves an empty folder where it runs
    return spec


@dataclass
class Played:
    """The beginning of an episode: up to `STEPS` steps."""

    frames: NDArray[np.uint8]
    rewards: list[float]
    ended: bool
    truncated: bool
    total: float | None


def actions_of(space: gym.Space[Any]) -> list[Any]:
    """`STEPS` actions, the same ones for each space alike."""
    space.seed(11)
    return [space.sample() for _ in range(STEPS)]


def alone(row: EnvSpec, seed: int, *, training: bool = False) -> Played:
    """Played in this process, with a clock of `STEPS` steps."""
    env = make_env(row.id, row.options.merge(max_episode_steps=STEPS), training=training, seed=seed)
    frames, rewards = [env.reset(seed=seed)[0]], []
    for action in actions_of(env.action_space):
        frame, reward, terminated, truncated, info = env.step(np.asarray(action))
        frames.append(frame)
        rewards.append(float(reward))
        if terminated or truncated:
            break
    assert not (terminated and truncated), "an end is one or the other"
    total = info["episode"]["r"] if "episode" in info else None
    env.close()
    return Played(np.stack(frames), rewards, bool(terminated), bool(truncated), total)


def in_a_worker(row: EnvSpec, seed: int) -> Played:
    """The same play in a process of its own, in training."""
    venv = make_vec(row.id, 1, seed=seed, options=row.options.merge(max_episode_steps=STEPS), workers=1, native=False)
    try:
        frames, rewards = [np.asarray(venv.reset())[0]], []
        for action in actions_of(venv.action_space):
            after, reward, dones, infos = venv.step(np.asarray([action]))
            frames.append(infos[0]["terminal_observation"] if dones[0] else np.asarray(after)[0])
            rewards.append(float(reward[0]))
            if dones[0]:
                break
        cut = bool(infos[0].get("TimeLimit.truncated", False))
        return Played(np.stack(frames), rewards, not cut, cut, infos[0]["episode"]["r"])
    finally:
        venv.close()


def children() -> set[str]:
    """Ids of the processes that this one started and that live, as the system has them."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return {str(process.pid) for process in multiprocessing.active_children()}
    return {pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()}


def test_gymnasium_and_sb3_find_no_fault(row: EnvSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(row.id, seed=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is wrapped; faults are raised
            check_env(env, skip_render_check=True, skip_close_check=True)
            if hasattr(env.unwrapped, "compute_reward"):
                # SB3 tells environments with goals by that method of the bare one, and asks for their Dict, where an
                # agent here sees pixels. It names this false positive itself; all its other questions are asked.
                with pytest.raises(AssertionError, match="avoid False positive"):
                    check_env_for_sb3(env, warn=False, skip_render_check=True)
                monkeypatch.setattr(env_checker, "_is_goal_env", lambda _: False)
            check_env_for_sb3(env, warn=False, skip_render_check=True)
        suite = guessed_from_name(row.id)
        side = row.options.size
        height, width = (side, side) if side else SIZES.get(row.id, SIZES.get(suite.name))  # type: ignore[misc]
        assert env.observation_space == gym.spaces.Box(0, 255, (3, height, width), np.uint8)
        assert kind(env.action_space) == row.actions
        seen = env.get_wrapper_attr("seen")
        assert (seen.size, str(seen).count("pixels")) == ((height, width), str(seen).count("pixels") or 1)
        frame = env.reset(seed=1)[0]
        assert frame.std() > 0, "a blank picture"
        film: Any = env.render()
        assert (film.dtype, film.ndim, film.shape[2]) == (np.uint8, 3, 3)
        assert film.std() > 0
        assert row.summary
        assert (row.extra is None) == (row.needs == ())
    finally:
        env.close()


def test_one_seed_gives_one_game_here_and_in_a_worker_which_ends_with_it(row: EnvSpec) -> None:
    before = children()
    first, again, there = alone(row, 5), alone(row, 5), in_a_worker(row, 5)
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.frames, there.frames)
    assert first.rewards == again.rewards
    helpers = {"forkserver", "resource_tracker"}  # Python's own, of which there is one of each, and which stay
    left = children() - before
    named = {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in left}
    assert [words for words in named.values() if not any(helper in words for helper in helpers)] == []


def test_a_clock_truncates_and_returns_are_those_of_the_game(row: EnvSpec) -> None:
    shown, learned, there = alone(row, 7), alone(row, 7, training=True), in_a_worker(row, 7)
    assert shown.total is not None
    assert shown.total == pytest.approx(sum(shown.rewards), abs=1e-5)
    assert learned.total == pytest.approx(shown.total, abs=1e-5), "the true return, whatever is learned from"
    assert there.total == pytest.approx(shown.total, abs=1e-5)
    if len(shown.rewards) == STEPS and not shown.ended:
        assert shown.truncated
        assert there.truncated
    assert (there.ended, there.truncated) == (shown.ended, shown.truncated)
    np.testing.assert_array_equal(there.frames[-1], shown.frames[-1])
