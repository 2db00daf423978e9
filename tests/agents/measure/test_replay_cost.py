"""`stillsight replay`: what it says of memory is what is taken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from stillsight.agents.buffers import footprint
from stillsight.agents.buffers.replay import FrameReplayBuffer
from stillsight.agents.errors import RunError
from stillsight.agents.measure.measure_config import ReplayConfig
from stillsight.agents.measure.replay_cost import ACTIONS, EPISODE, replay_cost, resident_bytes, stock_bytes
from stillsight.encoders import EncoderError


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The command sets the number of torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_card_says_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    result = replay_cost(ReplayConfig(transitions=3_000, features=8, n_envs=2, batch=16, repeats=5))
    slots, ended = 1_500, 1_500 // (EPISODE + 1)
    # Full to the last slot: an ended episode's last frame and the newest one lead to no transition.
    assert result["transitions_held"] == 2 * (slots - ended - 1)
    bookkeeping = 2 * (8 + 8) + 2 * 4 * 8 * 4  # two positions and one observation of each environment
    assert result["needed_bytes"] == 3_000 * (2 * 8 + 8 + 4 + 4 + 2 + 1) + bookkeeping
    assert 0 < result["sample_ms_median"] <= result["sample_ms_p90"]
    assert result["machine"]["threads"] == 1
    printed = capsys.readouterr().out
    for text in (
        "slot 3,000/3,000",
        "replay memory of 3,000 transitions",
        "8 float16 features, stacks of 4, 2 environments",
        "0.5 GB for pixels (3, 84, 84)",
        f"p90 {result['sample_ms_p90']:.2f} ms over 5",
        f"{result['bytes_per_transition']:,.0f} bytes a transition",
        f"torch {torch.__version__.partition('+')[0]}",
    ):
        assert text in printed


def test_json_is_all_that_stands_on_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    result = replay_cost(ReplayConfig(transitions=500, features=4, repeats=3, json=True, dtype="float32"))
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {**result, "machine": json.loads(json.dumps(result["machine"]))}
    assert "slot 500/500" in printed.err


@pytest.mark.skipif(not resident_bytes(), reason="the system does not say it")
def test_resident_memory_is_what_the_arrays_take() -> None:
    """Each page was touched, and nothing else was kept. In a process of its own: this one has freed memory to reuse."""
    words = ["replay", "--transitions", "40_000", "--repeats", "1", "--json"]
    program = f"from stillsight.agents.cli import main; main({words})"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    result = json.loads(shown)
    assert 0.95 * result["needed_bytes"] < result["resident_bytes"] < 1.25 * result["needed_bytes"]


def test_every_slot_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that was never written costs nothing, and the measurement would flatter."""
    filled: list[FrameReplayBuffer] = []
    sample = FrameReplayBuffer.sample

    def watched(buffer: FrameReplayBuffer, *arguments: Any) -> Any:
        filled.append(buffer)
        return sample(buffer, *arguments)

    monkeypatch.setattr(FrameReplayBuffer, "sample", watched)
    replay_cost(ReplayConfig(transitions=2_500, features=4, frame_stack=3, n_envs=2, repeats=1))
    assert (filled[0].frames != 0).any(axis=-1).all()
    np.random.seed(0)  # SB3's buffers draw from it
    batch = filled[0].sample(400)
    assert batch.observations.dtype == torch.float32
    # Stacks of different frames, so that nothing about sampling is easier than in a run.
    assert (batch.observations[:, 0] != batch.observations[:, 1]).any(dim=-1).float().mean() > 0.99


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize(
    "box",
    [spaces.Box(-np.inf, np.inf, (4, 512), np.float32), spaces.Box(0, 255, (4, 3, 10, 10), np.uint8)],
    ids=["features", "pixels"],
)
def test_what_sb3_would_take_is_what_it_takes(box: spaces.Box, n_envs: int) -> None:
    stock = ReplayBuffer(100, box, spaces.Discrete(ACTIONS), "cpu", n_envs)
    assert stock_bytes(box, 100, n_envs) == sum(a.nbytes for a in vars(stock).values() if isinstance(a, np.ndarray))


def test_a_million_transitions_in_numbers() -> None:
    features = spaces.Box(-np.inf, np.inf, (4, 512), np.float32)
    pixels = spaces.Box(0, 255, (4, 3, 84, 84), np.uint8)
    assert stock_bytes(features, 1_000_000, 1) == 16_404_000_000
    assert stock_bytes(pixels, 1_000_000, 1) == 169_364_000_000


@pytest.mark.parametrize("name", ["transitions", "features", "frame_stack", "n_envs", "batch", "repeats"])
def test_numbers_that_measure_nothing_are_refused(name: str) -> None:
    flag = name.replace("_", "-")
    numbers: dict[str, Any] = {name: 0}
    with pytest.raises(RunError, match=f"--{flag} 0 measures nothing. Type a number from 1."):
        replay_cost(ReplayConfig(**numbers))


def test_no_thread_computes_nothing() -> None:
    with pytest.raises(EncoderError, match="--threads 0 computes nothing"):
        replay_cost(ReplayConfig(threads=0))


def test_a_memory_that_does_not_fit_is_refused_with_the_flags_of_this_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "available_memory", lambda: 500_000_000)
    with pytest.raises(
        RunError, match=r"needs 1.0 GB, and 0.5 GB is free. Type --transitions 383\d{3}, or .*--features"
    ):
        replay_cost(ReplayConfig())
