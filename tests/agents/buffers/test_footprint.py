"""What the buffers announce is what they take, and what would not fit is refused before it is taken."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer

from stillsight.agents import EncodedVecEnv, RlConfig, rl
from stillsight.agents.buffers import footprint
from stillsight.agents.buffers.footprint import check_memory, needed_bytes, rollout_bytes, stack_bytes
from stillsight.agents.buffers.replay import FrameReplayBuffer
from stillsight.agents.buffers.rollout import FrameRolloutBuffer
from stillsight.agents.errors import RunError
from stillsight.envs import make_vec
from stillsight.envs.options import EnvOptions

ACTIONS = spaces.Box(-1, 1, (1,), np.float32)


def space(count: int, width: int = 3, pixels: bool = False) -> spaces.Box:
    if pixels:
        return spaces.Box(0, 255, (count, 1, width, 1), np.uint8)
    return spaces.Box(-np.inf, np.inf, (count, width), np.float32)


def taken(buffer: object) -> int:
    return sum(value.nbytes for value in vars(buffer).values() if isinstance(value, np.ndarray))


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("actions", [ACTIONS, spaces.Discrete(3), spaces.Box(-1, 1, (4,), np.float64)], ids=str)
@pytest.mark.parametrize(
    ("box", "dtype"), [(space(4, 16), "float16"), (space(4, 16), "float32"), (space(2, 5, True), "float16")]
)
def test_the_bytes_that_are_announced_are_the_bytes_that_are_taken(
    box: spaces.Box, dtype: str, actions: spaces.Space[Any], n_envs: int
) -> None:
    for size in (1, 7, 100):
        for n_steps in (1, 3):
            buffer = FrameReplayBuffer(size, box, actions, "cpu", n_envs, dtype=dtype, n_steps=n_steps)
            assert needed_bytes(box, size, dtype, actions, n_envs) == taken(buffer)
        rollout = FrameRolloutBuffer(size, box, actions, "cpu", n_envs=n_envs)
        assert rollout_bytes(box, size, actions, n_envs) == taken(rollout)
        stock = RolloutBuffer(size, box, actions, "cpu", n_envs=n_envs)
        assert rollout_bytes(box, size, actions, n_envs, pooled=False) == taken(stock)


def test_memory_is_that_of_the_frames_once() -> None:
    """A million transitions of 512 features and stacks of 4 take 1.04 GB here, and 16.4 GB in SB3's own buffer."""
    box, slots = space(4, width=512), 1_000_000
    assert needed_bytes(box, slots, "float16", spaces.Discrete(6)) == slots * (1024 + 8 + 4 + 4 + 2 + 1) + 16 + 8192
    stock = ReplayBuffer(1000, box, spaces.Discrete(6), "cpu", 1)
    assert taken(stock) == 1000 * (2 * 4 * 512 * 4 + 8 + 3 * 4)


def test_the_table_of_the_readme_is_what_is_taken(root: Path) -> None:
    text = (root / "agents" / "buffers" / "README.md").read_text()
    features, pixels = space(4, 512), spaces.Box(0, 255, (4, 3, 84, 84), np.uint8)
    actions, slots = spaces.Discrete(6), 1_000_000
    for box, dtype in ((features, "float16"), (features, "float32"), (pixels, "float16")):
        kept = "pixels 3 x 84 x 84" if box is pixels else f"512 {dtype} features a frame"
        theirs = taken(ReplayBuffer(100, box, actions, "cpu")) // 100
        line = (
            f"| replay, {kept} | {needed_bytes(box, slots, dtype, actions) // slots:,} bytes a transition | {theirs:,}"
        )
        assert line in text
    ours, theirs = (
        rollout_bytes(features, 128, actions, 8),
        taken(RolloutBuffer(128, features, actions, "cpu", n_envs=8)),
    )
    line = (
        f"| rollout of 128 steps x 8 environments, 512 features a frame | {ours / 1e6:.1f} MB | {theirs / 1e6:.1f} MB |"
    )
    assert line in text


def test_memory_that_does_not_fit_is_refused_with_the_flag_that_fits() -> None:
    with pytest.raises(RunError, match=r"needs 12.7 GB, and 9.1 GB is free. Type --set buffer_size=57322, or take few"):
        check_memory(12_700_000_000, 100_000, 9_100_000_000)
    check_memory(12_700_000_000 * 57_322 // 100_000, 57_322, 9_100_000_000)
    check_memory(8_000_000_000, 100_000, 9_100_000_000)


def test_the_buffer_itself_refuses_before_it_takes_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "available_memory", lambda: 1_000_000)
    monkeypatch.setattr(np, "zeros", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(RunError, match=r"needs 1.0 GB, and 0.0 GB is free. Type --set buffer_size=767, or"):
        FrameReplayBuffer(1_000_000, space(4, 512), spaces.Discrete(6), "cpu")


def test_a_replay_memory_that_its_stacks_alone_make_too_large_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring holds one stack at least: below that, no smaller buffer_size helps."""
    monkeypatch.setattr(footprint, "available_memory", lambda: 1_000_000)
    with pytest.raises(
        RunError, match=r"needs 0.0 GB, and 0.0 GB is free. Type a smaller --frame-stack, or take fewer"
    ):
        FrameReplayBuffer(100, space(1_000, 512), spaces.Discrete(6), "cpu", 2)


def test_a_rollout_that_does_not_fit_is_refused_with_the_number_of_steps_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box, free = space(4, 512), 100_000_000
    monkeypatch.setattr(footprint, "available_memory", lambda: free)
    with monkeypatch.context() as patch:
        patch.setattr(np, "zeros", lambda *_: pytest.fail("memory was taken"))
        # 8 environments x (10,003 frames of 2,048 bytes + 10,000 steps of 16 + 8 + 24).
        with pytest.raises(
            RunError,
            match=r"^The rollout memory needs 0.2 GB, and 0.1 GB is free. Type --set n_steps=4768, or take fewer feat",
        ):
            FrameRolloutBuffer(10_000, box, spaces.Discrete(6), "cpu", n_envs=8)
    assert taken(FrameRolloutBuffer(4_768, box, spaces.Discrete(6), "cpu", n_envs=8)) <= 0.8 * free
    assert rollout_bytes(box, 4_769, spaces.Discrete(6), 8) > 0.8 * free


def test_a_rollout_that_its_first_stacks_make_too_large_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """They bring all of their frames, however short the rollout is."""
    monkeypatch.setattr(footprint, "available_memory", lambda: 10_000_000)
    with pytest.raises(
        RunError, match=r"needs 0.0 GB, and 0.0 GB is free. Type a smaller --frame-stack, or take fewer"
    ):
        FrameRolloutBuffer(16, space(10_000, 512), spaces.Discrete(6), "cpu", n_envs=2)


@pytest.mark.parametrize("count", [1, 5])
def test_the_bytes_of_a_stack_are_those_that_an_environment_takes(count: int) -> None:
    """Of 2 environments: the stacks and what is observed of them, and the bounds of their space."""
    tracemalloc.start()
    try:
        venv = make_vec("stillsight/Orchard-v0", 2, options=EnvOptions(size=64))
        before = tracemalloc.get_traced_memory()[0]
        encoded = EncodedVecEnv(venv, None, 50 * count)
        observed = encoded.reset()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert observed.shape == (2, 50 * count, 3, 64, 64)
    announced = stack_bytes(50 * count, (3, 64, 64), np.dtype(np.uint8), 2)
    assert announced == 50 * count * 3 * 64 * 64 * (2 * 2 + 2 + 2)
    assert 0.9 * announced < held < 1.3 * announced


def test_a_frame_stack_that_does_not_fit_is_refused_with_the_one_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    venv = make_vec("stillsight/Orchard-v0", 2, options=EnvOptions(size=16))
    monkeypatch.setattr(footprint, "available_memory", lambda: 10_000_000)
    with pytest.raises(
        RunError, match=r"^The stack of frames needs 6.1 GB, and 0.0 GB is free. Type --frame-stack 1302, or take fewer"
    ):
        EncodedVecEnv(venv, None, 1_000_000)
    assert EncodedVecEnv(venv, None, 1_302).observation_space.shape == (1_302, 3, 16, 16)


@pytest.mark.usefixtures("settings_restored")
@pytest.mark.parametrize(
    ("algo", "changes", "advice"),
    [
        ("ppo", {"frame_stack": 1_000_000}, "The stack of frames needs .* Type --frame-stack "),
        ("dqn", {"frame_stack": 1_000_000}, "The stack of frames needs .* Type --frame-stack "),
        ("ppo", {"set": ("n_steps=10_000_000",)}, "The rollout memory needs .* Type --set n_steps="),
        ("ppo", {"set": ("n_steps=10_000_000",), "frame_stack": 1}, "The rollout memory needs .* Type --set n_steps="),
        ("recurrent_ppo", {"set": ("n_steps=10_000_000",)}, "The rollout memory needs .* Type --set n_steps="),
        ("dqn", {"set": ("buffer_size=100_000_000",)}, "The replay memory needs .* Type --set buffer_size="),
        (
            "dqn",
            {"set": ("buffer_size=100_000_000", "n_steps=3")},
            "The replay memory needs .* Type --set buffer_size=",
        ),
    ],
)
def test_a_run_says_it_before_it_takes_anything(
    tiny: Callable[..., RlConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algo: str,
    changes: dict[str, Any],
    advice: str,
) -> None:
    monkeypatch.setattr(footprint, "available_memory", lambda: 1_000_000_000)
    with pytest.raises(RunError, match=advice):
        rl(tiny(algo, out=tmp_path / "run", **changes))
