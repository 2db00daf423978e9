"""Sizes that no machine has are refused in a sentence, before any memory is taken."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from stillsight.agents.cli import main

HUGE = 10**12
SMALL = "--mode random --steps 64 --size 16 --pooling grid2 --eval-episodes 1 --device cpu"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--head 1000000000", r"The head needs [\d.]+ GB, and [\d.]+ GB is free. Type --head "),
        ("--compress 1000000000", "The head needs "),
        ("--head 100000000 --algo recurrent_ppo --n-envs 2", "does not fit|needs"),
        ("--frame-stack 1000000", "The stack of frames needs "),
        ("--standardise 1000000000", r"The first look needs .* Type --standardise "),
        ("--n-envs 1000000", "--n-envs 1,000,000 asks for more games"),
        ("--eval-envs 1000000", "--eval-envs 1,000,000 asks for more games"),
        (f"--frame-stack 1 --set n_steps={HUGE}", "The rollout memory needs .* Type --set n_steps="),
        (f"--frame-stack 4 --set n_steps={HUGE}", "The rollout memory needs .* Type --set n_steps="),
        (
            f"--algo recurrent_ppo --frame-stack 4 --set n_steps={HUGE}",
            "The rollout memory needs .* Type --set n_steps=",
        ),
        (f"--algo dqn --set buffer_size={HUGE}", "The replay memory needs .* Type --set buffer_size="),
        (f"--algo dqn --set batch_size={HUGE}", "The batch of transitions needs .* Type --set batch_size="),
        (f"--algo qrdqn --set batch_size={HUGE}", "The batch of transitions needs .* Type --set batch_size="),
        (f"--algo dqn --set buffer_size={HUGE} n_steps=3", "The replay memory needs .* Type --set buffer_size="),
    ],
)
def test_a_size_that_no_machine_has_is_a_sentence(
    words: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["rl", *SMALL.split(), *words.split(), "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(sentence, line), line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kilobytes"
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_without_a_word_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stable_baselines3 import PPO

    def full(_: PPO) -> None:
        raise MemoryError  # as Python itself raises it

    monkeypatch.setattr(PPO, "_setup_model", full)
    assert main(["rl", *SMALL.split(), "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "The model does not fit into the memory of this machine (MemoryError). Type a smaller --head" in line


def test_stacks_longer_than_a_short_number_keep_their_ages() -> None:
    import numpy as np
    from gymnasium import spaces

    from stillsight.agents.buffers.footprint import replay_layout

    long, short = (spaces.Box(0, 255, (count, 1), np.uint8) for count in (40_000, 32_767))
    assert replay_layout(long, 10, "float16")["ages"][1] == np.int32
    assert replay_layout(short, 10, "float16")["ages"][1] == np.int16
